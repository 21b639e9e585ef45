//! Plain processes as service manager, for containers and the demo: needs neither root nor systemd.
//!
//! A process outlives the agent that started it. Beside its log lies a record that lets the next agent find it again:
//! before the start the record names the start's invocation, which the process carries in its environment, and after it
//! also the process id. A record is overwritten in place, so that it can be written on a full disk.
#![expect(clippy::disallowed_methods, reason = "this module starts programs and keeps their logs and records")]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use rollback::model::health::{UnitActive, UnitLoad, UnitState};
use rollback::model::ids::UnitName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::{Backend, Component};
use crate::ports::{PortError, Tail, Units};
use crate::procfs::{self, Process};

/// Longest time after SIGKILL until a process must be gone.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks at processes that are not this agent's children and so do not report their end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Size past which a log is put aside at the next start: two such files hold days of a small service.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes read from the end of a log.
const TAIL_BYTES_MAX: u64 = 256 * 1024;
/// Bytes taken of one log line: more is a dump, not a message.
const LOG_LINE_BYTES_MAX: usize = 2_048;
/// Bytes of a record; all parts have a known size and need half of it.
const RECORD_BYTES: usize = 512;
/// The variable that a process and its children carry.
const MARK: &str = "ROLLBACK_INVOCATION";
/// What the agent's own service manager told the agent, and its children must not act on.
const NOT_INHERITED: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "INVOCATION_ID"];

/// The processes of this host that agents started. Restarts nothing by itself.
#[derive(Debug, Default)]
pub struct Processes {
    /// The children of this agent by the path of their record; others are found by their records alone.
    children: Mutex<HashMap<PathBuf, watch::Receiver<Option<ExitStatus>>>>,
}

/// What is known of the last start of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Identifies the start; the process carries it.
    invocation: String,
    /// The boot of the host in which it was.
    boot: String,
    /// The process, once it was started.
    process: Option<Process>,
    /// Whether it was stopped on purpose.
    stopped: bool,
}

/// How a unit stands.
enum Found {
    /// It never ran, or was stopped.
    Down,
    /// It runs.
    Runs(Process),
    /// It ended by itself; the status is known for children of this agent.
    Ended(Option<ExitStatus>),
}

#[async_trait]
impl Units for Processes {
    async fn stop(&self, component: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError> {
        for unit in units {
            self.stop_one(component, unit, limit).await?;
        }
        Ok(())
    }

    /// A process counts as started when its program was executed, which takes no time that `limit` could bound.
    async fn start(&self, component: &Component, units: &[UnitName], _: Duration) -> Result<(), PortError> {
        units.iter().try_for_each(|unit| self.start_one(component, unit))
    }

    async fn states(&self, component: &Component, units: &[UnitName]) -> Result<Vec<UnitState>, PortError> {
        Ok(units.iter().map(|unit| self.state(component, unit)).collect())
    }

    async fn processes(&self, component: &Component, units: &[UnitName]) -> Result<Vec<u32>, PortError> {
        let records = units.iter().filter_map(|unit| Record::load(&record_path(component, unit)));
        let living = records.filter(|record| !record.stopped && record.boot == procfs::boot());
        let mut pids: Vec<u32> = living
            .flat_map(|record| record.members().into_iter().chain(record.process.filter(|own| own.is_alive())))
            .map(|process| process.pid)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    async fn log_tail(&self, component: &Component, units: &[UnitName], tail: Tail) -> Vec<String> {
        let lines_max = tail.lines_max;
        let logs = units.iter().map(|unit| last_bytes(&log_path(component, unit)).unwrap_or_default());
        let lines = logs.flat_map(|log| super::tail(&log, lines_max, LOG_LINE_BYTES_MAX));
        let mut lines: Vec<String> = lines.collect();
        lines.drain(..lines.len().saturating_sub(lines_max));
        lines
    }
}

impl Processes {
    fn exit_of(&self, record: &Path) -> Option<watch::Receiver<Option<ExitStatus>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).get(record).cloned()
    }

