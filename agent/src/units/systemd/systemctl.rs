//! `systemctl` as the second way to the manager: for root it speaks to PID 1 itself and needs no bus daemon.
//!
//! (No library does: PID 1 signs its private messages with a name that D-Bus libraries refuse as a sender.)
#![expect(clippy::disallowed_methods, reason = "this module starts `systemctl` and reads a unit's cgroup")]

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rollback::model::ids::UnitName;
use rollback::model::text::sanitize;
use tokio::process::Command;
use tokio::time::timeout;

use super::bus::{BusError, CALL_LIMIT, Job, Properties, RELOAD_LIMIT};

/// Bytes taken of what `systemctl` says when it fails.
const SAID_BYTES_MAX: usize = 512;
/// What `systemctl` says when it reaches neither PID 1 nor a bus.
const UNREACHED: &str = "Failed to connect to bus";
/// The properties that are read.
const WANTED: &str = "--property=LoadState,ActiveState,SubState,MainPID,InvocationID,NRestarts,Result,ExecMainStatus,\
                      NeedDaemonReload,ControlGroup,Job";
/// Where cgroups are: of version 2, or of version 1 with systemd's own hierarchy.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// Enqueues the unit's stop.
pub(super) async fn stop(unit: &UnitName) -> Result<(Job, String), BusError> {
    let group = properties(unit).await?.text("ControlGroup").to_owned();
    Ok((job("stop", unit)?, group))
}

/// Forgets the unit's failures and its start limit, and enqueues its start.
pub(super) async fn start(unit: &UnitName) -> Result<Job, BusError> {
    match run(&["reset-failed", "--", unit.as_str()], CALL_LIMIT).await {
        // A unit that is not loaded has no failure to forget.
        Ok(_) | Err(BusError::Refused(_)) => job("start", unit),
        Err(error) => Err(error),
    }
}

/// Sends SIGKILL to every process of the unit.
pub(super) async fn kill(unit: &UnitName) -> Result<(), BusError> {
    run(&["kill", "--signal=KILL", "--", unit.as_str()], CALL_LIMIT).await.map(drop)
}

/// Cancels the unit's job, when it has one.
pub(super) async fn cancel(unit: &UnitName) -> Result<(), BusError> {
    match properties(unit).await?.number("Job") {
        0 => Ok(()),
        job => run(&["cancel", &job.to_string()], CALL_LIMIT).await.map(drop),
    }
}

/// Reads all unit files again.
pub(super) async fn reload() -> Result<(), BusError> {
    run(&["daemon-reload"], RELOAD_LIMIT).await.map(drop)
}

/// Lists the processes in the unit's cgroup as process id and command line; those of cgroups below it are not seen.
pub(super) async fn processes(unit: &UnitName) -> Result<Vec<(u32, String)>, BusError> {
    let found = properties(unit).await?;
    let Some(group) = group_directory(found.text("ControlGroup")) else { return Ok(Vec::new()) };
    let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let command = |pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).replace('\0', " ").trim_end().to_owned()
    };
    Ok(pids.lines().filter_map(|pid| pid.parse().ok()).map(|pid| (pid, command(pid))).collect())
}

/// Reads the unit's properties.
pub(super) async fn properties(unit: &UnitName) -> Result<Properties, BusError> {
    let shown = run(&["show", WANTED, "--", unit.as_str()], CALL_LIMIT).await?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect())
}

/// Finds the directory of a cgroup; none when there is no such cgroup.
fn group_directory(group: &str) -> Option<PathBuf> {
    let below = group.strip_prefix('/').filter(|below| !below.is_empty())?;
    CGROUPS.iter().map(|root| PathBuf::from(root).join(below)).find(|directory| directory.is_dir())
}

/// Tells whether the kernel says that a cgroup and those below it have no process; false when it does not say.
pub(super) fn is_empty(group: &str) -> bool {
    if group.is_empty() {
        return true;
    }
    let events = group_directory(group).map(|directory| std::fs::read_to_string(directory.join("cgroup.events")));
    match events {
        Some(Ok(events)) => events.lines().any(|line| line == "populated 0"),
        Some(Err(error)) => error.kind() == std::io::ErrorKind::NotFound && group_directory(group).is_none(),
        // Gone, if cgroups of its kind can be seen at all: its parent stays.
        None => {
            group.rsplit_once('/').is_some_and(|(parent, _)| parent.is_empty() || group_directory(parent).is_some())
        }
    }
}

/// Starts a `systemctl` that waits for its job.
fn job(verb: &str, unit: &UnitName) -> Result<Job, BusError> {
    let child = systemctl(&[verb, "--quiet", "--", unit.as_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| BusError::Refused(error.into()))?;
    Ok(Job::Tool(Box::new(child)))
}

async fn run(arguments: &[&str], limit: Duration) -> Result<Output, BusError> {
    let ran = timeout(limit, systemctl(arguments).output()).await.map_err(|_| BusError::Silent(limit))?;
    let output = ran.map_err(|error| BusError::Refused(error.into()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = sanitize(&output.stderr, SAID_BYTES_MAX).trim().to_owned();
    Err(if said.starts_with(UNREACHED) { BusError::Gone(said.into()) } else { BusError::Refused(said.into()) })
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.arg("--no-ask-password").args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    command
}
