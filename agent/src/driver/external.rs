//! Guards what other hands deploy: a `current` that somebody else has switched is watched like a deploy of the agent's own.

use std::sync::PoisonError;

use jiff::SignedDuration;
use rollback::chain::Chain;
use rollback::engine;
use rollback::model::health::Health;
use rollback::model::ids::{OperationId, ReleaseId};
use rollback::model::operation::{Destination, OperationType, Request, Urgency};
use rollback::model::policy::ExternalDeploys;
use rollback::model::record::{HistoryFilter, Record, ResultWord};
use rollback::model::watch::WatchTerms;

use super::Driver;
use crate::config::Component;
use crate::observe::Depth;

/// Who is named as actor: the kernel does not tell who has switched a link.
const ACTOR: &str = "local:another-hand";

impl Driver {
    /// Remembers how a component does while nothing happens: the baseline of what another hand may deploy next.
    pub(super) async fn remember_health(&self, component: &Component) {
        if component.policy.external == ExternalDeploys::Note {
            return;
        }
        match self.observe(component, Depth::PlanWithProbes).await {
            // What was seen of an operation's doings is no baseline.
            Ok(_) if self.running(&component.environment).is_some() => {}
            Ok(observed) => self.set_baseline(component, observed.health),
            Err(error) => tracing::warn!("{}", Chain(&error)),
        }
    }

    /// Notes that another hand has made `release` current, and watches it when the policy says so and there is something
    /// to go back to. Gives a problem for the operator when it cannot be watched.
    pub(super) async fn activated_by_another_hand(
        &self,
        component: &Component,
        release: ReleaseId,
        before: Option<ReleaseId>,
    ) -> Option<String> {
        let (name, environment) = (component.name.clone(), component.environment.clone());
        let record = Record::ActivationFound { component: name, environment, release: release.clone() };
        self.note(record).await;
        self.forget_linked(component);
        let from = before.filter(|_| component.policy.external == ExternalDeploys::Watch)?;
        let begun = self.begin_external(component, release.clone(), from).await;
        begun
            .err()
            .map(|why| format!("{}/{}: `{release}` is not watched: {why}", component.environment, component.name))
    }

    async fn begin_external(&self, component: &Component, to: ReleaseId, from: ReleaseId) -> Result<(), String> {
        let now = self.clock().now();
        let request = Request {
            operation: OperationId::new(now, self.clock().random()),
            component: Some(component.name.clone()),
            environment: Some(component.environment.clone()),
            to: Destination::Named(to.to_string()),
            urgency: Urgency::Standard,
            force: false,
            reason: None,
            deploy: Some(WatchTerms::default()),
            break_glass: false,
        };
        let mut observed = self.observe(component, Depth::Plan).await.map_err(|error| Chain(&error).to_string())?;
        // Without a baseline nobody knows whether the units were restarted before or after the switch: then they are
        // watched as they are once the time of a start has passed.
        observed.health = self.baseline(component).unwrap_or(observed.health);
        observed.automatic_rollbacks = self.automatic_rollbacks(component).await;
        let quarantine = observed.release(&to).and_then(|release| release.quarantine.clone());
        let forbidden = quarantine.map(|quarantine| {
            format!("`{to}` is quarantined since {} by {}: {}", quarantine.since, quarantine.by, quarantine.reason)
        });
        let plan = engine::plan::external(&request, &observed, Some(from), now)
            .map_err(|refusal| rollback::explain::refusal(&refusal))?;
        let operation = engine::step::begin_external(plan, ACTOR.to_owned(), now, forbidden);
        tracing::warn!(operation = %operation.id, "`current` was switched to `{to}` by another hand and is watched");
        let launched = self.launch(component.clone(), operation).await;
        launched.map(drop).map_err(|refusal| rollback::explain::refusal(&refusal))
    }

    /// Counts how often the agent went back by itself within the policy's window. A history that cannot be read counts 0:
    /// nobody goes on with a bad release because of it.
    pub(super) async fn automatic_rollbacks(&self, component: &Component) -> u32 {
        let limit = component.policy.limit;
        let window = SignedDuration::from_secs(i64::try_from(limit.window_secs).unwrap_or(i64::MAX));
        let filter = HistoryFilter {
            environment: Some(component.environment.clone()),
            component: Some(component.name.clone()),
            since: self.clock().now().checked_sub(window).ok(),
            result: Some(ResultWord::PutBack),
            // One more than the limit says as much as all of them.
            limit: limit.count_max.saturating_add(1),
            ..HistoryFilter::default()
        };
        let lines = self.history().list(filter).await.unwrap_or_default();
        let deploys = lines.iter().filter(|line| line.operation_type == Some(OperationType::Deploy)).count();
        u32::try_from(deploys).unwrap_or(u32::MAX)
    }

    /// Forgets the baseline of a component that is being changed.
    pub(super) fn forget_health(&self, component: &Component) {
        let mut baselines = self.inner.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.remove(&(component.environment.clone(), component.name.clone()));
    }

    fn baseline(&self, component: &Component) -> Option<Health> {
        let baselines = self.inner.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.get(&(component.environment.clone(), component.name.clone())).cloned()
    }

    fn set_baseline(&self, component: &Component, health: Health) {
        let mut baselines = self.inner.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.insert((component.environment.clone(), component.name.clone()), health);
    }
}
