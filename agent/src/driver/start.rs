//! From a request or a plan to a running operation, or to a refusal with nothing changed.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use rollback::engine;
use rollback::explain;
use rollback::model::host::{Lease, ObservedComponent};
use rollback::model::ids::OperationId;
use rollback::model::operation::{Destination, Operation, Request, Trigger, Urgency};
use rollback::model::plan::Plan;
use rollback::model::record::Record;
use rollback::model::refusal::Refusal;
use rollback::model::release::{Integrity, Manifest};
use rollback::model::text::Text;

use super::registry::{Orders, Taken};
use super::{Driver, Following, Progress};
use crate::config::Component;
use crate::observe::{Depth, blocking};
use crate::ports::{PortError, StoredOperation};

/// What is to be run.
#[derive(Debug, Clone)]
pub enum Order {
    /// Plan and run.
    Request(Request),
    /// Run a plan that was made before.
    Plan(Box<Plan>),
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A rule forbids it.
    #[error("{}", explain::refusal(.0))]
    Refused(Refusal),
    /// The host could not be looked at.
    #[error(transparent)]
    Failed(#[from] PortError),
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// How long an emergency waits for the operation it takes over to stop at its next step: the longest step is a stop
/// with its kill, and past that the emergency is refused rather than run beside it.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);

/// Stands for the reason that a plan lacks while it is made.
const NO_REASON: &str = "none was given";

impl Driver {
    /// Makes the plan of a request and changes nothing.
    ///
    /// # Errors
    /// When a rule forbids it, or the host cannot be looked at.
    pub async fn plan(&self, request: &Request) -> Result<Plan, StartError> {
        let component = self.select(request.component.as_ref(), request.environment.as_ref())?;
        let plan = match self.plan_for(request, &component).await {
            // Who only looks is told what will be missing.
            Err(StartError::Refused(refusal @ (Refusal::ReasonNeeded { .. } | Refusal::ForceNeeded { .. }))) => {
                let reason = request.reason.clone().or_else(|| Text::new(NO_REASON).ok());
                let allowed = Request { force: true, reason, ..request.clone() };
                let mut plan = Plan { request: request.clone(), ..self.plan_for(&allowed, &component).await? };
                plan.warnings.insert(0, format!("to run it: {}", explain::refusal(&refusal)));
                plan
            }
            made => made?,
        };
        self.note_planned(&plan);
        Ok(plan)
    }

    async fn plan_for(&self, request: &Request, component: &Component) -> Result<Plan, StartError> {
        if request.deploy.is_some() {
            // What is to be deployed may have been copied a moment ago. What cannot be adopted is refused below.
            self.adopt_now(component).await;
            if self.thaw(component, &request.to).await {
                self.adopt_now(component).await;
            }
        }
        let depth = match request.urgency {
            Urgency::Standard => Depth::PlanWithProbes,
            Urgency::Emergency => Depth::Plan,
        };
        let mut observed = self.observe(component, depth).await?;
        if request.deploy.is_some() {
            observed.automatic_rollbacks = self.automatic_rollbacks(component).await;
        }
        loop {
            let plan = engine::plan::plan(request, &observed, self.clock().now())?;
            if !self.prove(component, &plan, &mut observed).await? {
                return Ok(plan);
            }
        }
    }

    /// Forgets the configuration of a release that never ran, so that it is activated with what is there now; tells
    /// whether it did.
    async fn thaw(&self, component: &Component, to: &Destination) -> bool {
        let Destination::Named(text) = to else { return false };
        let memory = self.history().memory(&component.environment, &component.name).await;
        let (Ok(memory), true) = (memory, component.configuration.is_some()) else { return false };
        let (store, owned, text) = (Arc::clone(self.store()), component.clone(), text.clone());
        let thawed = blocking(move || {
            let current = store.current(&owned)?;
            let is_meant = |manifest: &Manifest| {
                manifest.id.as_str() == text
                    || manifest.version.as_ref().is_some_and(|version| version.as_str() == text)
            };
            let meant: Vec<_> = store.manifests(&owned)?.into_iter().filter(is_meant).collect();
            let [manifest] = &meant[..] else { return Ok(false) };
            let ran = memory.activations.iter().any(|known| known.release == manifest.id);
            if ran || current.release() == Some(&manifest.id) {
                return Ok(false);
            }
            store.thaw(&owned, &manifest.id).map(|()| true)
        });
        // What cannot be thawed is deployed with what was frozen.
        thawed.await.unwrap_or(false)
    }

    /// Proves the integrity of a plan's candidates, which observing for a plan has assumed; tells whether one is not
    /// intact, so that another plan must be made. Ends because each turn of the caller finds one release more.
    async fn prove(
        &self,
        component: &Component,
        plan: &Plan,
        observed: &mut ObservedComponent,
    ) -> Result<bool, PortError> {
        let now = self.clock().now();
        let mut changed = false;
        for id in &plan.candidates {
            let (store, owned, id) = (Arc::clone(self.store()), component.clone(), id.clone());
            let full = component.policy.full_read;
            let found = blocking(move || {
                let integrity =
                    if full { store.verify(&owned, &id, now, &|_| {}) } else { store.check(&owned, &id, now) };
                Ok((id, integrity))
            })
            .await?;
            if matches!(found.1, Integrity::Intact { .. }) {
                continue;
            }
            if let Some(release) = observed.releases.iter_mut().find(|release| *release.id() == found.0)
                && release.integrity != found.1
            {
                release.integrity = found.1;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Begins an operation, or follows the one that has this identifier already: the same order twice has one effect.
    ///
    /// When this returns, the intent is durable, and the operation goes on without its caller.
    ///
    /// # Errors
    /// When a rule forbids it (which is recorded), or the host cannot be looked at; nothing has changed then.
    pub async fn start(&self, order: Order, actor: String) -> Result<Following, StartError> {
        let request = match &order {
            Order::Request(request) => request.clone(),
            Order::Plan(plan) => plan.request.clone(),
        };
        if let Some(following) = self.known(request.operation).await {
            return Ok(following);
        }
        let result = self.begin(order, actor.clone()).await;
        // The same order may have come twice at once: what it was refused for is then that it runs already.
        if result.is_err()
            && let Some(following) = self.known(request.operation).await
        {
            return Ok(following);
        }
        if let Err(StartError::Refused(refusal)) = &result {
            self.refused(&request, &actor, refusal).await;
        }
        result
    }

    async fn known(&self, id: OperationId) -> Option<Following> {
        if let Some(following) = self.registry(|registry| registry.follow(id)) {
            return Some(following);
        }
        let stored = match self.history().operation(id).await {
            Ok(Some(stored)) if stored.ended => stored,
            // While the history is down the intent journal keeps outcomes.
            Ok(_) | Err(_) => self.kept(id).await?,
        };
        let head = self.history().head().await.ok();
        stored.ended.then(|| Following {
            so_far: Progress { operation: Arc::new(stored.operation), doing: None, head },
            updates: self.follow_all(),
        })
    }

    /// Finds an operation whose outcome the intent journal alone has.
    async fn kept(&self, id: OperationId) -> Option<StoredOperation> {
        let journal = Arc::clone(&self.inner.ports.journal);
        let slots = blocking(move || journal.load()).await.ok()?;
        let operation = slots.into_iter().flatten().find(|operation| operation.id == id)?;
        operation.outcome()?;
        Some(StoredOperation { operation, evidence: Vec::new(), ended: true })
    }

    async fn begin(&self, order: Order, actor: String) -> Result<Following, StartError> {
        let (plan, component) = self.confirmed(order).await?;
        // An emergency that came twice at once must not take over from itself.
        if let Some(following) = self.registry(|registry| registry.follow(plan.request.operation)) {
            return Ok(following);
        }
        if plan.takes_over.is_some() {
            self.take_over(&plan, &actor).await?;
        }
        self.writable(&component).await?;
        let now = self.clock().now();
        let operation = engine::step::begin(plan, Trigger::Manual, actor.clone(), now);
        let launched = self.launch(component.clone(), operation.clone()).await;
        // A watch may have begun since the plan was made: another hand has switched. It gives way like any other.
        let waits =
            self.registry(|registry| registry.lease(&component.environment)).is_some_and(|lease| lease.gives_way);
        match launched {
            Err(Refusal::Held { .. }) if waits => {
                self.take_over(&operation.plan, &actor).await?;
                Ok(self.launch(component, operation).await?)
            }
            launched => Ok(launched?),
        }
    }

    /// Refuses, before anything is stopped, what could not be switched.
    async fn writable(&self, component: &Component) -> Result<(), Refusal> {
        let (store, owned) = (Arc::clone(self.store()), component.clone());
        let ready = blocking(move || store.writable(&owned)).await;
        ready.map_err(|error| Refusal::NotReady { cause: rollback::chain::Chain(&error).to_string() })
    }

    /// Takes the environment, makes the intent durable, and runs the operation in a task of its own.
    pub(super) async fn launch(&self, component: Component, operation: Operation) -> Result<Following, Refusal> {
        let orders = self.take(&component, &operation)?;
        let (journal, intent) = (Arc::clone(&self.inner.ports.journal), operation.clone());
        if let Err(error) = blocking(move || journal.put(&intent, true)).await {
            self.registry(|registry| registry.release(&component.environment));
            return Err(Refusal::NotReady { cause: rollback::chain::Chain(&error).to_string() });
        }
        let following = self.registry(|registry| registry.follow(operation.id));
        let driver = self.clone();
        self.inner.tasks.spawn(async move { driver.run(component, operation, orders, true).await });
        following.ok_or_else(|| Refusal::NotReady { cause: "the operation ended at once".to_owned() })
    }

    /// Gives the plan to run: made now, or shown to be what would be made now.
    async fn confirmed(&self, order: Order) -> Result<(Plan, Component), StartError> {
        match order {
            Order::Request(request) => {
                let component = self.select(request.component.as_ref(), request.environment.as_ref())?;
                Ok((self.plan_for(&request, &component).await?, component))
            }
            Order::Plan(old) => {
                let component = self.select(Some(&old.component), Some(&old.environment))?;
                let host = self.settings().host.clone();
                if old.host != host {
                    let changes = vec![format!("host: the plan is for `{}`, this is `{host}`", old.host)];
                    return Err(Refusal::HostChanged { changes }.into());
                }
                let made = self.plan_for(&old.request, &component).await;
                let new = match made {
                    Ok(plan) => plan,
                    Err(StartError::Refused(refusal)) => {
                        let observed = self.observe(&component, Depth::Plan).await?;
                        let changes = engine::plan::changes(&old.facts, &engine::plan::facts(&observed));
                        let refusal = if changes.is_empty() { refusal } else { Refusal::HostChanged { changes } };
                        return Err(refusal.into());
                    }
                    Err(failed @ StartError::Failed(_)) => return Err(failed),
                };
                let changes = engine::plan::changes(&old.facts, &new.facts);
                if changes.is_empty() && new.candidates == old.candidates {
                    Ok((new, component))
                } else {
                    Err(Refusal::HostChanged { changes }.into())
                }
            }
        }
    }

    pub(super) fn take(&self, component: &Component, operation: &Operation) -> Result<Orders, Refusal> {
        let now = self.clock().now();
        let lasts = SignedDuration::from_secs(i64::try_from(component.policy.lease_secs).unwrap_or(i64::MAX));
        let lease = Lease {
            environment: component.environment.clone(),
            operation: operation.id,
            holder: operation.actor.clone(),
            reason: operation.plan.request.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
            since: operation.accepted_at,
            expires: now.checked_add(lasts).unwrap_or(now),
            gives_way: false,
        };
        let first = Progress { operation: Arc::new(operation.clone()), doing: None, head: None };
        self.registry(|registry| registry.take(lease, first)).map_err(|taken| match taken {
            Taken::Draining => Refusal::NotReady { cause: "the agent is shutting down".to_owned() },
            Taken::Held(lease) => Refusal::Held { lease },
        })
    }

    async fn take_over(&self, plan: &Plan, actor: &str) -> Result<(), Refusal> {
        let (environment, by) = (&plan.environment, plan.request.operation);
        let Some(lease) = self.registry(|registry| registry.lease(environment)) else { return Ok(()) };
        if plan.request.urgency == Urgency::Standard && !lease.gives_way {
            // It has stopped waiting since the plan was made.
            return Err(Refusal::Held { lease: Box::new(lease) });
        }
        let Some(mut updates) = self.registry(|registry| registry.supersede(environment, by)) else { return Ok(()) };
        let over = async { while updates.recv().await.is_ok() {} };
        tokio::select! {
            () = over => {}
            () = self.clock().sleep(TAKEOVER_LIMIT) => return Err(Refusal::Held { lease: Box::new(lease) }),
        }
        self.note(Record::LeaseTakenOver {
            environment: environment.clone(),
            from: lease.operation,
            by,
            actor: actor.to_owned(),
        })
        .await;
        Ok(())
    }
}