    fn find(&self, path: &Path, record: Option<&Record>) -> Found {
        let Some(record) = record.filter(|record| !record.stopped) else { return Found::Down };
        if let Some(process) = record.process.filter(|process| record.boot == procfs::boot() && process.is_alive()) {
            return Found::Runs(process);
        }
        Found::Ended(self.exit_of(path).and_then(|exit| *exit.borrow()))
    }

    fn state(&self, component: &Component, unit: &UnitName) -> UnitState {
        let path = record_path(component, unit);
        let record = Record::load(&path);
        let (active, sub, main_pid) = match self.find(&path, record.as_ref()) {
            Found::Down => (UnitActive::Inactive, "dead", None),
            Found::Runs(process) => (UnitActive::Active, "running", Some(process.pid)),
            Found::Ended(Some(status)) if status.success() => (UnitActive::Inactive, "exited", None),
            Found::Ended(Some(_)) => (UnitActive::Failed, "failed", None),
            Found::Ended(None) => (UnitActive::Failed, "lost", None),
        };
        UnitState {
            name: unit.clone(),
            load: if command(component, unit).is_some() { UnitLoad::Loaded } else { UnitLoad::NotFound },
            active,
            sub: sub.to_owned(),
            main_pid,
            invocation: record.map(|record| record.invocation).unwrap_or_default(),
            restarts: 0,
        }
    }

