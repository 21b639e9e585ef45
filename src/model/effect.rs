//! Effects: named for the state that they ensure, so that doing one twice is harmless.

use serde::{Deserialize, Serialize};

use super::health::{Health, Verdict};
use super::ids::{ReleaseId, UnitName};

/// One thing that an operation does to its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "effect")]
pub enum Effect {
    /// The dead-man's switch is armed, durably: it goes back to the release unless the watch ends in time.
    DeadManArmed {
        /// The release that it goes back to.
        release: ReleaseId,
    },
    /// None of the units runs; they are stopped in the order given.
    UnitsStopped {
        /// The units, last started first.
        units: Vec<UnitName>,
    },
    /// The configuration link leads to what was frozen with the release.
    ConfigurationLinked {
        /// The release.
        release: ReleaseId,
    },
    /// `current` leads to the release, durably.
    CurrentLinked {
        /// The release.
        release: ReleaseId,
    },
    /// All units run; they are started in the order given, their failures forgotten first.
    UnitsStarted {
        /// The units in start order.
        units: Vec<UnitName>,
    },
    /// The units stayed up for the stability window and the probes were asked.
    Verified {
        /// The release that is judged.
        release: ReleaseId,
    },
    /// The release was watched to the end of its watch, or until it failed.
    Watched {
        /// The release that is judged.
        release: ReleaseId,
    },
    /// Somebody decided whether the release stays.
    Decided {
        /// The release.
        release: ReleaseId,
    },
    /// Somebody confirmed the release.
    Confirmed {
        /// The release.
        release: ReleaseId,
    },
}

impl Effect {
    /// Names the effect in one word, as history and reports do.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeadManArmed { .. } => "arm",
            Self::UnitsStopped { .. } => "stop",
            Self::ConfigurationLinked { .. } => "configuration",
            Self::CurrentLinked { .. } => "switch",
            Self::UnitsStarted { .. } => "start",
            Self::Verified { .. } => "verify",
            Self::Watched { .. } => "watch",
            Self::Decided { .. } => "decide",
            Self::Confirmed { .. } => "confirm",
        }
    }
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectEnd {
    /// The state is ensured.
    Ensured,
    /// The release was judged.
    Judged {
        /// The judgement.
        verdict: Verdict,
        /// What it rests on.
        health: Health,
    },
    /// It was decided whether the release is left.
    Decided {
        /// Whether it is left.
        back: bool,
        /// Who decided so, and why; or that nobody did.
        why: String,
    },
    /// The state is not ensured.
    Failed {
        /// What was attempted on which object, with its causes.
        error: String,
    },
}
