//! systemd as service manager: jobs over D-Bus and their ends; decides only what "stopped" and "started" mean.

mod bus;
mod systemctl;

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use rollback::model::health::{UnitActive, UnitLoad, UnitState};
use rollback::model::ids::UnitName;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use self::bus::{Bus, BusError, Job, JobEnd, Properties};
use crate::config::Component;
use crate::ports::{PortError, Tail, Units};

/// Longest time after SIGKILL until a unit must be down. The kernel needs milliseconds; what is still there after two
/// seconds is in uninterruptible sleep and stays.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks at a unit whose job's end cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often a stop is asked for again when somebody else's job replaced it: more is a fight, and an operator's matter.
const STOP_TRIES_MAX: u32 = 3;
/// First pause before a manager that no way leads to is tried again; doubled each time.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
/// How long that is tried in one call: a bus daemon that is restarted is back in well under a second.
const RECONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for `journalctl`, whose lines are welcome but never needed.
const LOG_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of log that are kept while reading: the newest, enough for every line that evidence holds.
const LOG_BYTES_MAX: usize = 256 * 1024;
/// Bytes taken of one log line: more is a dump, not a message.
const LOG_LINE_BYTES_MAX: usize = 2_048;
/// Processes named in an error at most.
const PROCESSES_NAMED_MAX: usize = 3;

/// systemd of this host, over the system bus; while that is dead, by `systemctl`, which needs root then. Connects when
/// first asked, and again whenever the connection died. Nothing of it survives the agent, nor needs to.
#[derive(Debug, Default)]
pub struct Systemd {
    bus: Mutex<Option<Arc<Bus>>>,
}

#[async_trait]
impl Units for Systemd {
    async fn stop(&self, _: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError> {
        for unit in units {
            self.stop_one(unit, limit).await?;
        }
        Ok(())
    }

    async fn start(&self, _: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError> {
        self.reload_outdated(units).await?;
        for unit in units {
            self.start_one(unit, limit).await?;
        }
        Ok(())
    }

    async fn states(&self, _: &Component, units: &[UnitName]) -> Result<Vec<UnitState>, PortError> {
        let read = |unit| async move {
            let properties = self.properties(unit).await.map_err(|error| unread(unit, error))?;
            Ok(state(unit, &properties))
        };
        try_join_all(units.iter().map(read)).await
    }

    async fn processes(&self, _: &Component, units: &[UnitName]) -> Result<Vec<u32>, PortError> {
        let list = |unit| async move {
            match self.call(|bus| async move { bus.processes(unit).await }, || systemctl::processes(unit)).await {
                Ok(found) => Ok(found.into_iter().map(|(pid, _)| pid).collect()),
                Err(BusError::Refused(_)) => Ok(Vec::new()),
                Err(error) => Err(unread(unit, error)),
            }
        };
        let found: Vec<Vec<u32>> = try_join_all(units.iter().map(list)).await?;
        Ok(found.concat())
    }

    async fn log_tail(&self, _: &Component, units: &[UnitName], tail: Tail) -> Vec<String> {
        journal_tail(units, tail).await
    }
}

impl Systemd {
    /// Gives the connection, and makes a new one when the old one is dead.
    async fn bus(&self) -> Result<Arc<Bus>, BusError> {
        let known = self.bus.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(bus) = known.filter(|bus| bus.is_alive()) {
            return Ok(bus);
        }
        let bus = Arc::new(Bus::connect().await?);
        *self.bus.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&bus));
        Ok(bus)
    }

    /// Calls the manager over the bus; when that is dead, by the tool; when that does not reach it either, both ways
    /// again with a growing pause, until the limit. Every call is harmless twice.
    async fn call<T, B, F>(&self, over_bus: impl Fn(Arc<Bus>) -> B, tool: impl Fn() -> F) -> Result<T, BusError>
    where
        B: Future<Output = Result<T, BusError>>,
        F: Future<Output = Result<T, BusError>>,
    {
        let deadline = Instant::now() + RECONNECT_LIMIT;
        let mut pause = RECONNECT_FIRST;
        loop {
            if let Ok(bus) = self.bus().await {
                match over_bus(Arc::clone(&bus)).await {
                    Err(BusError::Gone(_)) => self.forget(&bus),
                    answer => return answer,
                }
            }
            match tool().await {
                Err(BusError::Gone(_)) if Instant::now() + pause < deadline => sleep(pause).await,
                answer => return answer,
            }
            pause *= 2;
        }
    }

