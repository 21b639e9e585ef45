//! The dead-man's switch: goes back without the agent when the watch of a deploy does not end in time.
//!
//! Armed it is a file of the state directory, which says all that going back needs, and a timer of systemd. The timer
//! runs `rb-agent revert`, and so does every boot before the units start ([`revert`]). Neither needs the agent, the
//! network, the configuration or the history.
//!
//! Whoever renames or removes the file first has decided: the agent removes it before it records how a watch ended,
//! [`revert`] renames it before it touches anything. So a release that has survived its watch is never left by the
//! switch, and the agent never calls good what the switch has left.

#![expect(clippy::disallowed_methods, reason = "this module has systemd set and stop its timers")]

mod armed;
pub mod revert;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rollback::model::ids::OperationId;
use rollback::model::operation::Operation;
use rollback::model::text::sanitize;
use rollback::model::watch::Moment;
use tokio::process::Command;
use tokio::time::timeout;

use self::armed::{Armed, Files};
use crate::clock::{SystemClock, moment};
use crate::config::Component;
use crate::observe::blocking;
use crate::ports::{Clock as _, DeadMan, Fired, PortError};

/// Longest wait for a tool of systemd: it needs some ten milliseconds, and a manager that is silent fails the deploy
/// before anything was touched.
const TOOL_LIMIT: Duration = Duration::from_secs(5);
/// How exactly systemd keeps the deadline; its default of a minute is for saving power.
const ACCURACY: &str = "AccuracySec=100ms";
/// Bytes taken of what a tool of systemd says when it fails.
const SAID_BYTES_MAX: usize = 512;

/// The switches of a host.
#[derive(Debug)]
pub struct Switches {
    files: Files,
}

impl Switches {
    /// Keeps the switches below the agent's state directory.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { files: Files::new(state) }
    }
}

#[async_trait]
impl DeadMan for Switches {
    async fn arm(
        &self,
        component: &Component,
        operation: &Operation,
        from: Moment,
        lasts: Duration,
    ) -> Result<(), PortError> {
        let Some(armed) = Armed::new(component, operation, from, lasts) else { return Ok(()) };
        let files = self.files.clone();
        let (id, left) = (operation.id, armed.left(&moment(&SystemClock)));
        blocking(move || files.put(&armed)).await?;
        set_timer(id, left).await
    }

    async fn disarm(&self, operation: OperationId) -> Result<Option<Fired>, PortError> {
        let files = self.files.clone();
        let was_armed = blocking(move || files.remove(operation)).await?;
        if was_armed {
            stop_timers(operation).await;
            return Ok(None);
        }
        self.fired(operation).await
    }

    async fn fired(&self, operation: OperationId) -> Result<Option<Fired>, PortError> {
        let files = self.files.clone();
        blocking(move || files.fired(operation)).await
    }

    async fn forget(&self, operation: OperationId) -> Result<(), PortError> {
        let files = self.files.clone();
        if blocking(move || files.forget(operation)).await? {
            stop_timers(operation).await;
        }
        Ok(())
    }

    async fn armed(&self) -> Result<Vec<OperationId>, PortError> {
        let files = self.files.clone();
        blocking(move || files.armed()).await
    }
}

/// Names the instance of `rb-revert@.service` and of its timer, by its deadline as well: a timer for a new deadline is set
/// before the old one is gone.
fn instance(operation: OperationId, deadline_ms: u128) -> String {
    format!("rb-revert@{operation}_{deadline_ms}")
}

/// Reads the operation out of an instance's name.
///
/// # Errors
/// When there is none in it.
pub fn operation_of(instance: &str) -> Result<OperationId, rollback::model::ids::NameError> {
    instance.split_once('_').map_or(instance, |(operation, _)| operation).parse()
}

/// Has systemd start the instance of an operation after a time. A timer for the same deadline that is there will do.
async fn set_timer(operation: OperationId, after: Duration) -> Result<(), PortError> {
    let instance = &instance(operation, (SystemClock.boottime() + after).as_millis());
    let seconds = format!("--on-active={}ms", after.as_millis());
    let unit = format!("--unit={instance}.service");
    let made = run("systemd-run", &["--quiet", &seconds, "--timer-property", ACCURACY, &unit]).await;
    match made {
        Err(PortError::Unfit { .. }) if is_set(instance).await => Ok(()),
        made => made,
    }
}

async fn is_set(instance: &str) -> bool {
    run("systemctl", &["--quiet", "is-active", &format!("{instance}.timer")]).await.is_ok()
}

/// Stops what is left of the timers of an operation. One that stays finds nothing armed and does nothing.
async fn stop_timers(operation: OperationId) {
    let all = format!("rb-revert@{operation}_*.timer");
    if let Err(error) = run("systemctl", &["stop", "--no-block", &all]).await {
        tracing::debug!(%operation, "{}", rollback::chain::Chain(&error));
    }
}

/// Runs a tool of systemd, which reaches PID 1 without a bus daemon too.
async fn run(tool: &str, arguments: &[&str]) -> Result<(), PortError> {
    let attempt = || format!("cannot run `{tool} {}`", arguments.join(" "));
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let limit_ms = u64::try_from(TOOL_LIMIT.as_millis()).unwrap_or(u64::MAX);
    let output = timeout(TOOL_LIMIT, command.output())
        .await
        .map_err(|_| PortError::Deadline { attempt: attempt(), limit_ms })?
        .map_err(|error| PortError::failed(attempt(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let found = sanitize(output.stderr.trim_ascii(), SAID_BYTES_MAX).replace('\n', "; ");
    Err(PortError::Unfit { attempt: attempt(), found })
}

/// Where the switches are, below the state directory.
fn directory(state: &Path) -> PathBuf {
    state.join("dead-man")
}
