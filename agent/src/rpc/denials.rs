//! Reports who was not let in, without letting a flood of strangers flood the audit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollback::model::text::sanitize;

use crate::ports::Clock;

/// Reports about strangers per [`WINDOW`]: one a second shows a pattern, more only fills the history.
pub const STRANGERS_MAX: u32 = 60;
/// Reports about known identities per [`WINDOW`]: more than people make by mistake; strangers cannot use these up.
pub const KNOWN_MAX: u32 = 600;
/// The time in which reports are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Longest reason that is reported: certificates and paths are the peer's words.
pub const WHY_BYTES_MAX: usize = 512;

/// Somebody was not let in, or may not do what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessDenied {
    /// The identity; empty when it is not known.
    pub actor: String,
    /// Where it came from: an address, or `local`.
    pub peer: String,
    /// The path of the method; none when it did not get that far.
    pub method: Option<String>,
    /// Why.
    pub why: String,
    /// How many like it (strangers, or known identities) were not reported since the last one that was.
    pub suppressed: u64,
}

/// Passes denials on, within bounds.
pub struct Denials {
    report: Box<dyn Fn(AccessDenied) + Send + Sync>,
    clock: Arc<dyn Clock>,
    counts: Mutex<[Count; 2]>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    began: Option<Duration>,
    reported: u32,
    suppressed: u64,
}

impl fmt::Debug for Denials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Denials")
    }
}

impl Denials {
    /// Reports to `report`, which must not block: it is called from the accept loop.
    pub fn new(clock: Arc<dyn Clock>, report: impl Fn(AccessDenied) + Send + Sync + 'static) -> Self {
        Self { report: Box::new(report), clock, counts: Mutex::default() }
    }

    /// Reports a peer without a proven identity.
    pub fn stranger(&self, peer: &str, why: &str) {
        self.pass(0, AccessDenied::new("", peer, None, why));
    }

    /// Reports a call of a proven identity.
    pub fn known(&self, actor: &str, peer: &str, method: &str, why: &str) {
        self.pass(1, AccessDenied::new(actor, peer, Some(one_line(method)), why));
    }

    fn pass(&self, kind: usize, denied: AccessDenied) {
        let limit = [STRANGERS_MAX, KNOWN_MAX][kind];
        let now = self.clock.boottime();
        let suppressed = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = &mut counts[kind];
            if count.began.is_none_or(|began| now.saturating_sub(began) >= WINDOW) {
                *count = Count { began: Some(now), reported: 0, suppressed: count.suppressed };
            }
            if count.reported == limit {
                count.suppressed += 1;
                return;
            }
            count.reported += 1;
            std::mem::take(&mut count.suppressed)
        };
        (self.report)(AccessDenied { suppressed, ..denied });
    }
}

impl AccessDenied {
    fn new(actor: &str, peer: &str, method: Option<String>, why: &str) -> Self {
        let why = one_line(why);
        Self { actor: actor.to_owned(), peer: peer.to_owned(), method, why, suppressed: 0 }
    }
}

/// Bounds a peer's words and keeps them from looking like more than one line.
fn one_line(text: &str) -> String {
    sanitize(text.as_bytes(), WHY_BYTES_MAX).replace(['\n', '\t'], " ")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;

    use super::*;

    /// A clock that stands until it is turned.
    #[derive(Debug, Default)]
    pub(crate) struct StandingClock(pub(crate) AtomicU64);

    #[async_trait::async_trait]
    impl Clock for StandingClock {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn boot(&self) -> String {
            String::new()
        }
        fn boottime(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
        async fn sleep(&self, _: Duration) {}
        fn random(&self) -> [u8; 10] {
            [0; 10]
        }
    }

    #[test]
    fn flood_of_strangers_is_counted_and_hides_no_known_identity() {
        let clock = Arc::new(StandingClock::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let denials = Denials::new(Arc::clone(&clock) as Arc<dyn Clock>, move |denied| {
            sink.lock().expect("no panic").push(denied);
        });
        for _ in 0..STRANGERS_MAX + 40 {
            denials.stranger("192.0.2.1:1", "no certificate");
        }
        denials.known("rollback://example/agent/web01", "192.0.2.2:1", "/m", "an agent");
        clock.0.store(61, Ordering::SeqCst);
        denials.stranger("192.0.2.1:1", "no\ncertificate");
        let seen = seen.lock().expect("no panic");
        assert_eq!(seen.len(), STRANGERS_MAX as usize + 2);
        assert_eq!(seen[STRANGERS_MAX as usize].method.as_deref(), Some("/m"));
        let last = seen.last().expect("not empty");
        assert_eq!(last.suppressed, 40);
        assert!(!last.why.contains('\n'));
    }
}
