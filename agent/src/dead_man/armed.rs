//! What an armed switch keeps on the disk, and who has decided.
//!
//! `OPERATION.armed` is written durably before anything is touched. `OPERATION.fired` is the same file under its new
//! name, and then what came of it.

#![expect(clippy::disallowed_methods, reason = "this module is the files of the switches")]

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId, UnitName};
use rollback::model::operation::{Operation, Step};
use rollback::model::policy::{Policy, Timeouts};
use rollback::model::watch::Moment;
use serde::{Deserialize, Serialize};

use super::directory;
use crate::config::{Backend, Component, KeptConfiguration, ReleasesLayout};
use crate::durable;
use crate::ports::{Fired, PortError};

/// All that going back needs, without the configuration or the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Armed {
    /// The operation whose watch it stands behind.
    pub(super) operation: OperationId,
    name: ComponentName,
    environment: Environment,
    root: PathBuf,
    releases: PathBuf,
    current: String,
    state: PathBuf,
    configuration_link: Option<String>,
    /// The units in start order.
    pub(super) units: Vec<UnitName>,
    /// The release that it goes back to.
    pub(super) from: ReleaseId,
    /// The release that was deployed.
    pub(super) to: ReleaseId,
    /// The time limits.
    pub(super) timeouts: Timeouts,
    since: Moment,
    lasts_ms: u64,
}

