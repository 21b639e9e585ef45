//! How much counters grew within a window, over every restart of what counts.

use std::collections::BTreeMap;

use super::window::Window;

/// One look at counters: every series with what it belongs to and its value.
pub type Counts<Part> = BTreeMap<(Part, String), f64>;

/// What each part grew by, and in how many milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth<Part> {
    /// What each part grew by; a part that did not grow may be missing.
    pub by: BTreeMap<Part, f64>,
    /// The time between the two looks.
    pub over_ms: u64,
}

/// Counters over time. Each series is followed by itself, so that the restart of one is not hidden by the others.
#[derive(Debug, Clone)]
pub struct Counters<Part> {
    last: Option<Counts<Part>>,
    sums: BTreeMap<Part, f64>,
    window: Window<BTreeMap<Part, f64>>,
}

impl<Part: Ord + Clone> Counters<Part> {
    /// Makes counters that were never looked at.
    #[must_use]
    pub fn new(window_ms: u64) -> Self {
        Self { last: None, sums: BTreeMap::new(), window: Window::new(window_ms) }
    }

    /// Takes a look. A series that fell was restarted and counts from zero, and so does one that was not there before.
    pub fn look(&mut self, now_ms: u64, counts: Counts<Part>) {
        if let Some(last) = &self.last {
            for (series, value) in &counts {
                let before = last.get(series).copied().filter(|before| before <= value).unwrap_or(0.0);
                *self.sums.entry(series.0.clone()).or_default() += value - before;
            }
        }
        self.last = Some(counts);
        self.window.push(now_ms, self.sums.clone());
    }

    /// Gives the growth within the window; none before the second look.
    #[must_use]
    pub fn growth(&self) -> Option<Growth<Part>> {
        let (first, last, over_ms) = self.window.ends()?;
        let grown = |(part, sum): (&Part, &f64)| (part.clone(), sum - first.get(part).copied().unwrap_or(0.0));
        Some(Growth { by: last.iter().map(grown).collect(), over_ms })
    }
}