    fn start_one(&self, component: &Component, unit: &UnitName) -> Result<(), PortError> {
        let attempt = || format!("cannot start `{unit}`");
        let path = record_path(component, unit);
        if let Found::Runs(_) = self.find(&path, Record::load(&path).as_ref()) {
            return Ok(());
        }
        let (program, arguments) = command(component, unit)
            .ok_or_else(|| PortError::Unfit { attempt: attempt(), found: "no command is configured".to_owned() })?;
        let current = component.root.join(&component.current);
        let directory = std::fs::canonicalize(&current)
            .map_err(|error| PortError::failed(format!("cannot follow link `{}`", current.display()), error))?;
        let program = if program.contains('/') { directory.join(program) } else { PathBuf::from(program) };
        std::fs::create_dir_all(&component.state)
            .map_err(|error| PortError::failed(format!("cannot create `{}`", component.state.display()), error))?;
        let output = || open_log(&log_path(component, unit)).map_err(|error| PortError::failed(attempt(), error));
        let mut starting = tokio::process::Command::new(program);
        let mut record = Record::starting();
        starting.args(arguments).current_dir(directory).env(MARK, &record.invocation).process_group(0);
        for name in NOT_INHERITED {
            starting.env_remove(name);
        }
        starting.stdin(Stdio::null()).stdout(output()?).stderr(output()?);
        record.store(&path);
        let mut child = starting.spawn().map_err(|error| PortError::failed(attempt(), error))?;
        record.process = child.id().and_then(Process::of);
        record.store(&path);
        let (ended, exit) = watch::channel(None);
        if let Ok(Some(status)) = child.try_wait() {
            ended.send_replace(Some(status));
            self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(path, exit);
            return Err(PortError::Unfit { attempt: attempt(), found: format!("it ended at once: {status}") });
        }
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(path, exit);
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                ended.send_replace(Some(status));
            }
        });
        Ok(())
    }

    async fn stop_one(&self, component: &Component, unit: &UnitName, limit: Duration) -> Result<(), PortError> {
        let path = record_path(component, unit);
        let Some(mut record) = Record::load(&path).filter(|record| !record.stopped) else { return Ok(()) };
        if record.boot == procfs::boot() {
            let deadline = Instant::now() + limit;
            let mut family = record.members();
            record.signal(Signal::SIGTERM).map_err(|error| unsignalled(unit, error))?;
            if !self.await_end(&path, &record, &mut family, deadline).await {
                tracing::warn!(%unit, limit_ms = limit.as_millis(), "process did not stop in time and is killed");
                record.signal(Signal::SIGKILL).map_err(|error| unsignalled(unit, error))?;
                if !self.await_end(&path, &record, &mut family, Instant::now() + KILL_LIMIT).await {
                    let alive: Vec<u32> = family.iter().map(|process| process.pid).collect();
                    let found = format!("after SIGKILL still alive: pids {alive:?}");
                    return Err(PortError::Unfit { attempt: format!("cannot stop `{unit}`"), found });
                }
            }
        }
        record.stopped = true;
        record.store(&path);
        Ok(())
    }

    /// Waits until neither the process nor what it left behind is alive; tells whether that came before the deadline.
    /// `family` are those who were seen alive; who is found later joins them, who is gone leaves.
    async fn await_end(&self, path: &Path, record: &Record, family: &mut Vec<Process>, deadline: Instant) -> bool {
        if let (Some(mut exit), true) = (self.exit_of(path), record.runs()) {
            let ended = tokio::time::timeout_at(deadline, exit.wait_for(Option::is_some)).await;
            if ended.is_err() {
                return false;
            }
        }
        loop {
            let found: Vec<Process> = record.members().into_iter().filter(|found| !family.contains(found)).collect();
            family.extend(found);
            family.retain(|process| process.is_alive());
            if !record.runs() && family.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Record {
    fn starting() -> Self {
        let invocation = uuid::Uuid::now_v7().simple().to_string();
        Self { invocation, boot: procfs::boot(), process: None, stopped: false }
    }

    /// Reads a record. One that an agent left between intent and start is completed with the process that it started.
    fn load(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut record: Self = serde_json::from_str(text.trim_end()).ok()?;
        if record.process.is_none() && !record.stopped && record.boot == procfs::boot() {
            record.process = record.members().into_iter().min_by_key(|process| process.pid);
        }
        Some(record)
    }

    /// Overwrites a record. A disk that fails is reported and goes on: the next agent then knows less, the service runs.
    fn store(&self, path: &Path) {
        let written = serde_json::to_string(self).map_err(std::io::Error::from).and_then(|text| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.write_all_at(format!("{text:<RECORD_BYTES$}").as_bytes(), 0)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write record of a process");
        }
    }

    fn runs(&self) -> bool {
        self.process.is_some_and(Process::is_alive)
    }

    /// Lists the living processes that carry this start's mark.
    fn members(&self) -> Vec<Process> {
        procfs::marked(&format!("{MARK}={}", self.invocation))
    }

    /// Signals the process with its group, and whatever of it left the group.
    fn signal(&self, signal: Signal) -> Result<(), nix::errno::Errno> {
        let leader = self.process.filter(|process| process.is_alive()).map(|process| process.pid);
        let members = self.members().into_iter().map(|process| process.pid);
        let mut strays = members.filter(|pid| leader.is_none() || procfs::group(*pid) != leader);
        strays.try_for_each(|pid| procfs::signal(pid, signal))?;
        leader.map_or(Ok(()), |leader| procfs::signal_group(leader, signal))
    }
}

fn unsignalled(unit: &UnitName, error: nix::errno::Errno) -> PortError {
    PortError::failed(format!("cannot signal process of `{unit}`"), error)
}

fn command<'a>(component: &'a Component, unit: &UnitName) -> Option<(&'a String, &'a [String])> {
    match &component.backend {
        Backend::Process { commands } => commands.get(unit)?.split_first(),
        Backend::Systemd => None,
    }
}

fn record_path(component: &Component, unit: &UnitName) -> PathBuf {
    component.state.join(format!("{unit}.process"))
}

fn log_path(component: &Component, unit: &UnitName) -> PathBuf {
    component.state.join(format!("{unit}.log"))
}

/// Opens a log for appending; one that has grown too large is put aside first, replacing the one put aside before.
fn open_log(path: &Path) -> std::io::Result<File> {
    if path.metadata().is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

fn last_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
