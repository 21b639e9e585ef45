//! Counts operations: how often they succeed, how long they take, why they were begun.

use std::collections::BTreeMap;

use crate::model::ids::Environment;
use crate::model::record::{HistoryLine, ResultWord};

/// Counts of one environment; those of several hosts are merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many operations ended in which way.
    pub results: BTreeMap<ResultWord, u64>,
    /// How long each operation that was done took, in milliseconds, in no particular order.
    pub durations_ms: Vec<u64>,
    /// How often each reason was given.
    pub reasons: BTreeMap<String, u64>,
}

/// Counts lines of the history per environment; a line without one (a refusal of an unknown component) is left out.
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
            let sum = self.results.entry(result).or_default();
            *sum = sum.saturating_add(count);
        }
        self.durations_ms.extend(other.durations_ms);
        for (reason, count) in other.reasons {
            let sum = self.reasons.entry(reason).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Returns the share of operations that were done, from 0 to 1; none when none was carried out.
    ///
    /// Refused ones changed nothing and superseded ones are told by the operation that took over: neither counts.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        let of = |result| self.results.get(&result).copied().unwrap_or(0);
        let done = of(ResultWord::Done);
        let all = [ResultWord::Unverified, ResultWord::PutBack, ResultWord::NeedsOperator]
            .into_iter()
            .fold(done, |sum, result| sum.saturating_add(of(result)));
        (all > 0).then(|| done as f64 / all as f64)
    }

    /// Returns the duration in milliseconds that `p` percent (0 to 100) of the operations that were done did not
    /// exceed, by nearest rank; none when none was done or `p` is no percentage.
    #[must_use]
    pub fn percentile(&self, p: f64) -> Option<u64> {
        if !(0.0..=100.0).contains(&p) {
            return None;
        }
        let mut sorted = self.durations_ms.clone();
        sorted.sort_unstable();
        // The smallest rank, from 1, that covers p percent; comparing instead of rounding keeps casts out.
        let count = u32::try_from(sorted.len()).ok()?;
        let rank = (1..=count).find(|rank| f64::from(*rank) * 100.0 >= p * f64::from(count))?;
        sorted.get(usize::try_from(rank).ok()? - 1).copied()
    }
}
