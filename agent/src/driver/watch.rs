//! The effects that wait: the watch of a release, and the wait for somebody's word. The engine judges.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rollback::chain::Chain;
use rollback::engine::hold::{Holding, Kept};
use rollback::engine::{step, verdict};
use rollback::explain;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::health::{Health, ProbeResult, UnitActive, UnitState, Verdict};
use rollback::model::ids::ReleaseId;
use rollback::model::operation::{Operation, Step, Trigger};
use rollback::model::watch::Moment;
use tokio::sync::mpsc;

use super::decide::Heard;
use super::registry::Orders;
use super::{Driver, Progress};
use crate::config::Component;
use crate::observe::blocking;
use crate::ports::PortError;

/// How often units and `current` are looked at: a crash is left half a second later, and nobody feels the looking.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The same while a restart by another hand is awaited, which takes some ten milliseconds.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);
/// Time that a probe has beyond the end of the watch, so that none fails because the watch is nearly over. It is let go
/// with the watch.
const BEYOND_THE_WATCH: Duration = Duration::from_secs(3_600);
/// Results of probes that wait to be judged; each probe has one at a time.
const RESULTS_WAITING_MAX: usize = 64;

impl Driver {
    pub(super) fn moment(&self) -> Moment {
        crate::clock::moment(self.clock().as_ref())
    }

    /// Performs an effect that waits, and takes what people say meanwhile. Gives the operation as it is then, and the step;
    /// no step when it was left before its end: it waits for something else now, another operation takes over, or the
    /// agent drains.
    ///
    /// What is said is durable before it counts.
    pub(super) async fn wait(
        &self,
        component: &Component,
        mut operation: Operation,
        effect: Effect,
        orders: &mut Orders,
    ) -> (Operation, Option<Step>) {
        let (began_at, began) = (self.clock().now(), self.clock().boottime());
        let snapshot = operation.clone();
        let (notes, mut noted) = mpsc::channel(RESULTS_WAITING_MAX);
        let waiting = effect.clone();
        let work = async {
            match waiting {
                Effect::Confirmed { .. } => self.confirmation(&snapshot).await,
                Effect::Decided { .. } => self.unanswered(&snapshot).await,
                _ => self.watch(component, &snapshot, notes).await,
            }
        };
        tokio::pin!(work);
        let end = loop {
            tokio::select! {
                end = &mut work => break end,
                _ = orders.takeover.changed() => return (operation, None),
                () = self.inner.leaving.cancelled() => return (operation, None),
                Some((probe, since)) = noted.recv() => {
                    operation = step::note_failing(operation, probe, since);
                    // A probe that has failed for a while must not begin anew with the next agent.
                    self.keep(&operation).await;
                    let now = Progress { operation: Arc::new(operation.clone()), doing: Some(effect.clone()), head: None };
                    self.publish(&component.environment, now);
                }
                Some(said) = orders.words.recv() => match self.hear(component, &mut operation, &effect, said).await {
                    Heard::GoesOn => {}
                    Heard::Ends(end) => break end,
                    Heard::Anew => return (operation, None),
                },
            }
        };
        let took = self.clock().boottime().saturating_sub(began);
        let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let recovered = operation.recoveries > 0;
        (operation, Some(Step { effect, began_at, duration_us, end, recovered }))
    }

