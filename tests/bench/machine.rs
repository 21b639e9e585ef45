//! Describes the machine that a run was made on, so that its figures can be read by somebody else.
#![expect(clippy::disallowed_methods, reason = "the machine is described by its files and tools")]

use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpus: String,
    pub(crate) memory: String,
    pub(crate) file_system: String,
    pub(crate) systemd: String,
    /// The load averages before the first figure.
    pub(crate) load_before: String,
}

impl Machine {
    /// Looks at this machine; the file system is that of the directory in which files are measured.
    pub(crate) fn look(work: &Path) -> Self {
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpus: cpus(),
            memory: memory(),
            file_system: file_system(work),
            systemd: first_line("systemctl", "--version"),
            load_before: load(),
        }
    }
}

/// The load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first line that a tool prints about itself; says so when there is no such tool.
pub(crate) fn first_line(tool: &str, argument: &str) -> String {
    let Ok(output) = Command::new(tool).arg(argument).output() else { return format!("no {tool}") };
    // `ssh -V` speaks on its standard error.
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn cpus() -> String {
    let all = read("/proc/cpuinfo");
    let named: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("model name")?.split(':').nth(1)).collect();
    format!("{} × {}", named.len(), named.first().copied().unwrap_or(" unknown").trim())
}

fn memory() -> String {
    let all = read("/proc/meminfo");
    let total = all.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.map_or_else(String::new, |kib: u64| format!("{} MiB", kib / 1024))
}

/// The type of the file system that a directory lies on: that of the longest mount point above it.
fn file_system(work: &Path) -> String {
    let mounts = read("/proc/self/mounts");
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| work.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    mount.map_or_else(String::new, |(point, kind)| format!("{kind} at {point}"))
}
