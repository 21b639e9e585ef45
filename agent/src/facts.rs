//! Facts about processes, for evidence: what a failed release used when it was left.

use rollback::model::text::sanitize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::ports::Facts;

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
}
