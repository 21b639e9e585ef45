//! The loop: an event goes to the engine, the engine's answer to the intent journal, then to the host.
//!
//! The driver decides nothing: what to do next is [`rollback::engine::step`]'s word, what to do after a crash is
//! [`rollback::engine::recover`]'s. It makes the order of writes certain: the intent is durable before the first
//! effect, the outcome is recorded after the last.

mod dead_man;
mod decide;
mod external;
pub mod journal;
mod push;
mod registry;
mod resume;
mod retain;
mod run;
mod start;
mod verify;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rollback::model::effect::Effect;
use rollback::model::health::Health;
use rollback::model::host::ObservedComponent;
use rollback::model::ids::{ComponentName, Environment, ReleaseId};
use rollback::model::operation::{ChainHead, Operation, Request};
use rollback::model::record::Record;
use rollback::model::refusal::Refusal;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Component, Settings};
use crate::observe::{self, Depth};
use crate::ports::{Clock, DeadMan, Facts, History, IntentJournal, PortError, Prober, Store, Units};
pub use push::{Begun, PushOf};
use registry::Registry;
pub use start::{Order, StartError};

/// Updates kept for a slow reader: more than any operation has; a reader that lags behind reads the history instead.
const UPDATES_KEPT: usize = 256;

/// What the driver acts through.
#[derive(Clone)]
pub struct Ports {
    /// Releases and links.
    pub store: Arc<dyn Store>,
    /// The service manager.
    pub units: Arc<dyn Units>,
    /// Probes.
    pub prober: Arc<dyn Prober>,
    /// The history.
    pub history: Arc<dyn History>,
    /// The intent journal.
    pub journal: Arc<dyn IntentJournal>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Facts about processes.
    pub facts: Arc<dyn Facts>,
    /// The dead-man's switches.
    pub dead_man: Arc<dyn DeadMan>,
}

/// An operation as it stands, with what is being done now.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The operation.
    pub operation: Arc<Operation>,
    /// What is being done; none when it is over.
    pub doing: Option<Effect>,
    /// The head of the history; set when it is over and recorded.
    pub head: Option<ChainHead>,
}

/// An operation that is followed.
#[derive(Debug)]
pub struct Following {
    /// How it stands; has an outcome when it is over already.
    pub so_far: Progress,
    /// What comes after.
    pub updates: broadcast::Receiver<Progress>,
}

/// The driver's handle; clones share one driver.
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    ports: Ports,
    settings: Arc<ArcSwap<Settings>>,
    registry: Mutex<Registry>,
    all: broadcast::Sender<Progress>,
    tasks: TaskTracker,
    problems: Mutex<Vec<String>>,
    /// Says to what only waits that the agent goes; the next one takes it up.
    leaving: CancellationToken,
    /// How each component did while nothing happened.
    baselines: Mutex<HashMap<(Environment, ComponentName), Health>>,
    /// What somebody may apply yet.
    planned: Mutex<Vec<retain::Planned>>,
    /// Where each component's `current` was led by this agent last.
    linked: Mutex<HashMap<(Environment, ComponentName), ReleaseId>>,
}

