//! How long a probe must fail before it counts: `for` of the configuration.
//!
//! | the probe | before | what counts | kept |
//! |---|---|---|---|
//! | passes | – | passed | nothing |
//! | fails | passed | undecided, or failed when it needs no time | since now |
//! | fails | fails since T | failed once the time has passed since T, undecided before | since T |
//! | cannot tell | fails since T | undecided | since T, for [`GAP_MS`]; then nothing |
//! | cannot tell | passed | undecided | nothing |

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::model::health::{Answer, Health, ProbeResult};
use crate::model::ids::ProbeName;
use crate::model::operation::Operation;
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

/// The probes of a watch that fail.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    failing: BTreeMap<ProbeName, Failing>,
}

/// What is to be kept durably of a probe: since when it fails; none when it does not any more.
pub type Kept = (ProbeName, Option<Moment>);

impl Holding {
    /// Goes on with what was kept of a watch. The time in which nobody looked does not count as a gap.
    #[must_use]
    pub fn resume(operation: &Operation, now: &Moment) -> Self {
        let kept = operation.watched.iter().flat_map(|watched| &watched.failing);
        let failing =
            kept.map(|(probe, since)| (probe.clone(), Failing { since: since.clone(), seen: now.clone() })).collect();
        Self { failing }
    }

    /// Takes a result of a probe that must fail for `for_ms` into the health, and tells what is to be kept of it when
    /// that has changed.
    ///
    /// A probe that cannot tell for want of data does not take back that it passed before.
    pub fn take(&mut self, health: &mut Health, result: ProbeResult, for_ms: u64, now: &Moment) -> Option<Kept> {
        let name = result.name.clone();
        let before = self.failing.remove(&name);
        let since = before.as_ref().map(|failing| failing.since.clone());
        let (result, after) = hold(result, for_ms, before, now);
        let known = health.probes.iter().find(|known| known.name == name);
        let is_open = result.answer == Answer::Undecided && after.is_none();
        if !(is_open && known.is_some_and(|known| known.answer == Answer::Passed)) {
            health.probes.retain(|known| known.name != name);
            health.probes.push(result);
        }
        let keeps = after.as_ref().map(|failing| failing.since.clone());
        if let Some(after) = after {
            self.failing.insert(name.clone(), after);
        }
        // One that needs no time ends the watch, or was bad before: there is nothing to go on with.
        (for_ms > 0 && keeps != since).then_some((name, keeps))
    }
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
