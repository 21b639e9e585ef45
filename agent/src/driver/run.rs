//! Runs one operation to its outcome: ask the engine, write it down, perform, tell the engine.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rollback::chain::Chain;
use rollback::engine;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::host::Lease;
use rollback::model::ids::ReleaseId;
use rollback::model::operation::{ChainHead, Evidence, Operation, Step};
use rollback::model::record::Record;

use super::registry::Orders;
use super::{Driver, Progress};
use crate::config::{Backend, Component};
use crate::observe::blocking;
use crate::ports::{History, PortError, Tail};

/// Journal lines kept of what is left: two screens.
const EVIDENCE_LINES_MAX: usize = 50;

impl Driver {
    /// Runs an operation whose intent is durable. `fresh` is false when it goes on after a crash.
    pub(super) async fn run(&self, component: Component, operation: Operation, mut orders: Orders, fresh: bool) {
        let ports = self.inner.ports.clone();
        let started = fresh.then(|| Record::OperationStarted { operation: Box::new(operation.clone()) });
        let begun = {
            let (history, now) = (Arc::clone(&ports.history), operation.accepted_at);
            let lease = self.registry(|registry| registry.lease(&component.environment));
            // Not flushed and not waited for: the intent journal carries the operation through a crash.
            tokio::spawn(async move { begun(history.as_ref(), now, started, lease).await })
        };
        self.forget_health(&component);
        // Plain processes keep one log, to which the next release writes; the journal knows when a line came, and is read
        // when nobody waits any more.
        let is_early = matches!(component.backend, Backend::Process { .. });
        let early = if is_early { self.last_lines(&component, &operation).await } else { Vec::new() };
        let mut evidence = vec![self.evidence_before(&operation)];
        let mut operation = operation;
        loop {
            operation = self.steps(&component, operation, &mut orders, &mut evidence).await;
            if operation.outcome().is_none() {
                // The agent goes while the operation only waits: the intent stands, and the next agent takes it up.
                return;
            }
            operation = self.disarm(operation).await;
            if operation.outcome().is_some() {
                break;
            }
            // The dead-man's switch has fired and was cut off: the agent does the rest.
        }
        if let Some(first) = evidence.first_mut() {
            first.journal = early;
        }
        if let Ok(Err(error)) = begun.await {
            tracing::warn!(operation = %operation.id, "{}", Chain(&error));
        }
        let head = self.record_end(&operation, evidence).await;
        let left = operation.clone();
        self.finish(&component, operation, head).await;
        if !is_early {
            self.save_lines(&component, &left).await;
        }
    }

    /// Keeps the last lines of what an operation left. An agent that dies before has lost them, not the journal.
    async fn save_lines(&self, component: &Component, operation: &Operation) {
        let journal = self.last_lines(component, operation).await;
        if !journal.is_empty() {
            self.note(Record::EvidenceSaved { operation: operation.id, journal }).await;
        }
    }

