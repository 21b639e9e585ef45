//! The last samples of something, within a span of time and a number.

use std::collections::VecDeque;

/// Most samples of a window: more tell no more, and a long window of short steps must not fill the memory.
const SAMPLES_MAX: u64 = 128;

/// The samples of a span of time, oldest first.
#[derive(Debug, Clone)]
pub struct Window<T> {
    span_ms: u64,
    samples: VecDeque<(u64, T)>,
}

impl<T> Window<T> {
    /// Makes an empty window of so many milliseconds.
    #[must_use]
    pub fn new(span_ms: u64) -> Self {
        Self { span_ms, samples: VecDeque::new() }
    }

    /// Takes a sample. What has left the span is forgotten, but for the last one before this: two samples that lie
    /// further apart than the span still tell what happened between them.
    pub fn push(&mut self, now_ms: u64, value: T) {
        if let [.., (before, _), (last, _)] = self.samples.make_contiguous()
            && last.saturating_sub(*before) < self.span_ms / SAMPLES_MAX
        {
            self.samples.pop_back();
        }
        self.samples.push_back((now_ms, value));
        let since = now_ms.saturating_sub(self.span_ms);
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| *at < since) {
            self.samples.pop_front();
        }
    }

    /// Gives the oldest and the newest sample and the milliseconds between them; none before there are two.
    #[must_use]
    pub fn ends(&self) -> Option<(&T, &T, u64)> {
        let (from, first) = self.samples.front()?;
        let (to, last) = self.samples.back()?;
        (self.samples.len() > 1 && to > from).then(|| (first, last, to - from))
    }

    /// Gives the newest sample.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        self.samples.back().map(|(_, value)| value)
    }
}