impl Driver {
    /// Makes a driver; nothing is done until [`Driver::recover`].
    #[must_use]
    pub fn new(ports: Ports, settings: Arc<ArcSwap<Settings>>) -> Self {
        let (all, _) = broadcast::channel(UPDATES_KEPT);
        let inner = Inner {
            ports,
            settings,
            registry: Mutex::default(),
            all,
            tasks: TaskTracker::new(),
            problems: Mutex::default(),
            leaving: CancellationToken::new(),
            baselines: Mutex::default(),
            planned: Mutex::default(),
            linked: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives the one component that is meant.
    ///
    /// # Errors
    /// When none or several match.
    pub fn select(
        &self,
        component: Option<&ComponentName>,
        environment: Option<&Environment>,
    ) -> Result<Component, Refusal> {
        let label = |c: &Component| format!("{}/{}", c.environment, c.name);
        let mut matching = self.select_all(component, environment);
        match matching.len() {
            1 => Ok(matching.remove(0)),
            0 => Err(Refusal::NoSuchComponent {
                component: component.cloned(),
                environment: environment.cloned(),
                known: self.select_all(None, None).iter().map(label).collect(),
            }),
            _ => Err(Refusal::AmbiguousComponent { matching: matching.iter().map(label).collect() }),
        }
    }

    /// Gives every component that matches.
    #[must_use]
    pub fn select_all(&self, component: Option<&ComponentName>, environment: Option<&Environment>) -> Vec<Component> {
        let settings = self.inner.settings.load();
        let matches =
            |c: &&Component| component.is_none_or(|n| *n == c.name) && environment.is_none_or(|e| *e == c.environment);
        settings.components.values().filter(matches).cloned().collect()
    }

    /// Looks at a component.
    ///
    /// # Errors
    /// When its links or manifests cannot be read.
    pub async fn observe(&self, component: &Component, depth: Depth) -> Result<ObservedComponent, PortError> {
        let host = self.inner.settings.load().host.clone();
        let mut observed = observe::observe(&self.inner.ports, host, component, depth).await?;
        observed.lease = self.registry(|registry| registry.lease(&component.environment));
        Ok(observed)
    }

    /// Follows every operation from now on.
    #[must_use]
    pub fn follow_all(&self) -> broadcast::Receiver<Progress> {
        self.inner.all.subscribe()
    }

    /// Gives the operation that runs in an environment.
    #[must_use]
    pub fn running(&self, environment: &Environment) -> Option<Operation> {
        self.registry(|registry| registry.latest(environment)).map(|progress| (*progress.operation).clone())
    }

    /// Accepts nothing new and waits for what runs, at most for `limit`; what still runs then, and what only waits, is
    /// found by the next start.
    pub async fn drain(&self, limit: Duration) {
        self.registry(Registry::drain);
        self.inner.leaving.cancel();
        self.inner.tasks.close();
        tokio::select! {
            () = self.inner.tasks.wait() => {}
            () = self.inner.ports.clock.sleep(limit) => {}
        }
    }

    /// Records that a request was refused. A history that cannot be written does not change the answer.
    pub async fn refused(&self, request: &Request, actor: &str, refusal: &Refusal) {
        tracing::warn!(operation = %request.operation, actor, code = refusal.code(), "refused: {}", rollback::explain::refusal(refusal));
        let selected = self.select(request.component.as_ref(), request.environment.as_ref()).ok();
        let record = Record::OperationRefused {
            operation: request.operation,
            component: selected.as_ref().map(|c| c.name.clone()).or_else(|| request.component.clone()),
            environment: selected.map(|c| c.environment).or_else(|| request.environment.clone()),
            actor: actor.to_owned(),
            refusal: refusal.clone(),
        };
        self.note(record).await;
    }

    /// Appends a record outside of any operation, durably; a failure is logged and shows as a problem.
    pub async fn note(&self, record: Record) {
        let ports = &self.inner.ports;
        if let Err(error) = ports.history.append(ports.clock.now(), vec![record], true).await {
            tracing::error!("{}", rollback::chain::Chain(&error));
        }
    }

    /// The history.
    #[must_use]
    pub fn history(&self) -> &Arc<dyn History> {
        &self.inner.ports.history
    }

    /// The releases on disk.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.ports.store
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.ports.clock
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.inner.settings.load()
    }

    /// Says what is wrong, one sentence each: what adoption and recovery found, and what ails the history.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.inner.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
        problems.extend(self.inner.ports.history.degraded());
        problems
    }

    fn set_problems(&self, problems: Vec<String>) {
        *self.inner.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    /// Runs something under the registry's lock, which is never held across an await.
    fn registry<T>(&self, act: impl FnOnce(&mut Registry) -> T) -> T {
        act(&mut self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, environment: &Environment, progress: Progress) {
        self.registry(|registry| registry.publish(environment, progress.clone()));
        // Nobody following is no error.
        drop(self.inner.all.send(progress));
    }
}
