//! Which operation runs in which environment: at most one, whose lease this is.

use std::collections::HashMap;

use rollback::model::decision::Choice;
use rollback::model::host::Lease;
use rollback::model::ids::{Environment, OperationId};
use rollback::model::text::Text;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{Following, Progress, UPDATES_KEPT};

/// Words that wait: one is enough, and who comes later waits.
const WORDS_WAITING_MAX: usize = 1;

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
    words: mpsc::Sender<Said>,
}

/// What somebody says to an operation that waits.
pub(super) enum Word {
    /// The release is well.
    Confirm,
    /// What is to be done.
    Decide {
        /// What was chosen.
        choice: Choice,
        /// Why.
        reason: Option<Text>,
    },
    /// Something is wrong that the agent does not see.
    Alert {
        /// What, and who says so.
        text: String,
    },
}

/// A word, and whose it is.
pub(super) struct Said {
    /// What was said.
    pub(super) word: Word,
    /// By whom.
    pub(super) by: String,
    /// Told whether it was heard, which is durable then.
    pub(super) done: oneshot::Sender<bool>,
}

/// What others tell an operation that runs.
pub(super) struct Orders {
    /// Which operation takes over from it.
    pub(super) takeover: watch::Receiver<Option<OperationId>>,
    /// What people say to it.
    pub(super) words: mpsc::Receiver<Said>,
}

/// Why an environment could not be taken.
pub(super) enum Taken {
    /// The agent drains.
    Draining,
    /// Another operation has it.
    Held(Box<Lease>),
}

impl Registry {
    /// Takes an environment for an operation; what comes back is what others tell it.
    pub(super) fn take(&mut self, lease: Lease, first: Progress) -> Result<Orders, Taken> {
        if self.draining {
            return Err(Taken::Draining);
        }
        if let Some(running) = self.running.get(&lease.environment) {
            return Err(Taken::Held(Box::new(running.lease.clone())));
        }
        let (takeover, taken_over) = watch::channel(None);
        let (updates, _) = broadcast::channel(UPDATES_KEPT);
        let (words, said) = mpsc::channel(WORDS_WAITING_MAX);
        let running = Running { latest: first, updates, takeover, words, lease };
        self.running.insert(running.lease.environment.clone(), running);
        Ok(Orders { takeover: taken_over, words: said })
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
        self.running
            .get(environment)
            .map(|running| Lease { gives_way: running.latest.operation.is_waiting(), ..running.lease.clone() })
    }

    /// Gives where an operation that waits takes what is said to it.
    pub(super) fn words(&self, operation: OperationId) -> Option<mpsc::Sender<Said>> {
        let mut running = self.running.values();
        let running = running.find(|running| running.lease.operation == operation)?;
        running.latest.operation.is_waiting().then(|| running.words.clone())
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

    /// Tells whoever runs in an environment that another operation takes over; gives its updates to wait for its end.
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