    async fn steps(
        &self,
        component: &Component,
        mut operation: Operation,
        orders: &mut Orders,
        evidence: &mut Vec<Evidence>,
    ) -> Operation {
        while let Some(effect) = engine::step::next_effect(&operation) {
            let taken_over = *orders.takeover.borrow();
            if let Some(by) = taken_over {
                return engine::step::supersede(operation, by);
            }
            let asks = matches!(effect, Effect::Decided { .. });
            let waits = asks || matches!(effect, Effect::Watched { .. } | Effect::Confirmed { .. });
            let begins = waits && if asks { operation.asked.is_none() } else { operation.watched.is_none() };
            if asks {
                let lasts_ms = super::decide::ask_ms(component, &operation);
                operation = engine::step::begin_asking(operation, self.moment(), lasts_ms);
            } else if waits {
                operation = engine::step::begin_watch(operation, self.moment());
            }
            let current = Arc::new(operation.clone());
            let doing = Progress { operation: Arc::clone(&current), doing: Some(effect.clone()), head: None };
            self.publish(&component.environment, doing);
            let journal = Arc::clone(&self.inner.ports.journal);
            // The begin of a watch is durable, so that a crash does not give it its time back.
            if let Err(error) = blocking(move || journal.put(&current, waits)).await {
                // The durable intent stands; recovery goes by observation, so a lost phase costs only a repetition.
                tracing::warn!(operation = %operation.id, "{}", Chain(&error));
            }
            if begins {
                self.arm_again(component, &operation).await;
            }
            let attempt = operation.attempt;
            let step = if waits {
                let (as_it_is, step) = self.wait(component, operation, effect, orders).await;
                operation = as_it_is;
                match step {
                    Some(step) => step,
                    None if self.inner.leaving.is_cancelled() => return operation,
                    None => continue,
                }
            } else if matches!(effect, Effect::Verified { .. }) {
                // Who takes over does not wait for a judgement that nobody needs any more.
                tokio::select! {
                    step = self.perform(component, &operation, effect) => step,
                    _ = orders.takeover.changed() => continue,
                }
            } else {
                self.perform(component, &operation, effect).await
            };
            operation = engine::step::step(operation, step);
            if operation.attempt != attempt {
                evidence.push(self.evidence_of_failure(component, &operation, attempt).await);
            }
        }
        operation
    }

    async fn perform(&self, component: &Component, operation: &Operation, effect: Effect) -> Step {
        let ports = &self.inner.ports;
        let (began_at, began) = (ports.clock.now(), ports.clock.boottime());
        let timeouts = operation.plan.timeouts;
        let done = match &effect {
            Effect::DeadManArmed { .. } => self.arm(component, operation).await,
            Effect::UnitsStopped { units } => {
                ports.units.stop(component, units, Duration::from_millis(timeouts.stop_ms)).await
            }
            Effect::UnitsStarted { units } => {
                ports.units.start(component, units, Duration::from_millis(timeouts.start_ms)).await
            }
            Effect::CurrentLinked { release } => {
                self.note_linked(component, release);
                let (store, component, release) = (Arc::clone(&ports.store), component.clone(), release.clone());
                blocking(move || store.link_current(&component, &release)).await
            }
            Effect::ConfigurationLinked { release } => {
                let (store, component, release) = (Arc::clone(&ports.store), component.clone(), release.clone());
                blocking(move || store.link_configuration(&component, &release)).await
            }
            Effect::Verified { .. } | Effect::Watched { .. } | Effect::Confirmed { .. } | Effect::Decided { .. } => {
                Ok(())
            }
        };
        let end = match (&effect, done) {
            (Effect::Verified { .. }, _) => self.verify(component, operation).await,
            (_, Ok(())) => EffectEnd::Ensured,
            (_, Err(error)) => EffectEnd::Failed { error: Chain(&error).to_string() },
        };
        let took = ports.clock.boottime().saturating_sub(began);
        if let EffectEnd::Failed { error } = &end {
            tracing::error!(operation = %operation.id, step = effect.name(), "{error}");
        }
        Step {
            effect,
            began_at,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            end,
            recovered: operation.recoveries > 0,
        }
    }

    /// Remembers where this agent leads `current`, so that its own switch is never taken for another hand's.
    fn note_linked(&self, component: &Component, release: &ReleaseId) {
        let key = (component.environment.clone(), component.name.clone());
        self.inner.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(key, release.clone());
    }