    fn forget(&self, dead: &Arc<Bus>) {
        let mut known = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|bus| Arc::ptr_eq(bus, dead)) {
            *known = None;
        }
    }

    async fn properties(&self, unit: &UnitName) -> Result<Properties, BusError> {
        self.call(|bus| async move { bus.properties(unit).await }, || systemctl::properties(unit)).await
    }

    async fn active(&self, unit: &UnitName) -> Result<UnitActive, BusError> {
        Ok(active(self.properties(unit).await?.text("ActiveState")))
    }

    /// Waits until the unit neither runs nor changes; gives the last thing seen at the limit.
    async fn settle(&self, unit: &UnitName, limit: Duration) -> Result<UnitActive, BusError> {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.active(unit).await?;
            let changes = matches!(seen, UnitActive::Activating | UnitActive::Deactivating);
            if !changes || Instant::now() >= deadline {
                return Ok(seen);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn stop_one(&self, unit: &UnitName, limit: Duration) -> Result<(), PortError> {
        let attempt = || format!("cannot stop unit `{unit}`");
        let failed = |error| PortError::failed(attempt(), error);
        for _ in 0..STOP_TRIES_MAX {
            let made = self.call(|bus| async move { bus.stop(unit).await }, || systemctl::stop(unit)).await;
            let (mut job, group) = match made {
                Ok(made) => made,
                // A unit that the manager does not know does not run either.
                Err(BusError::Refused(_)) if is_down(self.active(unit).await.map_err(failed)?) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            let mut end = job.end(limit).await;
            if end == JobEnd::Late {
                tracing::warn!(unit = %unit, limit_ms = millis(limit), "unit did not stop in time and is killed");
                self.kill(unit).await.map_err(failed)?;
                end = job.end(KILL_LIMIT).await;
            }
            match end {
                JobEnd::Ended(result) if result == "done" && systemctl::is_empty(&group) => return Ok(()),
                JobEnd::Ended(result) if result == "canceled" => continue,
                JobEnd::Ended(_) | JobEnd::Late => {}
                JobEnd::Lost => {
                    self.settle(unit, limit).await.map_err(failed)?;
                }
            }
            return self.sweep(unit).await;
        }
        let found = format!("jobs of somebody else replaced it {STOP_TRIES_MAX} times");
        Err(PortError::Unfit { attempt: attempt(), found })
    }

    /// Kills what a unit left behind, and ensures that it is down.
    async fn sweep(&self, unit: &UnitName) -> Result<(), PortError> {
        let failed = |error| PortError::failed(format!("cannot stop unit `{unit}`"), error);
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            let left =
                match self.call(|bus| async move { bus.processes(unit).await }, || systemctl::processes(unit)).await {
                    Ok(left) => left,
                    Err(BusError::Refused(_)) => Vec::new(),
                    Err(error) => return Err(failed(error)),
                };
            if left.is_empty() && is_down(self.active(unit).await.map_err(failed)?) {
                return Ok(());
            }
            let found = described(&left);
            if Instant::now() >= deadline {
                let attempt = format!("cannot stop unit `{unit}`");
                return Err(PortError::Unfit { attempt, found: format!("after SIGKILL {found}") });
            }
            tracing::warn!(unit = %unit, %found, "unit left processes behind, which are killed");
            self.kill(unit).await.map_err(failed)?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Kills every process of a unit; that there is none (any more) is well.
    async fn kill(&self, unit: &UnitName) -> Result<(), BusError> {
        match self.call(|bus| async move { bus.kill(unit).await }, || systemctl::kill(unit)).await {
            Err(BusError::Refused(_)) => Ok(()),
            answer => answer,
        }
    }

    /// Has the manager read its files again, once, when those of any of the units changed.
    async fn reload_outdated(&self, units: &[UnitName]) -> Result<(), PortError> {
        let asked = join_all(units.iter().map(|unit| {
            self.call(
                move |bus| async move { bus.is_outdated(unit).await },
                move || async move { Ok(systemctl::properties(unit).await?.text("NeedDaemonReload") == "yes") },
            )
        }))
        .await;
        for (unit, outdated) in units.iter().zip(asked) {
            if outdated.map_err(|error| unread(unit, error))? {
                let reloaded = self.call(|bus| async move { bus.reload().await }, systemctl::reload).await;
                return reloaded.map_err(|error| PortError::failed("cannot reload systemd's unit files", error));
            }
        }
        Ok(())
    }

    async fn start_one(&self, unit: &UnitName, limit: Duration) -> Result<(), PortError> {
        let attempt = || format!("cannot start unit `{unit}`");
        let failed = |error| PortError::failed(attempt(), error);
        let mut job =
            self.call(|bus| async move { bus.start(unit).await }, || systemctl::start(unit)).await.map_err(failed)?;
        let why = match job.end(limit).await {
            JobEnd::Ended(result) if result == "done" => return Ok(()),
            JobEnd::Ended(result) => format!("its job ended as {result}"),
            JobEnd::Lost => match self.settle(unit, limit).await.map_err(failed)? {
                UnitActive::Active => return Ok(()),
                _ => "the end of its job was missed".to_owned(),
            },
            JobEnd::Late => {
                // Refused: it ended in the meantime, too late all the same.
                if let Err(error @ (BusError::Gone(_) | BusError::Silent(_))) = self.cancel(unit, &job).await {
                    return Err(failed(error));
                }
                return Err(PortError::Deadline { attempt: attempt(), limit_ms: millis(limit) });
            }
        };
        let properties = self.properties(unit).await.map_err(failed)?;
        let found = format!(
            "{why}: unit is {} ({}), result {}, exit status {}",
            properties.text("ActiveState"),
            properties.text("SubState"),
            properties.text("Result"),
            properties.number("ExecMainStatus")
        );
        Err(PortError::Unfit { attempt: attempt(), found })
    }

    /// Cancels a job; by its unit when it was not made over the bus.
    async fn cancel(&self, unit: &UnitName, job: &Job) -> Result<(), BusError> {
        match job {
            Job::Bus { path, .. } => {
                self.call(|bus| async move { bus.cancel(path).await }, || systemctl::cancel(unit)).await
            }
            Job::Tool(_) => systemctl::cancel(unit).await,
        }
    }
}

fn unread(unit: &UnitName, error: BusError) -> PortError {
    PortError::failed(format!("cannot read state of unit `{unit}`"), error)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn is_down(active: UnitActive) -> bool {
    matches!(active, UnitActive::Inactive | UnitActive::Failed)
}

fn described(processes: &[(u32, String)]) -> String {
    let safe = |command: &str| rollback::model::text::sanitize(command.as_bytes(), 80).replace('\n', " ");
    let named =
        processes.iter().take(PROCESSES_NAMED_MAX).map(|(pid, command)| format!("pid {pid} `{}`", safe(command)));
    match processes.len() {
        0 => "it is still not down".to_owned(),
        1 => format!("1 process still runs: {}", named.collect::<String>()),
        many => format!("{many} processes still run: {}", named.collect::<Vec<_>>().join(", ")),
    }
}

fn state(unit: &UnitName, properties: &Properties) -> UnitState {
    UnitState {
        name: unit.clone(),
        load: match properties.text("LoadState") {
            "loaded" | "merged" => UnitLoad::Loaded,
            "masked" => UnitLoad::Masked,
            "not-found" => UnitLoad::NotFound,
            _ => UnitLoad::Error,
        },
        active: active(properties.text("ActiveState")),
        sub: properties.text("SubState").to_owned(),
        main_pid: Some(properties.number("MainPID")).filter(|pid| *pid != 0),
        invocation: properties.text("InvocationID").to_owned(),
        restarts: properties.number("NRestarts"),
    }
}

/// Reads the manager's word. A unit that reloads runs; one under maintenance does not.
fn active(word: &str) -> UnitActive {
    match word {
        "active" | "reloading" | "refreshing" => UnitActive::Active,
        "activating" => UnitActive::Activating,
        "deactivating" => UnitActive::Deactivating,
        "failed" => UnitActive::Failed,
        _ => UnitActive::Inactive,
    }
}

/// Asks `journalctl`, which reads the files itself and so works when journald does not.
async fn journal_tail(units: &[UnitName], tail: Tail) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "the journal has no reader without C libraries but this program")]
    let mut journalctl = tokio::process::Command::new("journalctl");
    for unit in units {
        journalctl.arg("--unit").arg(unit.as_str());
    }
    journalctl.args(["--quiet", "--no-pager", "--output=cat", "--lines"]).arg(tail.lines_max.to_string());
    if let Some(until) = tail.until {
        let (seconds, micros) = (until.as_second(), until.subsec_microsecond());
        journalctl.arg(format!("--until=@{seconds}.{micros:06}"));
    }
    journalctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let Some((_child, mut lines)) = journalctl.spawn().ok().and_then(|mut child| {
        let stdout = child.stdout.take()?;
        Some((child, stdout))
    }) else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let read = async {
        while let Ok(1..) = lines.read_buf(&mut kept).await {
            kept.drain(..kept.len().saturating_sub(LOG_BYTES_MAX));
        }
    };
    // Past the deadline the lines that came count; dropping the child kills it.
    timeout(LOG_LIMIT, read).await.ok();
    super::tail(&kept, tail.lines_max, LOG_LINE_BYTES_MAX)
}
