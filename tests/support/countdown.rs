//! Makes the n-th effect of a simulated host fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts effects and tells one of them that it fails.
///
/// Clones share the count, so every fake port of one world can hold its own clone.
#[derive(Clone, Debug)]
pub struct Countdown {
    nth: Option<u64>,
    hits: Arc<AtomicU64>,
}

impl Countdown {
    /// Fails the effect number `nth`, counted from 1, and no other.
    pub fn at(nth: u64) -> Self {
        assert!(nth > 0, "effects are counted from 1");
        Self { nth: Some(nth), hits: Arc::default() }
    }

    /// Fails nothing; `hits` then says how many effects there are to sweep.
    pub fn never() -> Self {
        Self { nth: None, hits: Arc::default() }
    }

    /// Counts one effect and returns whether this is the one that fails.
    pub fn hit(&self) -> bool {
        let number = self.hits.fetch_add(1, Ordering::SeqCst) + 1;
        self.nth == Some(number)
    }

    /// Returns how many effects were counted so far.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::Countdown;

    #[test]
    fn only_the_chosen_effect_fails() {
        let countdown = Countdown::at(2);
        let shared = countdown.clone();
        assert!(!countdown.hit());
        assert!(shared.hit());
        assert!(!countdown.hit());
        assert_eq!(countdown.hits(), 3);
    }

    #[test]
    fn without_a_chosen_effect_nothing_fails() {
        let countdown = Countdown::never();
        assert!((0..100).all(|_| !countdown.hit()));
        assert_eq!(countdown.hits(), 100);
    }
}
