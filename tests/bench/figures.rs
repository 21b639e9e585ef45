//! What a figure is: samples of ours and of a floor, taken in turns in one run, their ratio, and the goal.

use std::error::Error;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Whatever kept a figure from being measured.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// Measured values in one unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Takes values.
    ///
    /// # Panics
    /// When there is none: a figure without a measurement is none.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Takes the one value of something that is counted and not timed.
    pub(crate) fn one(value: f64) -> Self {
        Self(vec![value])
    }

    pub(crate) fn min(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) { f64::midpoint(self.0[middle - 1], self.0[middle]) } else { self.0[middle] }
    }

    /// The 99th percentile by rank; with fewer than a hundred values it is the largest.
    pub(crate) fn p99(&self) -> f64 {
        let rank = (self.0.len() * 99).div_ceil(100);
        self.0[rank - 1]
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// What a figure should reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The ratio of the medians is this at most.
    Ratio(f64),
    /// The ratio of the 99th percentiles is this at most.
    RatioOfP99(f64),
    /// The median is this at most.
    AtMost(f64),
    /// Nothing: the row is there to compare with.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) figure: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// What ours is held against, by name.
    pub(crate) floor: Option<(String, Samples)>,
    pub(crate) goal: Goal,
}

impl Row {
    /// Ours through the floor's, by the goal's measure.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (_, floor) = self.floor.as_ref()?;
        Some(match self.goal {
            Goal::RatioOfP99(_) => self.ours.p99() / floor.p99(),
            Goal::Ratio(_) | Goal::AtMost(_) | Goal::None => self.ours.median() / floor.median(),
        })
    }

    /// Whether the goal is reached; none without a goal.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::Ratio(most) | Goal::RatioOfP99(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::AtMost(most) => Some(self.ours.median() <= most),
            Goal::None => None,
        }
    }
}

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// What was not measured, with the reason.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn skip(&mut self, name: &str, reason: impl ToString) {
        self.skipped.push((name.to_owned(), reason.to_string()));
    }
}

/// Something that is measured once per round, and gives its value.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> Result<f64, Fault>;

/// Measures each side once per round, each round beginning with another one, and gives the samples in the order of the
/// sides. What drifts meanwhile meets all of them alike.
pub(crate) fn in_turns<const N: usize>(rounds: usize, sides: [Side<'_>; N]) -> Result<[Samples; N], Fault> {
    let mut values = [const { Vec::new() }; N];
    for round in 0..rounds {
        for turn in 0..N {
            let at = (round + turn) % N;
            let value = sides[at]()?;
            values[at].push(value);
        }
    }
    Ok(values.map(Samples::new))
}

/// Runs something and gives the milliseconds that it took with its result.
#[expect(clippy::disallowed_methods, reason = "this is the clock of the figures")]
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<(f64, T), Fault> {
    let start = Instant::now();
    let result = work()?;
    Ok((millis(start.elapsed()), result))
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