    /// Stores the operation durably; tells whether that worked.
    pub(super) async fn keep(&self, operation: &Operation) -> bool {
        let (journal, kept) = (Arc::clone(&self.inner.ports.journal), operation.clone());
        match blocking(move || journal.put(&kept, true)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(operation = %operation.id, "{}", Chain(&error));
                false
            }
        }
    }

    /// What is left of a time that began with the watch.
    fn left(&self, operation: &Operation, lasts_ms: u64) -> Duration {
        let passed = operation.watched.as_ref().map_or(0, |watched| watched.began.passed_ms(&self.moment()));
        Duration::from_millis(lasts_ms.saturating_sub(passed))
    }

    async fn confirmation(&self, operation: &Operation) -> EffectEnd {
        if operation.watched.as_ref().is_some_and(|watched| watched.confirmed_by.is_some()) {
            return EffectEnd::Ensured;
        }
        let lasts_ms = operation.plan.watch.and_then(|watch| watch.confirm_ms).unwrap_or(0);
        self.clock().sleep(self.left(operation, lasts_ms)).await;
        EffectEnd::Failed { error: format!("nobody confirmed it within {} s", lasts_ms / 1_000) }
    }

    /// Looks at units and probes until the watch is over or the release is bad. What is to be kept of the probes that
    /// fail goes to `notes`.
    async fn watch(&self, component: &Component, operation: &Operation, notes: mpsc::Sender<Kept>) -> EffectEnd {
        let ports = &self.inner.ports;
        let units = &operation.plan.units;
        if operation.trigger == Trigger::External && operation.recoveries == 0 {
            self.settle(component, operation).await;
        }
        let before = match ports.units.states(component, units).await {
            Ok(states) => states,
            Err(error) => return EffectEnd::Failed { error: Chain(&error).to_string() },
        };
        let left = self.left(operation, operation.plan.watch.map_or(0, |watch| watch.lasts_ms));
        let (sender, mut results) = mpsc::channel(RESULTS_WAITING_MAX);
        let asking = self.ask_again_and_again(component, left, sender);
        tokio::pin!(asking);
        let over = ports.clock.sleep(left);
        tokio::pin!(over);
        // Kept from turn to turn: a new one each time would never end while probes answer more often than that.
        let mut look = ports.clock.sleep(LOOK_INTERVAL);
        let mut health = Health { units: before.clone(), probes: Vec::new() };
        let mut holding = Holding::resume(operation, &self.moment());
        loop {
            let is_over = tokio::select! {
                () = &mut over => true,
                () = &mut asking => false,
                Some(result) = results.recv() => {
                    let for_ms = for_ms(component, &result);
                    if let Some(kept) = holding.take(&mut health, result, for_ms, &self.moment()) {
                        // Nobody listens any more only when the watch is left.
                        notes.send(kept).await.ok();
                    }
                    false
                }
                () = &mut look => {
                    look = ports.clock.sleep(LOOK_INTERVAL);
                    match ports.units.states(component, units).await {
                        Ok(states) => health.units = states,
                        // A manager that does not answer says nothing of the release.
                        Err(error) => tracing::warn!(operation = %operation.id, "{}", Chain(&error)),
                    }
                    if let Some(elsewhere) = self.led_elsewhere(component, operation.trying()).await {
                        return EffectEnd::Failed { error: elsewhere };
                    }
                    false
                }
            };
            let judge = if is_over { verdict::judge_at_end } else { verdict::judge };
            let (judged, _) = judge(&operation.plan.baseline, &health, &before);
            if is_over || judged == Verdict::ReleaseBad {
                return match self.overtaken(component, operation).await {
                    Some(error) => EffectEnd::Failed { error },
                    None => EffectEnd::Judged { verdict: judged, health },
                };
            }
        }
    }

    /// Says who has gone on from the watch, so that what was seen of the units says nothing of the release.
    async fn overtaken(&self, component: &Component, operation: &Operation) -> Option<String> {
        if self.has_fired(operation).await {
            return Some("its watch did not end: the dead-man's switch has fired".to_owned());
        }
        self.led_elsewhere(component, operation.trying()).await
    }

    /// Asks every probe in turns of its own interval, for as long as it is polled.
    async fn ask_again_and_again(&self, component: &Component, left: Duration, results: mpsc::Sender<ProbeResult>) {
        let ports = &self.inner.ports;
        let one = |probe| {
            let results = results.clone();
            async move {
                loop {
                    let result = ports.prober.ask(component, probe, left + BEYOND_THE_WATCH).await;
                    if results.send(result).await.is_err() {
                        return;
                    }
                    ports.clock.sleep(Duration::from_millis(probe.interval_ms)).await;
                }
            }
        };
        join_all(component.probes.iter().map(one)).await;
        // Without probes there is nothing to wait for, and the watch ends by its own time.
        std::future::pending::<()>().await;
    }

    /// Waits until another hand has restarted the units onto what it has switched to: each runs or has failed in another
    /// start than the baseline's. What it does not restart within the time of a start is watched as it is.
    async fn settle(&self, component: &Component, operation: &Operation) {
        let ports = &self.inner.ports;
        let limit = Duration::from_millis(operation.plan.timeouts.start_ms);
        let ends = ports.clock.boottime() + limit;
        while ports.clock.boottime() < ends {
            match ports.units.states(component, &operation.plan.units).await {
                Ok(states) if restarted(&operation.plan.baseline.units, &states) => return,
                Ok(_) | Err(_) => ports.clock.sleep(SETTLE_INTERVAL).await,
            }
        }
    }

    /// Says where `current` leads when that is not the release that is watched.
    async fn led_elsewhere(&self, component: &Component, watched: Option<&ReleaseId>) -> Option<String> {
        let (store, owned) = (Arc::clone(self.store()), component.clone());
        let current: Result<_, PortError> = blocking(move || store.current(&owned)).await;
        match current {
            Ok(current) if current.release() == watched => None,
            Ok(current) => Some(format!("its watch did not end: `current` {}", explain::current(&current))),
            Err(error) => {
                tracing::warn!("{}", Chain(&error));
                None
            }
        }
    }
}

/// How long a probe must fail before it counts.
pub(super) fn for_ms(component: &Component, result: &ProbeResult) -> u64 {
    component.probes.iter().find(|probe| probe.name == result.name).map_or(0, |probe| probe.for_ms)
}

/// Tells whether every unit has been started again and has come to rest.
fn restarted(before: &[UnitState], now: &[UnitState]) -> bool {
    now.iter().all(|unit| {
        let at_rest = match unit.active {
            UnitActive::Active | UnitActive::Failed => true,
            UnitActive::Activating | UnitActive::Deactivating | UnitActive::Inactive => false,
        };
        let again = before.iter().find(|b| b.name == unit.name).is_none_or(|b| b.invocation != unit.invocation);
        at_rest && again
    })
}
