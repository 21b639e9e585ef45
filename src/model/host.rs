//! What was observed of one component on its host, and the facts that fence a plan.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::health::{Health, UnitState};
use super::ids::{ComponentName, Environment, HostName, OperationId, ReleaseId};
use super::policy::{Policy, Timeouts};
use super::release::{Integrity, Manifest, Quarantine};

/// Where `current` leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Current {
    /// It is a link to a release of the component.
    Release(ReleaseId),
    /// There is no `current`.
    Missing,
    /// It is a link to something that does not exist.
    Dangling(String),
    /// It is a link to something outside the component's releases.
    Outside(String),
    /// It is no link but a directory or a file, which is never deleted.
    NotALink,
}

impl Current {
    /// Returns the release that is current, when there is one.
    #[must_use]
    pub fn release(&self) -> Option<&ReleaseId> {
        match self {
            Self::Release(id) => Some(id),
            Self::Missing | Self::Dangling(_) | Self::Outside(_) | Self::NotALink => None,
        }
    }
}

/// Whether the configuration that a release ran with is at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Configuration {
    /// The component has no configuration that the agent keeps.
    NotKept,
    /// The frozen copy is there and its digest stands.
    Frozen,
    /// The frozen copy is missing or damaged.
    Missing(String),
}

/// One release as it was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRelease {
    /// What was recorded of it.
    pub manifest: Manifest,
    /// Whether its files stand.
    pub integrity: Integrity,
    /// Whether its configuration is at hand.
    pub configuration: Configuration,
    /// Since when it is good: when it survived its watch, or was blessed.
    pub good_since: Option<Timestamp>,
    /// Why it may not be activated.
    pub quarantine: Option<Quarantine>,
    /// Whether retention must keep it.
    pub pinned: bool,
}

impl ObservedRelease {
    /// Returns the release's identifier.
    #[must_use]
    pub fn id(&self) -> &ReleaseId {
        &self.manifest.id
    }
}

/// One time that a release was made current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The place in the history: larger is later, whatever the clock said.
    pub sequence: u64,
    /// The release.
    pub release: ReleaseId,
    /// When, by the clock of the host.
    pub at: Timestamp,
    /// The operation that did it; none when it was found that way.
    pub operation: Option<OperationId>,
}

/// The right to change the components of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The environment that is held.
    pub environment: Environment,
    /// The operation that holds it.
    pub operation: OperationId,
    /// The identity that asked for the operation.
    pub holder: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it runs out.
    pub expires: Timestamp,
    /// Whether its holder only waits, for the end of a watch or for somebody's word, and gives way to an operator.
    #[serde(default)]
    pub gives_way: bool,
}

/// A component as its host's agent sees it at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedComponent {
    /// The host.
    pub host: HostName,
    /// The component.
    pub name: ComponentName,
    /// Its environment.
    pub environment: Environment,
    /// When it was looked at.
    pub observed_at: Timestamp,
    /// Where `current` leads.
    pub current: Current,
    /// Every release, in no particular order.
    pub releases: Vec<ObservedRelease>,
    /// Every activation that is remembered, oldest first.
    pub activations: Vec<Activation>,
    /// The units in start order, with the probes' results when they were run.
    pub health: Health,
    /// Who holds the environment.
    pub lease: Option<Lease>,
    /// What the component's configuration allows.
    pub policy: Policy,
    /// The time limits of the component.
    pub timeouts: Timeouts,
    /// How often the agent went back by itself within the policy's window; 0 where it was not counted.
    pub automatic_rollbacks: u32,
}

impl ObservedComponent {
    /// Finds a release by its identifier.
    #[must_use]
    pub fn release(&self, id: &ReleaseId) -> Option<&ObservedRelease> {
        self.releases.iter().find(|release| release.id() == id)
    }

    /// Returns the units in start order.
    #[must_use]
    pub fn units(&self) -> &[UnitState] {
        &self.health.units
    }
}

/// One thing that a plan relies on, as `subject` and `value`; two lists of facts can be compared line by line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about: `current`, `release backup_1`, `unit web.service`.
    pub subject: String,
    /// How it stood.
    pub value: String,
}

/// Digests a list of facts: the fencing token of a plan.
#[must_use]
pub fn fence(facts: &[Fact]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for text in facts.iter().flat_map(|fact| [&fact.subject, &fact.value]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}
