//! When a dead-man's switch is armed, until when, and what becomes of an operation whose switch has fired.

use std::time::Duration;

use rollback::chain::Chain;
use rollback::engine::step;
use rollback::model::operation::Operation;

use super::Driver;
use crate::config::Component;
use crate::ports::{Fired, PortError};

/// What the last look of a watch, the judgement and a busy disk may take beyond the watch: after it the agent is taken
/// for dead. Probes have limits of their own, which come on top.
const GRACE: Duration = Duration::from_secs(5);

impl Driver {
    /// Arms the switch of an operation: for all that comes before its watch and for the watch; once that has begun, for
    /// what is left of it.
    pub(super) async fn arm(&self, component: &Component, operation: &Operation) -> Result<(), PortError> {
        let Some(watch) = operation.plan.watch else { return Ok(()) };
        let timeouts = operation.plan.timeouts;
        let waits = Duration::from_millis(watch.lasts_ms.max(watch.confirm_ms.unwrap_or(0)));
        let probes = component.probes.iter().map(|probe| probe.timeout_ms).max().unwrap_or(0);
        let after = GRACE + Duration::from_millis(probes);
        let (from, lasts) = match (&operation.asked, &operation.watched) {
            (Some(asked), _) => (asked.since.clone(), Duration::from_millis(asked.lasts_ms) + after),
            (None, Some(watched)) => (watched.began.clone(), waits + after),
            (None, None) => {
                let each = [timeouts.stop_ms, timeouts.start_ms, timeouts.stability_ms, timeouts.verify_ms];
                (self.moment(), Duration::from_millis(each.iter().sum()) + waits + after)
            }
        };
        self.inner.ports.dead_man.arm(component, operation, from, lasts).await
    }

    /// Puts the deadline of an armed switch to the end of the watch that begins now.
    pub(super) async fn arm_again(&self, component: &Component, operation: &Operation) {
        if operation.plan.armed().is_none() || operation.is_putting_back() {
            return;
        }
        // The deadline of before stands then, which is later.
        if let Err(error) = self.arm(component, operation).await {
            tracing::warn!(operation = %operation.id, "{}", Chain(&error));
        }
    }

    /// Disarms the switch of an operation that is to end; one that has fired meanwhile decides how it goes on.
    ///
    /// Comes before the outcome is recorded, so that what is recorded as good is never left by the switch.
    pub(super) async fn disarm(&self, operation: Operation) -> Operation {
        if operation.plan.armed().is_none() {
            return operation;
        }
        match self.inner.ports.dead_man.disarm(operation.id).await {
            Ok(None) => operation,
            // Another hand had gone on, and it left that alone.
            Ok(Some(Fired { at: Some(_), steps })) if steps.is_empty() => operation,
            Ok(Some(fired)) => {
                tracing::warn!(operation = %operation.id, "the dead-man's switch has fired");
                let at = fired.at.unwrap_or_else(|| self.clock().now());
                step::fired(operation, at, fired.steps)
            }
            Err(error) => {
                tracing::error!(operation = %operation.id, "{}; it may fire yet", Chain(&error));
                operation
            }
        }
    }

    /// Forgets that a switch has fired, once its operation is recorded.
    pub(super) async fn forget_fired(&self, operation: &Operation) {
        if operation.plan.armed().is_some()
            && let Err(error) = self.inner.ports.dead_man.forget(operation.id).await
        {
            tracing::warn!(operation = %operation.id, "{}", Chain(&error));
        }
    }

    /// Tells whether the switch of an operation has fired.
    pub(super) async fn has_fired(&self, operation: &Operation) -> bool {
        let fired = self.inner.ports.dead_man.fired(operation.id).await;
        operation.plan.armed().is_some() && fired.is_ok_and(|fired| fired.is_some())
    }

    /// Disarms switches of operations that nothing is known of any more.
    pub(super) async fn disarm_strays(&self, known: &[Operation]) {
        let dead_man = &self.inner.ports.dead_man;
        for stray in dead_man.armed().await.unwrap_or_default() {
            if !known.iter().any(|operation| operation.id == stray)
                && let Err(error) = dead_man.disarm(stray).await
            {
                tracing::warn!(operation = %stray, "{}", Chain(&error));
            }
        }
    }
}
