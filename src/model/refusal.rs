//! Refusals: why an operation was not begun. Nothing has changed when one is given.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::health::UnitLoad;
use super::host::{Current, Lease};
use super::ids::{ComponentName, Environment, OperationId, ReleaseId, UnitName, Version};
use super::release::Difference;

/// Why a release cannot be the target, or was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Unfit {
    /// It is the one that runs.
    IsCurrent,
    /// It never survived a watch while others did.
    NeverVerified,
    /// Its digest is quarantined.
    Quarantined {
        /// The reason of the quarantine.
        reason: String,
        /// Who set it.
        by: String,
        /// Since when.
        since: Timestamp,
    },
    /// Its files are not as they were laid down.
    Damaged {
        /// The first differences.
        differences: Vec<Difference>,
        /// How many more there are.
        more: u64,
    },
    /// It cannot be judged.
    IntegrityUnknown {
        /// Why.
        cause: String,
    },
    /// The configuration it ran with is not at hand.
    ConfigurationMissing {
        /// Why.
        cause: String,
    },
    /// It is older than the policy allows, or cannot be shown not to be.
    BelowFloor {
        /// Its version; none when it has none.
        version: Option<Version>,
        /// The floor.
        floor: Version,
    },
    /// Its directory is gone.
    Gone,
}

/// A release that was not chosen, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The release.
    pub release: ReleaseId,
    /// Why not.
    pub unfit: Unfit,
}

/// Why an operation was not begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "refusal")]
pub enum Refusal {
    /// The agent has no such component.
    NoSuchComponent {
        /// The name that was asked for.
        component: Option<ComponentName>,
        /// The environment that was asked for.
        environment: Option<Environment>,
        /// Those that it has, as `environment/component`.
        known: Vec<String>,
    },
    /// Several components match and none was named.
    AmbiguousComponent {
        /// Those that match, as `environment/component`.
        matching: Vec<String>,
    },
    /// The component has no release of that name.
    NoSuchRelease {
        /// The name that was asked for.
        wanted: String,
        /// The releases that it has, newest activation first.
        known: Vec<ReleaseId>,
    },
    /// Several releases have that version.
    AmbiguousRelease {
        /// The version that was asked for.
        wanted: String,
        /// The releases that have it.
        matching: Vec<ReleaseId>,
    },
    /// There is no release to go back to.
    NoTarget {
        /// Every release, with the reason.
        passed_over: Vec<PassedOver>,
    },
    /// The release that was named cannot be the target.
    TargetUnfit {
        /// The release.
        release: ReleaseId,
        /// Why not.
        unfit: Unfit,
        /// Whether `--force` would accept it.
        forceable: bool,
    },
    /// The current release is healthy and no reason was given to leave it.
    ReasonNeeded {
        /// The release that runs.
        current: ReleaseId,
    },
    /// The current release is healthy and the policy demands `--force`.
    ForceNeeded {
        /// The release that runs.
        current: ReleaseId,
    },
    /// `current` is no link, and is never deleted.
    CurrentUnusable {
        /// What it is.
        current: Current,
        /// Its path.
        path: String,
    },
    /// A unit of the component cannot be started.
    UnitUnusable {
        /// The unit.
        unit: UnitName,
        /// How it is loaded.
        load: UnitLoad,
    },
    /// Another operation holds the environment.
    Held {
        /// The lease.
        lease: Box<Lease>,
    },
    /// The host is not as the plan says.
    HostChanged {
        /// What changed, one line each: `current: was A, is B`.
        changes: Vec<String>,
    },
    /// An earlier operation waits for an operator.
    NeedsOperator {
        /// The operation.
        operation: OperationId,
        /// What it waits for.
        what: String,
    },
    /// What is offered for a push must not be laid down.
    OfferUnfit {
        /// The release.
        release: ReleaseId,
        /// What is wrong with it.
        why: String,
    },
    /// The name of a release that is pushed belongs to other files.
    NameTaken {
        /// The release.
        release: ReleaseId,
    },
    /// The file system of the releases has no room for what is pushed.
    NoRoom {
        /// What is short: `bytes` or `inodes`.
        what: String,
        /// How many are needed.
        needed: u64,
        /// How many are free.
        free: u64,
        /// How many of these are left to others.
        spared: u64,
    },
    /// The same files are being pushed already.
    PushRuns {
        /// The release.
        release: ReleaseId,
    },
    /// The agent is not in a state to begin anything: it drains, or cannot write its journal.
    NotReady {
        /// Why.
        cause: String,
    },
}

impl Refusal {
    /// Names the refusal in one upper-case word, stable for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchComponent { .. } => "NO_SUCH_COMPONENT",
            Self::AmbiguousComponent { .. } => "AMBIGUOUS_COMPONENT",
            Self::NoSuchRelease { .. } => "NO_SUCH_RELEASE",
            Self::AmbiguousRelease { .. } => "AMBIGUOUS_RELEASE",
            Self::NoTarget { .. } => "NO_TARGET",
            Self::TargetUnfit { .. } => "TARGET_UNFIT",
            Self::ReasonNeeded { .. } => "REASON_NEEDED",
            Self::ForceNeeded { .. } => "FORCE_NEEDED",
            Self::CurrentUnusable { .. } => "CURRENT_UNUSABLE",
            Self::UnitUnusable { .. } => "UNIT_UNUSABLE",
            Self::Held { .. } => "HELD",
            Self::HostChanged { .. } => "HOST_CHANGED",
            Self::NeedsOperator { .. } => "NEEDS_OPERATOR",
            Self::OfferUnfit { .. } => "OFFER_UNFIT",
            Self::NameTaken { .. } => "NAME_TAKEN",
            Self::NoRoom { .. } => "NO_ROOM",
            Self::PushRuns { .. } => "PUSH_RUNS",
            Self::NotReady { .. } => "NOT_READY",
        }
    }
}
