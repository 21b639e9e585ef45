//! A plan: what an operation will do, as data, with the facts that it relies on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::effect::Effect;
use super::health::Health;
use super::host::Fact;
use super::ids::{ComponentName, Environment, HostName, OperationId, ReleaseId, UnitName, Version};
use super::operation::{OperationType, Request};
use super::policy::Timeouts;
use super::refusal::PassedOver;
use super::watch::Watch;

/// What an operation will do. The dry run prints it, the run executes it, and a file carries it in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for.
    pub request: Request,
    /// The host that it was made for.
    pub host: HostName,
    /// The component.
    pub component: ComponentName,
    /// Its environment.
    pub environment: Environment,
    /// The type of the operation.
    pub operation_type: OperationType,
    /// When it was made.
    pub made_at: Timestamp,
    /// The release that is left; none when `current` leads to no release.
    pub from: Option<ReleaseId>,
    /// The releases to try, the target first, then the fallbacks; never empty.
    pub candidates: Vec<ReleaseId>,
    /// What is known of the target.
    pub target: TargetFacts,
    /// The releases that were not chosen, with the reasons.
    pub passed_over: Vec<PassedOver>,
    /// The checks that passed before anything is touched.
    pub checks: Vec<Check>,
    /// What an operator should know: that the target was never verified, that `--force` overrode something.
    pub warnings: Vec<String>,
    /// The units in start order.
    pub units: Vec<UnitName>,
    /// Whether a configuration is linked back with the release.
    pub configuration: bool,
    /// The time limits.
    pub timeouts: Timeouts,
    /// How the release that is left did before.
    pub baseline: Health,
    /// What the plan relies on.
    pub facts: Vec<Fact>,
    /// The digest of the facts.
    pub fence: Digest,
    /// The operation whose lease would be taken over.
    pub takes_over: Option<OperationId>,
    /// How the release is watched afterwards; none for a rollback.
    pub watch: Option<Watch>,
}

impl Plan {
    /// Returns the target: the first candidate.
    ///
    /// A plan without candidates can be neither made nor read from the wire.
    #[must_use]
    pub fn target_release(&self) -> Option<&ReleaseId> {
        self.candidates.first()
    }

    /// Returns the release that a dead-man's switch goes back to; none when none is armed.
    #[must_use]
    pub fn armed(&self) -> Option<&ReleaseId> {
        self.from.as_ref().filter(|_| self.watch.is_some_and(|watch| watch.dead_man))
    }

    /// Returns the effects of the first attempt in order: what a dry run shows.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        let Some(release) = self.candidates.first() else { return Vec::new() };
        let mut effects: Vec<Effect> =
            self.armed().into_iter().map(|release| Effect::DeadManArmed { release: release.clone() }).collect();
        effects.push(Effect::UnitsStopped { units: self.units.iter().rev().cloned().collect() });
        if self.configuration {
            effects.push(Effect::ConfigurationLinked { release: release.clone() });
        }
        effects.push(Effect::CurrentLinked { release: release.clone() });
        effects.push(Effect::UnitsStarted { units: self.units.clone() });
        effects.push(Effect::Verified { release: release.clone() });
        if let Some(watch) = &self.watch {
            effects.push(Effect::Watched { release: release.clone() });
            if watch.confirm_ms.is_some() {
                effects.push(Effect::Confirmed { release: release.clone() });
            }
        }
        effects
    }
}

/// What is known of the target of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// What people call it.
    pub version: Option<Version>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is good; none when it was never verified.
    pub good_since: Option<Timestamp>,
    /// When its files were last read in full.
    pub read_at: Option<Timestamp>,
    /// Its tree digest.
    pub tree: Digest,
}

/// One check that was made while planning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked: `integrity`, `configuration`, `units`, `lease`, `baseline`.
    pub name: String,
    /// What was found.
    pub found: String,
}
