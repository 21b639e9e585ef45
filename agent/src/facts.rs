//! Facts about processes, for evidence: what a failed release used when it was left.

use rollback::model::text::sanitize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::ports::{Facts, Used};

/// Bytes taken of a process's name: the kernel keeps 15, a thread library may say more.
const NAME_BYTES_MAX: usize = 64;
const MIB: u64 = 1024 * 1024;

/// The facts that the kernel of this host tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFacts;

impl Facts for HostFacts {
    fn process(&self, pid: u32) -> Option<String> {
        let pid = Pid::from_u32(pid);
        let mut system = System::new().ok()?;
        let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu().with_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
        let process = system.process(pid)?;
        let name = sanitize(process.name().as_encoded_bytes(), NAME_BYTES_MAX).replace('\n', " ");
        // The main thread is a task of its own, which the list leaves out.
        let threads = process.tasks().map_or(0, std::collections::HashSet::len) + 1;
        let memory = process.memory() / MIB;
        let (cpu_ms, up_secs) = (process.accumulated_cpu_time(), process.run_time());
        let plural = if threads == 1 { "" } else { "s" };
        Some(format!("{name} pid {pid}: {memory} MiB, {threads} thread{plural}, {cpu_ms} ms of CPU, up {up_secs} s"))
    }

    fn used(&self, pids: &[u32]) -> Vec<Used> {
        let Ok(mut system) = System::new() else { return Vec::new() };
        let pids: Vec<Pid> = pids.iter().copied().map(Pid::from_u32).collect();
        let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, wanted);
        let used = system.processes().values().filter(|process| pids.contains(&process.pid()));
        used.map(|process| Used {
            pid: process.pid().as_u32(),
            started_at: process.start_time(),
            memory_bytes: process.memory(),
            cpu_ms: process.accumulated_cpu_time(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_process_is_described_and_unused_one_is_not() {
        let line = HostFacts.process(std::process::id()).expect("this process lives");
        assert!(line.contains(&format!("pid {}: ", std::process::id())) && line.contains(" MiB, "), "{line}");
        assert!(!line.contains(" 0 MiB"), "{line}");
        assert_eq!(HostFacts.process(u32::MAX - 1), None);
    }

    #[test]
    fn what_living_processes_use_is_told_once_each() {
        let own = std::process::id();
        let used = HostFacts.used(&[own, u32::MAX - 1]);
        assert_eq!(used.iter().map(|process| process.pid).collect::<Vec<_>>(), [own]);
        assert!(used[0].memory_bytes > 0 && used[0].started_at > 0, "{used:?}");
    }
}
