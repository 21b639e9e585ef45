//! Service managers: systemd over its jobs, and plain processes; each component says which one runs its units.

mod process;
mod systemd;

use std::time::Duration;

use async_trait::async_trait;
use rollback::model::health::UnitState;
use rollback::model::ids::UnitName;
use rollback::model::text::sanitize;

pub use self::process::Processes;
pub use self::systemd::Systemd;
use crate::config::{Backend, Component};
use crate::ports::{PortError, Tail, Units};

/// Every service manager of a host; passes each call to the one that the component names.
#[derive(Debug, Default)]
pub struct Managers {
    systemd: Systemd,
    processes: Processes,
}

impl Managers {
    fn of(&self, component: &Component) -> &dyn Units {
        match component.backend {
            Backend::Systemd => &self.systemd,
            Backend::Process { .. } => &self.processes,
        }
    }
}

#[async_trait]
impl Units for Managers {
    async fn stop(&self, component: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError> {
        self.of(component).stop(component, units, limit).await
    }

    async fn start(&self, component: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError> {
        self.of(component).start(component, units, limit).await
    }

    async fn states(&self, component: &Component, units: &[UnitName]) -> Result<Vec<UnitState>, PortError> {
        self.of(component).states(component, units).await
    }

    async fn processes(&self, component: &Component, units: &[UnitName]) -> Result<Vec<u32>, PortError> {
        self.of(component).processes(component, units).await
    }

    async fn log_tail(&self, component: &Component, units: &[UnitName], tail: Tail) -> Vec<String> {
        self.of(component).log_tail(component, units, tail).await
    }
}

/// Cuts the last lines out of a log, each made safe to print and at most `bytes_max` long.
fn tail(log: &[u8], lines_max: usize, bytes_max: usize) -> Vec<String> {
    let log = log.strip_suffix(b"\n").unwrap_or(log);
    if log.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> =
        log.rsplit(|byte| *byte == b'\n').take(lines_max).map(|line| sanitize(line, bytes_max)).collect();
    lines.reverse();
    lines
}
