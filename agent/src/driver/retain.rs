//! Retention: removes the releases that the engine names, and says what it removed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rollback::chain::Chain;
use rollback::engine::retain::{Surroundings, Verdict, judge};
use rollback::engine::target;
use rollback::model::ids::ReleaseId;
use rollback::model::plan::Plan;
use rollback::model::record::Record;

use super::Driver;
use crate::config::Component;
use crate::observe::{Depth, blocking};

/// How long the releases of a plan that somebody has made are kept for its `apply`: a change window opens within a day.
const PLANNED_FOR: Duration = Duration::from_secs(24 * 3_600);

impl Driver {
    /// Removes what retention does not keep, of every component that nothing is being done to.
    pub async fn prune_all(&self) {
        for component in self.select_all(None, None) {
            self.prune(&component).await;
        }
    }

    pub(super) async fn prune(&self, component: &Component) {
        if self.running(&component.environment).is_some() {
            return;
        }
        let observed = match self.observe(component, Depth::Plan).await {
            Ok(observed) => observed,
            Err(error) => return tracing::warn!("{}", Chain(&error)),
        };
        let (store, owned) = (Arc::clone(self.store()), component.clone());
        let is_short = blocking(move || Ok(store.is_short(&owned))).await.unwrap_or(false);
        let around = Surroundings { held: self.planned(component), is_short, now: self.clock().now() };
        let verdicts = judge(&observed, &target::fit(&observed), &around);
        for (release, verdict) in verdicts.into_iter().filter(|(_, verdict)| verdict.is_removed()) {
            // Whoever has begun something since may need it.
            if self.running(&component.environment).is_some() {
                return;
            }
            let tree = observed.release(&release).map(|known| known.manifest.tree);
            let (store, owned, id) = (Arc::clone(self.store()), component.clone(), release.clone());
            let (name, environment) = (component.name.clone(), component.environment.clone());
            match (blocking(move || store.remove(&owned, &id)).await, tree) {
                (Ok(()), Some(tree)) => {
                    let why = said(verdict, component);
                    tracing::info!(component = %name, %environment, "release `{release}` was removed: {why}");
                    self.note(Record::ReleaseRemoved { component: name, environment, release, tree, why }).await;
                }
                (Ok(()), None) => {}
                (Err(error), _) => tracing::warn!(component = %name, "{}", Chain(&error)),
            }
        }
    }

    /// Remembers the releases of a plan, so that they are there when it is applied. An agent that is restarted forgets.
    pub(super) fn note_planned(&self, plan: &Plan) {
        let until = self.clock().boottime() + PLANNED_FOR;
        let mut planned = self.inner.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.retain(|known| known.until > self.clock().boottime());
        let key = (plan.environment.clone(), plan.component.clone());
        planned.push(Planned { key, releases: plan.candidates.clone(), until });
    }

    fn planned(&self, component: &Component) -> Vec<ReleaseId> {
        let now = self.clock().boottime();
        let key = (component.environment.clone(), component.name.clone());
        let planned = self.inner.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let of_component = planned.iter().filter(|known| known.key == key && known.until > now);
        of_component.flat_map(|known| known.releases.clone()).collect()
    }
}

/// The releases of a plan that somebody has made.
#[derive(Debug)]
pub(super) struct Planned {
    key: (rollback::model::ids::Environment, rollback::model::ids::ComponentName),
    releases: Vec<ReleaseId>,
    until: Duration,
}

fn said(verdict: Verdict, component: &Component) -> String {
    let retention = component.policy.retention;
    let days = retention.unverified_secs / (24 * 3_600);
    match verdict {
        Verdict::Surplus => format!("{} good ones are kept, and so many are newer", retention.good_max),
        Verdict::Stale => format!("it was never verified, and is older than {days} days"),
        Verdict::Space => "it was never verified, and the disk is short of space".to_owned(),
        Verdict::Runs
        | Verdict::Target
        | Verdict::Pinned
        | Verdict::Held
        | Verdict::Found
        | Verdict::Good
        | Verdict::Young => "it stays".to_owned(),
    }
}
