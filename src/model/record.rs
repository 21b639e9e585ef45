//! Records: the entries of the append-only history, and what is asked of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::Severity;
use super::digest::Digest;
use super::ids::{ComponentName, Environment, OperationId, ReleaseId};
use super::operation::{Evidence, Operation, OperationType, Trigger};
use super::refusal::Refusal;
use super::release::Manifest;
use super::text::Text;

/// One thing that happened, as the history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Record {
    /// The agent has started.
    AgentStarted {
        /// Its version.
        version: String,
        /// The boot that it runs in.
        boot: String,
    },
    /// A release was adopted.
    ReleaseAdopted {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// What was recorded.
        manifest: Manifest,
    },
    /// A release was pushed and laid down.
    ReleasePushed {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// What was recorded; its maker is who pushed it.
        manifest: Manifest,
    },
    /// A push was refused; no release has come of it.
    PushRefused {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// The release.
        release: ReleaseId,
        /// Who pushed.
        actor: String,
        /// Why not.
        refusal: Refusal,
    },
    /// `current` was found to lead to a release that no operation of this agent has activated.
    ActivationFound {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// The release.
        release: ReleaseId,
    },
    /// An operation was accepted: the intent.
    OperationStarted {
        /// The operation as it was then.
        operation: Box<Operation>,
    },
    /// An operation is over: the outcome.
    OperationEnded {
        /// The operation with its steps and its outcome.
        operation: Box<Operation>,
        /// What was saved of what it left.
        evidence: Vec<Evidence>,
    },
    /// The last lines of what an operation left were read, after its outcome was known.
    EvidenceSaved {
        /// The operation.
        operation: OperationId,
        /// The last lines of the units' journals before it began, oldest first, made safe to print.
        journal: Vec<String>,
    },
    /// A request was refused; nothing has changed.
    OperationRefused {
        /// The operation.
        operation: OperationId,
        /// The component, when it was known.
        component: Option<ComponentName>,
        /// The environment, when it was known.
        environment: Option<Environment>,
        /// Who asked.
        actor: String,
        /// Why not.
        refusal: Refusal,
    },
    /// A call was denied, or a peer was not let in.
    AccessDenied {
        /// The identity, as far as it is known.
        actor: String,
        /// The peer's address.
        peer: String,
        /// The method, when one was called.
        method: Option<String>,
        /// Why.
        why: String,
    },
    /// A lease was taken over by an emergency.
    LeaseTakenOver {
        /// The environment.
        environment: Environment,
        /// The operation that lost it.
        from: OperationId,
        /// The operation that took it.
        by: OperationId,
        /// Who asked.
        actor: String,
    },
    /// A digest was quarantined.
    Quarantined {
        /// The digest.
        tree: Digest,
        /// Why.
        reason: Text,
        /// By whom.
        actor: String,
    },
    /// The quarantine of a digest was lifted.
    QuarantineLifted {
        /// The digest.
        tree: Digest,
        /// Why.
        reason: Text,
        /// By whom.
        actor: String,
    },
    /// Somebody has said something of a release.
    ReleaseMarked {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// The release.
        release: ReleaseId,
        /// Its digest.
        tree: Digest,
        /// What.
        mark: Mark,
        /// Why.
        reason: Text,
        /// By whom.
        actor: String,
    },
    /// Somebody has told an alert.
    AlertReceived {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// How bad it is.
        severity: Severity,
        /// What it says.
        reason: Text,
        /// By whom.
        actor: String,
    },
    /// Retention has removed a release.
    ReleaseRemoved {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// The release.
        release: ReleaseId,
        /// Its digest.
        tree: Digest,
        /// Why.
        why: String,
    },
    /// A release was found damaged.
    ReleaseDamaged {
        /// The component.
        component: ComponentName,
        /// Its environment.
        environment: Environment,
        /// The release.
        release: ReleaseId,
        /// What differs first.
        what: String,
    },
    /// The configuration was read again, or refused.
    ConfigurationReloaded {
        /// Whether the new one is in force.
        accepted: bool,
        /// What was found.
        detail: String,
    },
}

impl Record {
    /// Names the kind of record in one word with dots, stable for scripts and for message ids.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AgentStarted { .. } => "agent.started",
            Self::ReleaseAdopted { .. } => "release.adopted",
            Self::ReleasePushed { .. } => "release.pushed",
            Self::PushRefused { .. } => "push.refused",
            Self::ActivationFound { .. } => "activation.found",
            Self::OperationStarted { .. } => "operation.started",
            Self::OperationEnded { .. } => "operation.ended",
            Self::EvidenceSaved { .. } => "evidence.saved",
            Self::OperationRefused { .. } => "operation.refused",
            Self::AccessDenied { .. } => "access.denied",
            Self::LeaseTakenOver { .. } => "lease.taken_over",
            Self::Quarantined { .. } => "quarantine.added",
            Self::QuarantineLifted { .. } => "quarantine.lifted",
            Self::ReleaseMarked { mark: Mark::Blessed, .. } => "release.blessed",
            Self::ReleaseMarked { mark: Mark::Pinned, .. } => "release.pinned",
            Self::ReleaseMarked { mark: Mark::Unpinned, .. } => "release.unpinned",
            Self::ReleaseRemoved { .. } => "release.removed",
            Self::AlertReceived { .. } => "alert.received",
            Self::ReleaseDamaged { .. } => "release.damaged",
            Self::ConfigurationReloaded { .. } => "configuration.reloaded",
        }
    }
}

/// What somebody says of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// It is good, although no watch says so.
    Blessed,
    /// Retention keeps it.
    Pinned,
    /// Retention may remove it again.
    Unpinned,
}

/// A record with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainedRecord {
    /// Its place: 1 is the first, and there are no gaps.
    pub sequence: u64,
    /// When it was written, by the host's clock; order is told by `sequence` alone.
    pub at: Timestamp,
    /// What happened.
    pub record: Record,
    /// The digest of the record before it; zeros for the first.
    pub previous: Digest,
    /// The digest of sequence, time, record and `previous`.
    pub digest: Digest,
}

/// The result of an operation in one word, as history filters and counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultWord {
    /// Done and verified.
    Done,
    /// Rolled back but not verified.
    Unverified,
    /// Failed and put back.
    PutBack,
    /// Manual intervention required.
    NeedsOperator,
    /// Taken over by an emergency.
    Superseded,
    /// Not begun.
    Refused,
}

/// One operation as a line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The operation.
    pub operation: OperationId,
    /// When it was accepted or refused.
    pub at: Timestamp,
    /// The environment, when it was known.
    pub environment: Option<Environment>,
    /// The component, when it was known.
    pub component: Option<ComponentName>,
    /// The type; none for a refused one.
    pub operation_type: Option<OperationType>,
    /// Why it was begun.
    pub trigger: Trigger,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// The release that was left.
    pub from: Option<ReleaseId>,
    /// The release that runs since.
    pub to: Option<ReleaseId>,
    /// How it ended.
    pub result: ResultWord,
    /// What failed, or why it was refused.
    pub cause: Option<String>,
    /// From acceptance to outcome, in milliseconds.
    pub duration_ms: u64,
}

/// What is asked of the history; every part that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFilter {
    /// The environment.
    pub environment: Option<Environment>,
    /// The component.
    pub component: Option<ComponentName>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// The result.
    pub result: Option<ResultWord>,
    /// The identity, in full.
    pub actor: Option<String>,
    /// At most so many, newest first.
    pub limit: u32,
}
