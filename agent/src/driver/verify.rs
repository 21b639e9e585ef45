//! Asks units and probes whether a release is well; the engine judges.

use std::time::Duration;

use jiff::SignedDuration;
use rollback::chain::Chain;
use rollback::engine::hold::hold;
use rollback::engine::verdict;
use rollback::model::effect::EffectEnd;
use rollback::model::health::{Health, UnitState};
use rollback::model::operation::{Operation, Urgency};

use super::Driver;
use super::watch::for_ms;
use crate::config::Component;
use crate::observe::ask_probes;

/// How often the units are looked at in the stability window: often enough to see a restart between two looks by its
/// count, rarely enough to cost nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The least time that a verification has after a crash, whatever had passed of its limit: one round of probes.
const REMAINING_MIN: Duration = Duration::from_secs(2);

impl Driver {
    /// Waits for the stability window, asks the probes, and judges. An emergency waits for no window.
    pub(super) async fn verify(&self, component: &Component, operation: &Operation) -> EffectEnd {
        let ports = &self.inner.ports;
        let units = &operation.plan.units;
        let limit = self.remaining(operation);
        let before = match ports.units.states(component, units).await {
            Ok(states) => states,
            Err(error) => return EffectEnd::Failed { error: Chain(&error).to_string() },
        };
        let window = match operation.plan.request.urgency {
            Urgency::Standard => Duration::from_millis(operation.plan.timeouts.stability_ms),
            Urgency::Emergency => Duration::ZERO,
        };
        let (probes, ()) = tokio::join!(
            ask_probes(ports.prober.as_ref(), component, limit),
            self.window(component, operation, &before, window)
        );
        match ports.units.states(component, units).await {
            Ok(states) => {
                // What must fail for a while cannot do so in a verification; the watch goes on from here.
                let now = self.moment();
                let probes = probes.into_iter().map(|probe| {
                    let for_ms = for_ms(component, &probe);
                    hold(probe, for_ms, None, &now).0
                });
                let health = Health { units: states, probes: probes.collect() };
                let (judged, _) = verdict::judge(&operation.plan.baseline, &health, &before);
                EffectEnd::Judged { verdict: judged, health }
            }
            Err(error) => EffectEnd::Failed { error: Chain(&error).to_string() },
        }
    }

    /// Passes the window, or ends early once a unit is not what it was at its begin.
    async fn window(&self, component: &Component, operation: &Operation, before: &[UnitState], window: Duration) {
        let ports = &self.inner.ports;
        let ends = ports.clock.boottime() + window;
        loop {
            let left = ends.saturating_sub(ports.clock.boottime());
            if left.is_zero() {
                return;
            }
            ports.clock.sleep(left.min(LOOK_INTERVAL)).await;
            match ports.units.states(component, &operation.plan.units).await {
                Ok(states) if states == before => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// What is left of the verification's limit when it goes on after a crash.
    fn remaining(&self, operation: &Operation) -> Duration {
        let limit = Duration::from_millis(operation.plan.timeouts.verify_ms);
        if operation.recoveries == 0 {
            return limit;
        }
        // What was done again after the crash does not give the verification its time back.
        let first = operation.steps.iter().rev().find(|step| !step.recovered);
        let began = first.map_or(operation.accepted_at, |step| step.began_at);
        let passed = self.clock().now().duration_since(began).max(SignedDuration::ZERO).unsigned_abs();
        limit.saturating_sub(passed).max(REMAINING_MIN)
    }
}
