//! Reads `/proc` and signals processes: who is alive, who carries a mark; shared by what starts programs.
#![expect(clippy::disallowed_methods, reason = "this module reads /proc")]

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use serde::{Deserialize, Serialize};

/// One process, for as long as the host is up: a process id alone is given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// Names the process that has this id now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        started(pid).map(|started| Self { pid, started })
    }

    /// Tells whether it is there and does more than wait to be reaped.
    pub(crate) fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Tells when a process started, in clock ticks since boot; none when it is gone or only waits to be reaped.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Field 22 of proc(5); the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// Names this boot of the host; empty when the kernel does not tell.
pub(crate) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Finds the living processes that were started with the mark `NAME=VALUE` in their environment, and their children.
///
/// A process that changed its user or cleared its environment is not found, and neither is one that is on its way out:
/// it has no environment any more, but may still hold a port. Who waits for an end keeps whom it has seen.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let carries = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(carries).filter_map(Process::of).collect()
}

/// Names the group of a process; none when it is gone.
pub(crate) fn group(process: u32) -> Option<u32> {
    getpgid(Some(pid(process).ok()?)).ok().and_then(|group| u32::try_from(group.as_raw()).ok())
}

/// Sends a signal to a process group; that it is gone is well.
pub(crate) fn signal_group(leader: u32, signal: Signal) -> Result<(), Errno> {
    gone_is_well(killpg(pid(leader)?, signal))
}

/// Sends a signal to a process; that it is gone is well.
pub(crate) fn signal(process: u32, with: Signal) -> Result<(), Errno> {
    gone_is_well(kill(pid(process)?, with))
}

fn pid(number: u32) -> Result<Pid, Errno> {
    // 0 and 1 would mean the agent's own group and the whole host.
    i32::try_from(number).ok().filter(|pid| *pid > 1).map(Pid::from_raw).ok_or(Errno::ESRCH)
}

fn gone_is_well(sent: nix::Result<()>) -> Result<(), Errno> {
    match sent {
        Err(Errno::ESRCH) => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_the_unused_one_does_not() {
        assert!(started(std::process::id()).is_some());
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn everybody_is_never_signalled() {
        assert_eq!(signal_group(0, Signal::SIGTERM), Err(Errno::ESRCH));
        assert_eq!(signal(1, Signal::SIGTERM), Err(Errno::ESRCH));
    }
}