    /// Forgets it, once another hand has gone on from there.
    pub(super) fn forget_linked(&self, component: &Component) {
        let key = (component.environment.clone(), component.name.clone());
        self.inner.linked.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Tells whether this agent led `current` there last.
    pub(super) fn is_linked(&self, component: &Component, release: &ReleaseId) -> bool {
        let key = (component.environment.clone(), component.name.clone());
        self.inner.linked.lock().unwrap_or_else(PoisonError::into_inner).get(&key) == Some(release)
    }

    /// Reads what the units of the release that is left had said when the operation began.
    async fn last_lines(&self, component: &Component, operation: &Operation) -> Vec<String> {
        let tail = Tail { lines_max: EVIDENCE_LINES_MAX, until: Some(operation.accepted_at) };
        self.inner.ports.units.log_tail(component, &operation.plan.units, tail).await
    }

    fn evidence_before(&self, operation: &Operation) -> Evidence {
        let pids = operation.plan.baseline.units.iter().filter_map(|unit| unit.main_pid);
        Evidence {
            release: operation.plan.from.clone(),
            health: operation.plan.baseline.clone(),
            journal: Vec::new(),
            processes: pids.filter_map(|pid| self.inner.ports.facts.process(pid)).collect(),
        }
    }

    async fn evidence_of_failure(&self, component: &Component, operation: &Operation, attempt: usize) -> Evidence {
        let units = &self.inner.ports.units;
        let health = operation.steps.last().and_then(|step| match &step.end {
            EffectEnd::Judged { health, .. } => Some(health.clone()),
            EffectEnd::Ensured | EffectEnd::Decided { .. } | EffectEnd::Failed { .. } => None,
        });
        let names = &operation.plan.units;
        let health = match health {
            Some(health) => health,
            None => rollback::model::health::Health {
                units: units.states(component, names).await.unwrap_or_default(),
                probes: Vec::new(),
            },
        };
        Evidence {
            release: operation.plan.candidates.get(attempt).or(operation.plan.from.as_ref()).cloned(),
            processes: health.units.iter().filter_map(|u| self.inner.ports.facts.process(u.main_pid?)).collect(),
            health,
            journal: units.log_tail(component, names, Tail { lines_max: EVIDENCE_LINES_MAX, until: None }).await,
        }
    }

    /// Records the outcome: in the history, or, when that cannot be written, durably in the intent journal until it can.
    pub(super) async fn record_end(&self, operation: &Operation, evidence: Vec<Evidence>) -> Option<ChainHead> {
        let ports = &self.inner.ports;
        let mut records = vec![Record::OperationEnded { operation: Box::new(operation.clone()), evidence }];
        if let Some((tree, reason)) = engine::step::condemned(operation) {
            tracing::warn!(operation = %operation.id, "quarantined: {reason}");
            records.push(Record::Quarantined { tree, reason, actor: "agent".to_owned() });
        }
        let recorded = ports.history.append(ports.clock.now(), records, true).await;
        let (journal, kept) = (Arc::clone(&ports.journal), operation.clone());
        let (head, freed): (_, Result<(), PortError>) = match recorded {
            Ok(head) => (Some(head), blocking(move || journal.clear(kept.id)).await),
            Err(error) => {
                tracing::error!(operation = %operation.id, "{}; the outcome is kept in the intent journal", Chain(&error));
                (None, blocking(move || journal.put(&kept, true)).await)
            }
        };
        if let Err(error) = freed {
            tracing::error!(operation = %operation.id, "{}", Chain(&error));
        }
        if head.is_some() {
            self.forget_fired(operation).await;
        }
        head
    }

    async fn finish(&self, component: &Component, operation: Operation, head: Option<ChainHead>) {
        let (environment, id) = (&component.environment, operation.id);
        if let Some(outcome) = operation.outcome() {
            tracing::info!(operation = %operation.id, component = %component.name, %environment, "{}", rollback::explain::outcome(outcome));
        }
        let last = Progress { operation: Arc::new(operation), doing: None, head };
        self.publish(environment, last);
        self.registry(|registry| registry.release(environment));
        // What is stored of the lease is for people; it goes after the answer.
        if let Err(error) = self.history().drop_lease(environment, id).await {
            tracing::warn!("{}", Chain(&error));
        }
        self.remember_health(component).await;
        self.prune(component).await;
    }
}

/// Stores that an operation has begun, and its lease.
async fn begun(
    history: &dyn History,
    now: Timestamp,
    started: Option<Record>,
    lease: Option<Lease>,
) -> Result<(), PortError> {
    if let Some(record) = started {
        history.append(now, vec![record], false).await?;
    }
    match lease {
        Some(lease) => history.put_lease(lease).await,
        None => Ok(()),
    }
}
