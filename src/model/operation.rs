//! An operation: its request, the phase it is in, the steps it took, its outcome.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::Asked;
use super::digest::Digest;
use super::effect::{Effect, EffectEnd};
use super::health::{Health, Verdict};
use super::ids::{ComponentName, Environment, OperationId, ReleaseId};
use super::plan::Plan;
use super::text::Text;
use super::watch::{WatchTerms, Watched};

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The identifier; the same one twice has one effect.
    pub operation: OperationId,
    /// The component; none when the agent has only one that matches.
    pub component: Option<ComponentName>,
    /// The environment; none when the component's name is enough.
    pub environment: Option<Environment>,
    /// Where to go back to.
    pub to: Destination,
    /// How careful to be.
    pub urgency: Urgency,
    /// Whether to override goodness, quarantine and warnings; never integrity.
    pub force: bool,
    /// Why.
    pub reason: Option<Text>,
    /// For a deploy, what it says of its watch; none for a rollback.
    pub deploy: Option<WatchTerms>,
    /// Whether who asks may pass a floor; the agent says so by the caller's role, never the request.
    #[serde(default)]
    pub break_glass: bool,
}

/// Where an operation goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The release that the rules choose.
    Previous,
    /// A release by its identifier or version.
    Named(String),
}

/// How careful an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Baseline probes, reasons and leases count.
    Standard,
    /// No baseline, no reason needed, leases are taken over; integrity still counts.
    Emergency,
}

/// The type of an operation, as history counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationType {
    /// Back to the release that the rules choose.
    Previous,
    /// Back to the release that was named.
    Specific,
    /// Back at once.
    Emergency,
    /// To a new release, which is watched.
    Deploy,
}

impl Request {
    /// Returns the type of the operation that is asked for.
    #[must_use]
    pub fn operation_type(&self) -> OperationType {
        match (self.urgency, &self.to) {
            _ if self.deploy.is_some() => OperationType::Deploy,
            (Urgency::Emergency, _) => OperationType::Emergency,
            (Urgency::Standard, Destination::Previous) => OperationType::Previous,
            (Urgency::Standard, Destination::Named(_)) => OperationType::Specific,
        }
    }
}

/// Why an operation was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Somebody asked for it.
    Manual,
    /// `current` was switched by another hand, and the agent watches what came of it.
    External,
    /// An alert from outside.
    Alert,
}

/// What an operation does next. Each phase but the last is one effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The dead-man's switch is being armed.
    Arming,
    /// The units are being stopped.
    Stopping,
    /// The configuration of the release that is tried is being linked.
    LinkingConfiguration,
    /// `current` is being switched to the release that is tried.
    Switching,
    /// The units are being started.
    Starting,
    /// The release that is tried is being judged.
    Verifying,
    /// The release that was deployed is being watched.
    Watching,
    /// The release that was deployed waits to be confirmed.
    Confirming,
    /// A human is asked whether what runs is left.
    Asking,
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// How an operation ended, and so what runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The target runs and passes.
    Done {
        /// The release that runs.
        release: ReleaseId,
    },
    /// The target runs, but nothing proves that it is well.
    Unverified {
        /// The release that runs.
        release: ReleaseId,
        /// The judgement.
        verdict: Verdict,
        /// What failed.
        cause: String,
    },
    /// It failed, and the release that ran before runs again.
    PutBack {
        /// The release that runs.
        release: ReleaseId,
        /// What failed.
        cause: String,
    },
    /// It failed, and what was tried to mend it failed too: manual intervention required.
    NeedsOperator {
        /// Where `current` leads, as far as is known.
        release: Option<ReleaseId>,
        /// What failed.
        cause: String,
    },
    /// Another operation took over; what runs is told by that operation.
    Superseded {
        /// The operation that took over.
        by: OperationId,
    },
}

/// One effect that was performed, with its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub effect: Effect,
    /// When it was begun, by the host's clock.
    pub began_at: Timestamp,
    /// How long it took, by the monotonic clock, in microseconds.
    pub duration_us: u64,
    /// How it ended.
    pub end: EffectEnd,
    /// Whether it was done again after a crash.
    pub recovered: bool,
}

/// An operation from its durable intent to its outcome; this is what the intent journal holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The identifier.
    pub id: OperationId,
    /// Why it was begun.
    pub trigger: Trigger,
    /// The identity that asked: a URI of a certificate, or `local:uid=0`.
    pub actor: String,
    /// What it does.
    pub plan: Plan,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Which of `plan.candidates` is tried; one past the end means that the release left is put back.
    pub attempt: usize,
    /// What it does next.
    pub phase: Phase,
    /// What it did.
    pub steps: Vec<Step>,
    /// How often an agent has found it unfinished at its start.
    pub recoveries: u32,
    /// The operation whose lease it took over.
    pub took_over: Option<OperationId>,
    /// The watch of a deploy, once it has begun.
    pub watched: Option<Watched>,
    /// The question that a human is asked.
    #[serde(default)]
    pub asked: Option<Asked>,
}

impl Operation {
    /// Returns the outcome, when it is over.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended { outcome } => Some(outcome),
            Phase::Arming
            | Phase::Stopping
            | Phase::LinkingConfiguration
            | Phase::Switching
            | Phase::Starting
            | Phase::Verifying
            | Phase::Watching
            | Phase::Confirming
            | Phase::Asking => None,
        }
    }

    /// Returns the release that is tried now, or put back; none when there is nothing to put back.
    #[must_use]
    pub fn trying(&self) -> Option<&ReleaseId> {
        self.plan.candidates.get(self.attempt).or(self.plan.from.as_ref())
    }

    /// Returns where `current` leads while the operation only waits: a deploy has switched it, a rollback that asks first
    /// has not.
    #[must_use]
    pub fn runs(&self) -> Option<&ReleaseId> {
        if self.phase == Phase::Asking && self.plan.watch.is_none() { self.plan.from.as_ref() } else { self.trying() }
    }

    /// Tells whether it only waits: the release runs, and an operator's rollback or deploy may take over.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        match self.phase {
            Phase::Watching | Phase::Confirming | Phase::Asking => true,
            Phase::Arming
            | Phase::Stopping
            | Phase::LinkingConfiguration
            | Phase::Switching
            | Phase::Starting
            | Phase::Verifying
            | Phase::Ended { .. } => false,
        }
    }

    /// Tells whether the release that was left is being put back.
    #[must_use]
    pub fn is_putting_back(&self) -> bool {
        self.attempt >= self.plan.candidates.len()
    }
}

/// What was saved of a release before it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The release that was left, or that failed.
    pub release: Option<ReleaseId>,
    /// Its units and probes.
    pub health: Health,
    /// The last lines of its units' journals, oldest first, made safe to print.
    pub journal: Vec<String>,
    /// Facts of its main processes: `web.service pid 12: 34 MiB, 5 threads`.
    pub processes: Vec<String>,
}

/// The head of the history's hash chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// The sequence number of the newest record; 0 when there is none.
    pub sequence: u64,
    /// Its digest.
    pub digest: Digest,
}
