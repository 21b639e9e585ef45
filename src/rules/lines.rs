//! Rules over log lines: how many that match a pattern are there within a time.

use std::collections::VecDeque;

use regex::{RegexSet, RegexSetBuilder};

use super::Reading;
use super::selector::EXPRESSION_BYTES_MAX;

/// Patterns of which a line matches one.
#[derive(Debug, Clone)]
pub struct Patterns {
    set: RegexSet,
}

impl Patterns {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// When one is no expression or all together are too large; in the words of the `regex` crate, on one line.
    pub fn new<T: AsRef<str>>(patterns: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let set = RegexSetBuilder::new(patterns).size_limit(EXPRESSION_BYTES_MAX).build();
        // The words of a syntax error draw the place over several lines; the last one says what is wrong.
        let last = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        set.map(|set| Self { set }).map_err(last)
    }

    /// The patterns as they were written.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        self.set.patterns()
    }

    /// Tells whether a line matches one.
    #[must_use]
    pub fn find(&self, line: &str) -> bool {
        self.set.is_match(line)
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts() == other.texts()
    }
}

/// The lines that matched lately.
#[derive(Debug, Clone)]
pub struct Matches {
    within_ms: u64,
    max: u32,
    found: VecDeque<(u64, String)>,
}

impl Matches {
    /// Begins without a line: more than `max` within that time are too many.
    #[must_use]
    pub fn new(within_ms: u64, max: u32) -> Self {
        Self { within_ms, max, found: VecDeque::new() }
    }

    /// Notes a line that matched; the newest decide, so that no more of them are kept than are needed.
    pub fn note(&mut self, at_ms: u64, line: String) {
        self.found.push_back((at_ms, line));
        if self.found.len() > usize::try_from(self.max).unwrap_or(usize::MAX).saturating_add(1) {
            self.found.pop_front();
        }
    }

    /// Judges how many there are now.
    #[must_use]
    pub fn judge(&self, now_ms: u64) -> Reading {
        let since = now_ms.saturating_sub(self.within_ms);
        let count = self.found.iter().filter(|(at, _)| *at >= since).count();
        let Some((_, last)) = self.found.back().filter(|_| count > 0) else {
            return Reading::Within("no critical line".to_owned());
        };
        let within = super::metric::seconds(self.within_ms);
        match (count > usize::try_from(self.max).unwrap_or(usize::MAX), self.max) {
            (true, 0) => Reading::Beyond(format!("it logged a critical line: {last}")),
            (true, max) => Reading::Beyond(format!("it logged more than {max} critical lines within {within}: {last}")),
            (false, _) => Reading::Within(format!("{count} critical lines within {within}")),
        }
    }
}
