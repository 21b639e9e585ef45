//! What is done before serving: adopt what is on disk, and converge what a crash has interrupted.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollback::chain::Chain;
use rollback::engine::recover::{Recovery, recover};
use rollback::model::host::Current;
use rollback::model::ids::{OperationId, ReleaseId};
use rollback::model::operation::Operation;
use rollback::model::record::Record;
use rollback::model::release::{Integrity, Origin};
use tokio::sync::broadcast::error::RecvError;

use super::Driver;
use super::registry::Orders;
use crate::config::{Backend, Component};
use crate::observe::blocking;
use crate::ports::{PortError, Store};

/// How long after it was recorded a release that never ran may still be in the making: a copy over a slow line stands
/// still for a minute at most.
const MAKING_MAX: SignedDuration = SignedDuration::from_mins(10);

/// Forgets adopted releases that were still being copied when they were recorded: they have changed since, and never ran.
/// What ran once is never forgotten, so that whoever changes it is found out.
fn forget_unfinished(
    store: &dyn Store,
    component: &Component,
    activated: &[ReleaseId],
    now: Timestamp,
) -> Result<(), PortError> {
    for manifest in store.manifests(component)? {
        let is_young = now.duration_since(manifest.recorded_at) < MAKING_MAX;
        if !is_young || manifest.origin != Origin::Adopted || activated.contains(&manifest.id) {
            continue;
        }
        if let Integrity::Damaged { .. } = store.check(component, &manifest.id, now) {
            store.forget(component, &manifest.id)?;
        }
    }
    Ok(())
}

impl Driver {
    /// Adopts releases, then brings every interrupted operation to its outcome, or to where it only waits, and then looks
    /// for what other hands have switched meanwhile. Gives what an operator should know.
    ///
    /// An operation that is found again and again is given up by the engine after a count, so that this ends.
    pub async fn recover(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for component in self.select_all(None, None) {
            problems.extend(self.adopt_releases(&component, &mut Vec::new()).await.err());
        }
        problems.extend(self.converge().await);
        problems.extend(self.adopt_all().await);
        self.set_problems(problems.clone());
        problems
    }

