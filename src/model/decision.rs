//! Decisions: how bad a failure is, what is done about it, and what a human may choose.

use serde::{Deserialize, Serialize};

use super::watch::Moment;

/// How bad a failure is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It is noted.
    Low,
    /// It is warned of.
    Medium,
    /// A human is asked, unless the automatic rollback covers it.
    High,
    /// The release is left at once, when that is automatic.
    #[default]
    Critical,
}

impl Severity {
    /// Every severity, least first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Returns the severity's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What is done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is in the report.
    Note,
    /// It is in the report and in the log.
    Warn,
    /// The operation waits for a decision.
    Ask,
    /// The release is left.
    RollBack,
}

/// What is done when nobody decides in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// The release is left, when the rollback is automatic.
    #[default]
    RollBack,
    /// It stays.
    Stay,
}

/// What a human may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The release is left.
    RollBack,
    /// It stays.
    Skip,
    /// The deadline is put off by its own length.
    Investigate,
}

/// A question that waits for a human.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Since when.
    pub since: Moment,
    /// How long after that the answer may come.
    pub lasts_ms: u64,
}