impl Armed {
    /// Takes from an operation what going back needs; none when there is nothing to go back to.
    pub(super) fn new(component: &Component, operation: &Operation, since: Moment, lasts: Duration) -> Option<Self> {
        let plan = &operation.plan;
        let kept = component.configuration.as_ref().filter(|_| plan.configuration);
        Some(Self {
            operation: operation.id,
            name: component.name.clone(),
            environment: component.environment.clone(),
            root: component.root.clone(),
            releases: component.releases.directory.clone(),
            current: component.current.clone(),
            state: component.state.clone(),
            configuration_link: kept.map(|kept| kept.link.clone()),
            units: plan.units.clone(),
            from: plan.from.clone()?,
            to: plan.candidates.first()?.clone(),
            timeouts: plan.timeouts,
            since,
            lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The time that is left until its deadline.
    pub(super) fn left(&self, now: &Moment) -> Duration {
        Duration::from_millis(self.lasts_ms.saturating_sub(self.since.passed_ms(now)))
    }

    /// The component, as far as links and units need it.
    pub(super) fn component(&self) -> Component {
        Component {
            name: self.name.clone(),
            environment: self.environment.clone(),
            root: self.root.clone(),
            releases: ReleasesLayout { directory: self.releases.clone(), pattern: "*".to_owned(), hardlinks: false },
            current: self.current.clone(),
            backend: Backend::Systemd,
            units: self.units.clone(),
            configuration: self.configuration_link.clone().map(|link| KeptConfiguration { link, files: Vec::new() }),
            probes: Vec::new(),
            timeouts: self.timeouts,
            policy: Policy::default(),
            state: self.state.clone(),
        }
    }
}

/// What `OPERATION.fired` holds once it is over; before, it holds an [`Armed`].
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    at: Timestamp,
    steps: Vec<Step>,
}

/// A file of a switch, as it is found.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// It waits for its deadline.
    Armed(Armed),
    /// It has fired, and what it was to do is not known to be done.
    Firing(Armed),
}

/// The files of all switches of a host.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(super) fn new(state: &Path) -> Self {
        Self { directory: directory(state) }
    }

    fn path(&self, operation: OperationId, ending: &str) -> PathBuf {
        self.directory.join(format!("{operation}.{ending}"))
    }

    /// Arms a switch durably, or changes its deadline. One that has fired stays as it is.
    pub(super) fn put(&self, armed: &Armed) -> Result<(), PortError> {
        let attempt = format!("cannot arm the dead-man's switch of operation {}", armed.operation);
        if self.path(armed.operation, "fired").exists() {
            return Err(PortError::Unfit { attempt, found: "it has fired".to_owned() });
        }
        let bytes = serde_json::to_vec(armed).map_err(|error| PortError::failed(attempt, error))?;
        durable::write(&self.directory, &format!("{}.armed", armed.operation), &bytes)
    }

    /// Disarms a switch durably; false when it was not armed.
    pub(super) fn remove(&self, operation: OperationId) -> Result<bool, PortError> {
        self.unlink(&self.path(operation, "armed"))
    }

    /// Forgets that a switch has fired; false when it has not.
    pub(super) fn forget(&self, operation: OperationId) -> Result<bool, PortError> {
        self.unlink(&self.path(operation, "fired"))
    }

    fn unlink(&self, path: &Path) -> Result<bool, PortError> {
        let attempt = || format!("cannot remove `{}`", path.display());
        match std::fs::remove_file(path) {
            Ok(()) => durable::sync_directory(&self.directory, attempt).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PortError::failed(attempt(), error)),
        }
    }

    /// Decides that a switch fires, durably; false when the agent has decided before.
    pub(super) fn claim(&self, operation: OperationId) -> Result<bool, PortError> {
        let attempt = || format!("cannot take the dead-man's switch of operation {operation}");
        match std::fs::rename(self.path(operation, "armed"), self.path(operation, "fired")) {
            Ok(()) => durable::sync_directory(&self.directory, attempt).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PortError::failed(attempt(), error)),
        }
    }

    /// Tells what came of a switch that has fired, for the agent's history.
    pub(super) fn report(&self, operation: OperationId, at: Timestamp, steps: Vec<Step>) -> Result<(), PortError> {
        let attempt = format!("cannot report on the dead-man's switch of operation {operation}");
        let bytes = serde_json::to_vec(&Report { at, steps }).map_err(|error| PortError::failed(attempt, error))?;
        durable::write(&self.directory, &format!("{operation}.fired"), &bytes)
    }

    /// Tells whether a switch has fired, and what came of it.
    pub(super) fn fired(&self, operation: OperationId) -> Result<Option<Fired>, PortError> {
        let path = self.path(operation, "fired");
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let report: Result<Report, _> = serde_json::from_slice(&bytes);
        Ok(Some(match report {
            Ok(Report { at, steps }) => Fired { at: Some(at), steps },
            // It was interrupted, or is not finished yet.
            Err(_) => Fired { at: None, steps: Vec::new() },
        }))
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, PortError> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PortError::failed(format!("cannot read `{}`", path.display()), error)),
        }
    }

    /// Finds one switch that is armed, or that is firing.
    pub(super) fn find(&self, operation: OperationId) -> Result<Option<Found>, PortError> {
        if let Some(bytes) = self.read(&self.path(operation, "armed"))? {
            let attempt = format!("cannot understand the dead-man's switch of operation {operation}");
            return serde_json::from_slice(&bytes)
                .map(|armed| Some(Found::Armed(armed)))
                .map_err(|error| PortError::failed(attempt, error));
        }
        let firing = self.read(&self.path(operation, "fired"))?;
        // A report is no armed switch: then there is nothing left to do.
        Ok(firing.and_then(|bytes| serde_json::from_slice(&bytes).ok()).map(Found::Firing))
    }

    /// Lists the operations that have a file with that ending.
    fn with_ending(&self, ending: &str) -> Result<Vec<OperationId>, PortError> {
        let failed = |error| PortError::failed(format!("cannot list `{}`", self.directory.display()), error);
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut operations = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension() == Some(OsStr::new(ending)) {
                operations
                    .extend(path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<OperationId>().ok()));
            }
        }
        operations.sort();
        Ok(operations)
    }

    /// Lists the operations whose switches are armed.
    pub(super) fn armed(&self) -> Result<Vec<OperationId>, PortError> {
        self.with_ending("armed")
    }

    /// Lists the operations whose switches have fired.
    pub(super) fn all_fired(&self) -> Result<Vec<OperationId>, PortError> {
        self.with_ending("fired")
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