    /// Records outcomes that only the intent journal holds, adopts new directories of every component, and notes a
    /// `current` that was switched by another hand. Gives what went wrong, one sentence each.
    pub async fn adopt_all(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.record_kept().await);
        for component in self.select_all(None, None) {
            if let Err(problem) = self.adopt(&component, &mut problems).await {
                problems.push(problem);
            }
        }
        self.set_problems(problems.clone());
        problems
    }

    /// Adopts what was laid down in a component's releases directory; what cannot be adopted is told by the next look.
    pub async fn adopt_now(&self, component: &Component) {
        drop(self.adopt_releases(component, &mut Vec::new()).await);
    }

    /// Starts the units of components whose service manager is the agent itself, as systemd starts its own at boot.
    pub async fn start_own_units(&self) {
        for component in self.select_all(None, None) {
            let limit = Duration::from_millis(component.timeouts.start_ms);
            if matches!(component.backend, Backend::Process { .. })
                && let Err(error) = self.inner.ports.units.start(&component, &component.units, limit).await
            {
                tracing::error!(component = %component.name, "{}", Chain(&error));
            }
        }
    }

    async fn adopt(&self, component: &Component, problems: &mut Vec<String>) -> Result<(), String> {
        self.adopt_releases(component, problems).await?;
        self.look_at_current(component, problems).await
    }

    /// Adopts new directories of a component, and those anew that were still being copied when they were adopted.
    pub(super) async fn adopt_releases(&self, component: &Component, problems: &mut Vec<String>) -> Result<(), String> {
        let label = format!("{}/{}", component.environment, component.name);
        let chained = |error: &PortError| format!("{label}: {}", Chain(error));
        let memory =
            self.history().memory(&component.environment, &component.name).await.map_err(|error| chained(&error))?;
        let (store, owned, now) = (Arc::clone(self.store()), component.clone(), self.clock().now());
        let activated: Vec<ReleaseId> = memory.activations.iter().map(|known| known.release.clone()).collect();
        let adopted = blocking(move || {
            forget_unfinished(store.as_ref(), &owned, &activated, now)?;
            store.adopt(&owned, now)
        });
        let adopted = adopted.await.map_err(|error| chained(&error))?;
        problems.extend(
            adopted.skipped.into_iter().map(|(name, why)| format!("{label}: `{name}` is not a release: {why}")),
        );
        for manifest in adopted.manifests {
            let (component, environment) = (component.name.clone(), component.environment.clone());
            self.note(Record::ReleaseAdopted { component, environment, manifest }).await;
        }
        Ok(())
    }

    /// Looks where `current` leads, and takes what another hand has switched.
    async fn look_at_current(&self, component: &Component, problems: &mut Vec<String>) -> Result<(), String> {
        let label = format!("{}/{}", component.environment, component.name);
        let chained = |error: &PortError| format!("{label}: {}", Chain(error));
        let (store, owned) = (Arc::clone(self.store()), component.clone());
        let current = blocking(move || store.current(&owned)).await.map_err(|error| chained(&error))?;
        let memory =
            self.history().memory(&component.environment, &component.name).await.map_err(|error| chained(&error))?;
        match current {
            Current::Release(release) => {
                let last = memory.activations.last().map(|last| last.release.clone());
                if self.running(&component.environment).is_some() {
                    // What an operation of this agent does is recorded by it.
                } else if last.as_ref() == Some(&release) {
                    // Probes may hang, and nobody waits for a baseline.
                    let (driver, component) = (self.clone(), component.clone());
                    tokio::spawn(async move { driver.remember_health(&component).await });
                } else if !self.is_linked(component, &release) {
                    problems.extend(self.activated_by_another_hand(component, release, last).await);
                }
            }
            Current::Missing | Current::Dangling(_) | Current::Outside(_) | Current::NotALink => {
                problems.push(format!("{label}: `{}` {}", component.current, rollback::explain::current(&current)));
            }
        }
        Ok(())
    }

    /// Records the outcomes of operations that ended while the history could not be written.
    async fn record_kept(&self) -> Option<String> {
        let journal = Arc::clone(&self.inner.ports.journal);
        let slots = match blocking(move || journal.load()).await {
            Ok(slots) => slots,
            Err(error) => return Some(Chain(&error).to_string()),
        };
        let is_kept = |operation: &Operation| {
            let runs = self.registry(|registry| registry.follow(operation.id)).is_some();
            operation.outcome().is_some() && !runs
        };
        let kept: Vec<Operation> = slots.into_iter().flatten().filter(is_kept).collect();
        for operation in &kept {
            // One whose append timed out may be there all the same.
            if self.is_recorded(operation.id).await {
                if let Some(problem) = self.free(operation.id).await {
                    return Some(problem);
                }
            } else if self.record_end(operation, Vec::new()).await.is_none() {
                return Some(format!("the outcome of operation {} is kept in the intent journal alone", operation.id));
            }
        }
        None
    }

    async fn is_recorded(&self, id: OperationId) -> bool {
        self.history().operation(id).await.ok().flatten().is_some_and(|stored| stored.ended)
    }

    /// Frees the slot of an operation; gives what went wrong.
    async fn free(&self, id: OperationId) -> Option<String> {
        let journal = Arc::clone(&self.inner.ports.journal);
        blocking(move || journal.clear(id)).await.err().map(|error| Chain(&error).to_string())
    }

    async fn converge(&self) -> Vec<String> {
        let journal = Arc::clone(&self.inner.ports.journal);
        let slots = match blocking(move || journal.load()).await {
            Ok(slots) => slots,
            Err(error) => return vec![Chain(&error).to_string()],
        };
        let mut problems = Vec::new();
        if slots.iter().all(Result::is_ok) {
            let known: Vec<Operation> = slots.iter().flatten().cloned().collect();
            self.disarm_strays(&known).await;
        }
        for slot in slots {
            match slot {
                Ok(operation) => problems.extend(self.converge_one(operation).await),
                Err(why) => problems.push(format!("an entry of the intent journal cannot be read: {why}")),
            }
        }
        problems
    }

    async fn converge_one(&self, operation: Operation) -> Option<String> {
        let id = operation.id;
        if self.is_recorded(id).await {
            return self.free(id).await;
        }
        let operation = if self.has_fired(&operation).await { self.disarm(operation).await } else { operation };
        let plan = &operation.plan;
        let Ok(component) = self.select(Some(&plan.component), Some(&plan.environment)) else {
            return Some(format!(
                "operation {id} was interrupted, but `{}/{}` is not configured any more",
                plan.environment, plan.component
            ));
        };
        let (store, owned, now) = (Arc::clone(self.store()), component.clone(), self.clock().now());
        let trying = operation.trying().cloned();
        let found = blocking(move || {
            let integrity = match &trying {
                Some(release) => store.check(&owned, release, now),
                None => Integrity::Unknown { why: "there is no release to try".to_owned() },
            };
            Ok((store.current(&owned)?, integrity))
        })
        .await;
        let (current, integrity) = match found {
            Ok(found) => found,
            Err(error) => return Some(format!("operation {id} was interrupted: {}", Chain(&error))),
        };
        tracing::warn!(operation = %id, "was interrupted; `current` {}", rollback::explain::current(&current));
        match recover(operation, &current, &integrity) {
            Recovery::Finish(ended) | Recovery::NeedsOperator(ended) => {
                let ended = self.disarm(ended).await;
                if ended.outcome().is_none() {
                    return self.go_on(component, ended).await;
                }
                self.record_end(&ended, Vec::new()).await;
                None
            }
            Recovery::Resume(again) | Recovery::Undo(again) => self.go_on(component, again).await,
        }
    }

    /// Runs an operation in a task of its own, and waits until it is over or only waits itself.
    async fn run_until_it_waits(&self, component: Component, operation: Operation, orders: Orders) {
        let Some(mut following) = self.registry(|registry| registry.follow(operation.id)) else { return };
        let driver = self.clone();
        self.inner.tasks.spawn(async move { driver.run(component, operation, orders, false).await });
        loop {
            match following.updates.recv().await {
                Ok(progress) if progress.operation.is_waiting() => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // The sender goes with the operation.
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn go_on(&self, component: Component, operation: Operation) -> Option<String> {
        let (journal, kept) = (Arc::clone(&self.inner.ports.journal), operation.clone());
        // Durable, so that the count of recoveries ends a loop of crashes.
        if let Err(error) = blocking(move || journal.put(&kept, true)).await {
            return Some(Chain(&error).to_string());
        }
        match self.take(&component, &operation) {
            Ok(orders) => {
                self.run_until_it_waits(component, operation, orders).await;
                None
            }
            Err(refusal) => Some(rollback::explain::refusal(&refusal)),
        }
    }
}
