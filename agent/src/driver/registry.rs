//! Which operation runs in which environment: at most one, whose lease this is.

use std::collections::HashMap;

use rollback::model::host::Lease;
use rollback::model::ids::{Environment, OperationId};
use tokio::sync::{broadcast, watch};

use super::{Following, Progress, UPDATES_KEPT};

/// The operations that run now.
#[derive(Default)]
pub(super) struct Registry {
    draining: bool,
    running: HashMap<Environment, Running>,
}

struct Running {
    lease: Lease,
    latest: Progress,
    updates: broadcast::Sender<Progress>,
    takeover: watch::Sender<Option<OperationId>>,
}

/// Why an environment could not be taken.
pub(super) enum Taken {
    /// The agent drains.
    Draining,
    /// Another operation has it.
    Held(Box<Lease>),
}

impl Registry {
    /// Takes an environment for an operation; what comes back tells when an emergency takes it over.
    pub(super) fn take(
        &mut self,
        lease: Lease,
        first: Progress,
    ) -> Result<watch::Receiver<Option<OperationId>>, Taken> {
        if self.draining {
            return Err(Taken::Draining);
        }
        if let Some(running) = self.running.get(&lease.environment) {
            return Err(Taken::Held(Box::new(running.lease.clone())));
        }
        let (takeover, watched) = watch::channel(None);
        let (updates, _) = broadcast::channel(UPDATES_KEPT);
        self.running.insert(lease.environment.clone(), Running { lease, latest: first, updates, takeover });
        Ok(watched)
    }

    /// Gives an environment back.
    pub(super) fn release(&mut self, environment: &Environment) {
        self.running.remove(environment);
    }

    /// Accepts nothing new from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    pub(super) fn lease(&self, environment: &Environment) -> Option<Lease> {
        self.running.get(environment).map(|running| running.lease.clone())
    }

    pub(super) fn latest(&self, environment: &Environment) -> Option<Progress> {
        self.running.get(environment).map(|running| running.latest.clone())
    }

    /// Follows an operation that runs.
    pub(super) fn follow(&self, operation: OperationId) -> Option<Following> {
        self.running
            .values()
            .find(|running| running.lease.operation == operation)
            .map(|running| Following { so_far: running.latest.clone(), updates: running.updates.subscribe() })
    }

    /// Tells whoever runs in an environment that an emergency takes over; gives its updates to wait for its end.
    pub(super) fn supersede(
        &self,
        environment: &Environment,
        by: OperationId,
    ) -> Option<broadcast::Receiver<Progress>> {
        self.running.get(environment).map(|running| {
            running.takeover.send_replace(Some(by));
            running.updates.subscribe()
        })
    }

    pub(super) fn publish(&mut self, environment: &Environment, progress: Progress) {
        if let Some(running) = self.running.get_mut(environment) {
            running.latest = progress.clone();
            // Nobody following is no error.
            drop(running.updates.send(progress));
        }
    }
}
