//! How long a probe must fail before it counts: `for` of the configuration.
//!
//! | the probe | before | what counts | kept |
//! |---|---|---|---|
//! | passes | – | passed | nothing |
//! | fails | passed | undecided, or failed when it needs no time | since now |
//! | fails | fails since T | failed once the time has passed since T, undecided before | since T |
//! | cannot tell | fails since T | undecided | since T, for [`GAP_MS`]; then nothing |
//! | cannot tell | passed | undecided | nothing |

use jiff::SignedDuration;

use crate::model::health::{Answer, ProbeResult};
use crate::model::watch::Moment;

/// How long a probe that fails may be unable to tell without beginning anew: a restart of the agent and two windows of a
/// minute, but not a quiet hour between two bad minutes.
pub const GAP_MS: u64 = 180_000;

/// A probe that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Moment,
    /// When that was last seen.
    pub seen: Moment,
}

/// Says what counts of a probe's result when it must fail for `for_ms`, and what is to be kept of it.
#[must_use]
pub fn hold(
    mut result: ProbeResult,
    for_ms: u64,
    failing: Option<Failing>,
    now: &Moment,
) -> (ProbeResult, Option<Failing>) {
    match result.answer {
        Answer::Passed => (result, None),
        Answer::Undecided => (result, failing.filter(|failing| failing.seen.passed_ms(now) <= GAP_MS)),
        Answer::Failed => {
            let since = failing.map_or_else(|| now.clone(), |failing| failing.since);
            let held_ms = since.passed_ms(now);
            if held_ms < for_ms {
                result.answer = Answer::Undecided;
                result.detail = format!("{}, for {} of {}", result.detail, words(held_ms), words(for_ms));
            } else if for_ms > 0 {
                result.detail = format!("{}, for {}", result.detail, words(held_ms));
            }
            (result, Some(Failing { since, seen: now.clone() }))
        }
    }
}

fn words(millis: u64) -> String {
    let whole = if millis >= 1_000 { millis / 1_000 * 1_000 } else { millis };
    format!("{:#}", SignedDuration::from_millis(i64::try_from(whole).unwrap_or(i64::MAX)))
}
