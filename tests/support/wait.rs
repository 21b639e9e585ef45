//! Waits for something outside this process to become true, never longer than a deadline.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes need a real clock; this is the only clock of the harness"
)]

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// How long to rest between two looks. Short beside any boot or shutdown of a process, and
/// long enough that eight waiting threads cost next to nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Says what did not happen, and how long it was waited for.
#[derive(Debug)]
pub struct TimedOut {
    what: String,
    limit: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:?} in vain for {}", self.limit, self.what)
    }
}

impl std::error::Error for TimedOut {}

/// Waits until `condition` holds and looks every 10 ms.
///
/// This is for events that nobody announces (a process is gone, a port answers). It looks once
/// more after the deadline has passed, so a slow `condition` is never judged on one look.
///
/// # Errors
/// `TimedOut` when it does not hold within `limit`.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), TimedOut> {
    let start = Instant::now();
    loop {
        let late = start.elapsed() >= limit;
        if condition() {
            return Ok(());
        }
        if late {
            return Err(TimedOut { what: what.to_owned(), limit });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Measures how long `work` takes, for the figures that a test reports.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}
