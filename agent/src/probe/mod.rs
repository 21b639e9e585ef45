//! Probes: asks a component whether it is well, over and over until it is or has failed often enough; judges nothing.

mod exec;
mod http;
mod tcp;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollback::model::health::{Answer, ProbeResult};
use rollback::model::text::sanitize;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Component, Probe, ProbeKind};
use crate::ports::{Prober, Units};

/// Bytes of what a probe saw that are kept: a line or two for a report, however much the other side says.
const DETAIL_BYTES_MAX: usize = 1_024;
/// Time beyond its own limit in which a probe may clean up (kill its program) before it is given up.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(1);

/// What one try saw, in words: why it passed, or why it failed.
type Seen = Result<String, String>;

/// Asks every kind of probe.
pub struct Probes {
    units: Arc<dyn Units>,
    http: http::Client,
}

impl Probes {
    /// Takes the service managers, which probes of kind `unit` ask.
    #[must_use]
    pub fn new(units: Arc<dyn Units>) -> Self {
        Self { units, http: http::Client::default() }
    }

    /// Tries once, within the limit.
    async fn once(&self, component: &Component, kind: &ProbeKind, limit: Duration) -> Seen {
        match kind {
            ProbeKind::Unit => bounded(limit, unit::ask(self.units.as_ref(), component)).await,
            ProbeKind::Http(probe) => bounded(limit, self.http.ask(probe)).await,
            ProbeKind::Tcp(probe) => bounded(limit, tcp::ask(probe)).await,
            ProbeKind::Exec(probe) => bounded(limit + CLEAN_UP_LIMIT, exec::ask(component, probe, limit)).await,
        }
    }
}

#[async_trait]
impl Prober for Probes {
    async fn ask(&self, component: &Component, probe: &Probe, limit: Duration) -> ProbeResult {
        let deadline = Instant::now() + limit;
        let interval = Duration::from_millis(probe.interval_ms);
        let mut tries = 0;
        loop {
            tries += 1;
            let began = Instant::now();
            let own = Duration::from_millis(probe.timeout_ms);
            let seen = self.once(component, &probe.kind, own.min(deadline.saturating_duration_since(began))).await;
            let is_last = tries >= probe.failures || Instant::now() + interval >= deadline;
            if seen.is_ok() || is_last {
                let (answer, detail) = seen.map_or_else(|why| (Answer::Failed, why), |what| (Answer::Passed, what));
                return ProbeResult {
                    name: probe.name.clone(),
                    weight: probe.weight,
                    answer,
                    tries,
                    duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    detail: sanitize(detail.as_bytes(), DETAIL_BYTES_MAX),
                };
            }
            sleep(interval).await;
        }
    }
}

async fn bounded(limit: Duration, ask: impl Future<Output = Seen>) -> Seen {
    timeout(limit, ask).await.unwrap_or_else(|_| Err(no_answer(limit)))
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

/// Says why a connection failed in the system's own short words.
fn io_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests;
