//! Counts operations: how often a rollback ends well, how long it takes, why it is asked for.

use std::collections::BTreeMap;

use crate::model::ids::Environment;
use crate::model::record::{HistoryLine, ResultWord};

/// The counts of one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many operations ended in which way.
    pub results: BTreeMap<ResultWord, u64>,
    /// The durations of those that were done, in milliseconds, in no particular order.
    pub durations_ms: Vec<u64>,
    /// How often which reason was given.
    pub reasons: BTreeMap<String, u64>,
}

/// Counts lines by environment; lines without one (refused before it was known) are left out.
#[must_use]
pub fn count(lines: &[HistoryLine]) -> BTreeMap<Environment, Counts> {
    let mut all: BTreeMap<Environment, Counts> = BTreeMap::new();
    for line in lines {
        let Some(environment) = &line.environment else { continue };
        let counts = all.entry(environment.clone()).or_default();
        *counts.results.entry(line.result).or_default() += 1;
        if line.result == ResultWord::Done {
            counts.durations_ms.push(line.duration_ms);
        }
        if let Some(reason) = &line.reason {
            *counts.reasons.entry(reason.clone()).or_default() += 1;
        }
    }
    all
}

impl Counts {
    /// Adds the counts of another host.
    pub fn merge(&mut self, other: Self) {
        for (result, count) in other.results {
            *self.results.entry(result).or_default() += count;
        }
        self.durations_ms.extend(other.durations_ms);
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }

    fn of(&self, result: ResultWord) -> u64 {
        self.results.get(&result).copied().unwrap_or(0)
    }

    /// Gives the share of begun operations that were done, between 0 and 1; none when none was begun. Superseded
    /// operations count for neither: the emergency that took over counts.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of operations stay far below 2^52")]
    pub fn success_rate(&self) -> Option<f64> {
        let done = self.of(ResultWord::Done);
        let failed = [ResultWord::Unverified, ResultWord::PutBack, ResultWord::NeedsOperator];
        let all = done + failed.into_iter().map(|result| self.of(result)).sum::<u64>();
        (all > 0).then(|| done as f64 / all as f64)
    }

    /// Gives a percentile of the durations by the nearest-rank rule, `percent` from 1 to 100; none without durations.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let mut sorted = self.durations_ms.clone();
        sorted.sort_unstable();
        let rank = (percent * sorted.len()).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}
