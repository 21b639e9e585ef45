//! The watch: the time after a deploy in which the agent verifies the new release and goes back by itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::{Severity, Undecided};

use super::ids::ProbeName;

/// The shortest watch, and the shortest time to confirm: what fails at once fails within a second.
pub const WATCH_MS_MIN: u64 = 1_000;
/// The longest ones: after a day it is no deploy any more.
pub const WATCH_MS_MAX: u64 = 86_400_000;

/// How a release is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// How long it lasts.
    pub lasts_ms: u64,
    /// Whether a release that fails is left by itself.
    pub auto: bool,
    /// How long somebody has to confirm the release, from the begin of the watch; none when nobody needs to.
    pub confirm_ms: Option<u64>,
    /// Whether a dead-man's switch is armed, which goes back without the agent when the watch does not end in time.
    #[serde(default)]
    pub dead_man: bool,
    /// The least severity of a failure that is left by itself.
    #[serde(default)]
    pub automatic_from: Severity,
    /// How long a human has to decide about what is not left by itself; 0 when nobody is asked.
    #[serde(default)]
    pub ask_ms: u64,
    /// What is done when nobody decides.
    #[serde(default)]
    pub undecided: Undecided,
}

/// What a deploy says of its watch; what it leaves open the component's policy says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchTerms {
    /// How long it lasts.
    pub lasts_ms: Option<u64>,
    /// Whether a release that fails is left by itself.
    pub auto: Option<bool>,
    /// How long somebody has to confirm the release.
    pub confirm_ms: Option<u64>,
}

/// A moment as a host's clocks tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The boot of the host.
    pub boot: String,
    /// The time since that boot, suspended time included.
    pub since_boot_ms: u64,
    /// The wall clock.
    pub at: Timestamp,
}

/// What is known of a watch that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// When it began.
    pub began: Moment,
    /// Who confirmed the release.
    pub confirmed_by: Option<String>,
    /// The probes that fail and must do so for a while before it counts, each with the moment since when it does.
    #[serde(default)]
    pub failing: BTreeMap<ProbeName, Moment>,
}

impl Moment {
    /// Returns the milliseconds from this moment to `now`.
    ///
    /// Within one boot the clock that nobody sets decides. Across boots only the wall clock is left: a step backwards
    /// counts as no time, so that a wait never ends early by it.
    #[must_use]
    pub fn passed_ms(&self, now: &Self) -> u64 {
        if self.boot == now.boot {
            return now.since_boot_ms.saturating_sub(self.since_boot_ms);
        }
        let wall = now.at.duration_since(self.at).as_millis().max(0);
        u64::try_from(wall).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, since_boot_ms: u64, second: i64) -> Moment {
        Moment { boot: boot.to_owned(), since_boot_ms, at: Timestamp::from_second(second).expect("in range") }
    }

    #[test]
    fn time_passes_by_the_clock_that_nobody_sets() {
        let began = moment("a", 1_000, 1_000);
        for (now, passed) in [
            (moment("a", 4_000, 1_003), 3_000),
            (moment("a", 4_000, 400_000_000), 3_000), // the wall clock was set
            (moment("a", 4_000, 0), 3_000),
            (moment("b", 10, 1_060), 60_000), // the host was rebooted
            (moment("b", 10, 500), 0),        // and its clock stepped back
        ] {
            assert_eq!(began.passed_ms(&now), passed, "{now:?}");
        }
    }
}
