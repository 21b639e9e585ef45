//! The host's clocks and its randomness.

#![expect(clippy::disallowed_methods, reason = "this module is the clock")]

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use rollback::model::watch::Moment;

use crate::ports::Clock;

/// Tells this moment by all clocks.
pub(crate) fn moment(clock: &dyn Clock) -> Moment {
    let since_boot_ms = u64::try_from(clock.boottime().as_millis()).unwrap_or(u64::MAX);
    Moment { boot: clock.boot(), since_boot_ms, at: clock.now() }
}

/// The clocks of the kernel.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot(&self) -> String {
        crate::procfs::boot()
    }

    fn boottime(&self) -> Duration {
        // CLOCK_BOOTTIME exists on every kernel since 2.6.39; the fallback keeps durations at zero, never negative.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn random(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        // Bytes 9 to 15 of a UUID of version 7 are random, and so are the low bits before them.
        bytes[..6].copy_from_slice(&uuid::Uuid::now_v7().as_bytes()[10..]);
        bytes[6..].copy_from_slice(&uuid::Uuid::now_v7().as_bytes()[12..]);
        bytes
    }
}
