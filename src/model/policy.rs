//! What an agent's own configuration allows and demands; nothing in it comes from the network.

use serde::{Deserialize, Serialize};

use super::decision::{Severity, Undecided};
use super::ids::Version;

/// Rules of one component for operations on it, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How many older releases are tried when the target does not come up either.
    pub fallbacks_max: u32,
    /// Whether leaving a healthy current release needs `--force`, beyond a reason.
    pub healthy_needs_force: bool,
    /// Whether integrity is proved by reading every file instead of by a stat of every file.
    pub full_read: bool,
    /// The oldest time in seconds that a lease lasts after its holder was last seen.
    pub lease_secs: u64,
    /// How long a deploy is watched.
    pub watch_ms: u64,
    /// Whether a deploy that fails its watch goes back by itself.
    pub auto: bool,
    /// What is done when `current` was switched by another hand.
    pub external: ExternalDeploys,
    /// Whether a dead-man's switch stands behind the watch of a deploy.
    pub dead_man: DeadManSwitch,
    /// The least severity of a failure that is left by itself.
    pub automatic_from: Severity,
    /// How long a human has to decide about what is not left by itself; 0 when nobody is asked.
    pub ask_ms: u64,
    /// What is done when nobody decides.
    pub undecided: Undecided,
    /// The oldest version that may be activated; none when all may.
    pub floor: Option<Version>,
    /// What is kept.
    pub retention: Retention,
    /// How often the agent goes back by itself.
    pub limit: AutomaticLimit,
}

/// How many releases are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How many good ones, the running one included.
    pub good_max: u32,
    /// How long one that was never verified stays.
    pub unverified_secs: u64,
    /// Whether releases that were found on the host are removed as well.
    pub adopted: bool,
}

/// How often the agent goes back by itself: past it an operator decides, so that whoever deploys again and again what fails
/// is not fought for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutomaticLimit {
    /// How often.
    pub count_max: u32,
    /// Within which time.
    pub window_secs: u64,
}

/// Whether a dead-man's switch stands behind the watch of a deploy that goes back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadManSwitch {
    /// It is armed before anything is touched.
    Armed,
    /// There is none.
    Off,
}

/// What is done when `current` was switched by another hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalDeploys {
    /// It is watched like a deploy of the agent's own.
    Watch,
    /// It is noted in the history.
    Note,
}

impl Default for Policy {
    fn default() -> Self {
        // One fallback: the design's default; more hides a broken host behind ever older releases.
        // Ten minutes of lease: longer than every deadline of one host's operation together.
        // Five minutes of watch: longer than a cache takes to fill and a pool of connections to run dry.
        Self {
            fallbacks_max: 1,
            healthy_needs_force: false,
            full_read: false,
            lease_secs: 600,
            watch_ms: 300_000,
            auto: true,
            external: ExternalDeploys::Watch,
            dead_man: DeadManSwitch::Armed,
            // High as well: at three in the morning nobody answers in time.
            automatic_from: Severity::High,
            // Ten minutes: long enough to wake somebody up.
            ask_ms: 600_000,
            undecided: Undecided::RollBack,
            floor: None,
            // Five good ones: a week of daily releases. What never ran for a month is forgotten by whoever made it. What
            // the agent did not lay down somebody else may still need.
            retention: Retention { good_max: 5, unverified_secs: 30 * 24 * 3_600, adopted: false },
            // Three an hour: two in a row may be bad luck, the third is a tool that insists.
            limit: AutomaticLimit { count_max: 3, window_secs: 3_600 },
        }
    }
}

/// The time limits of a component, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the stop job to its end; after it the unit's processes are killed.
    pub stop_ms: u64,
    /// From the start job to its end.
    pub start_ms: u64,
    /// How long the units must stay up with the same main process.
    pub stability_ms: u64,
    /// How long verification may take in all.
    pub verify_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        // Stop, start and verify together stay below the promise of 60 s for a standard rollback of a service that
        // answers; two seconds of stability catch the service that ends one second after it was active.
        Self { stop_ms: 20_000, start_ms: 20_000, stability_ms: 2_000, verify_ms: 15_000 }
    }
}
