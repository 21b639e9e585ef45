//! Probes: asks a component whether it is well, over and over until it is or has failed often enough; judges nothing.

mod exec;
mod http;
mod log;
mod memory;
mod metric;
mod resource;
mod tcp;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollback::model::health::{Answer, ProbeResult};
use rollback::model::text::sanitize;
use rollback::rules::Reading;
use tokio::time::{Instant, sleep, timeout};

use self::memory::Asked;
use crate::config::{Component, Probe, ProbeKind};
use crate::ports::{Clock, Facts, Prober, Units};

/// Bytes of what a probe saw that are kept: a line or two for a report, however much the other side says.
const DETAIL_BYTES_MAX: usize = 1_024;
/// Time beyond its own limit in which a probe may clean up (kill its program) before it is given up.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(1);

/// The program that reads the journal.
const JOURNAL_READER: &str = "journalctl";

/// What one try of a check saw, in words: why it passed, or why it failed.
type Seen = Result<String, String>;

/// Asks every kind of probe.
pub struct Probes {
    units: Arc<dyn Units>,
    http: http::Client,
    journal: log::Journal,
    metrics: metric::Metrics,
    resources: resource::Resources,
}

impl Probes {
    /// Takes the service managers, the facts of processes, and the time.
    #[must_use]
    pub fn new(units: Arc<dyn Units>, facts: Arc<dyn Facts>, clock: Arc<dyn Clock>) -> Self {
        Self {
            units,
            http: http::Client::default(),
            journal: log::Journal::new(JOURNAL_READER.into(), Arc::clone(&clock)),
            metrics: metric::Metrics::new(Arc::clone(&clock)),
            resources: resource::Resources::new(facts, clock),
        }
    }

    /// Tries once, within the limit.
    async fn once(&self, component: &Component, probe: &Probe, limit: Duration) -> Reading {
        match &probe.kind {
            ProbeKind::Unit => checked(limit, unit::ask(self.units.as_ref(), component)).await,
            ProbeKind::Http(http) => checked(limit, self.http.ask(http)).await,
            ProbeKind::Tcp(tcp) => checked(limit, tcp::ask(tcp)).await,
            ProbeKind::Exec(exec) => checked(limit + CLEAN_UP_LIMIT, exec::ask(component, exec, limit)).await,
            ProbeKind::Log(log) => {
                let ask = |asked| async move { self.journal.ask(&asked, log, limit).await };
                self.ruled(component, probe, limit, ask).await
            }
            ProbeKind::Metric(metric) => {
                let ask = |asked| async move { self.metrics.ask(&self.http, &asked, metric).await };
                self.ruled(component, probe, limit, ask).await
            }
            ProbeKind::Resource(resource) => {
                let ask = |asked| async move { self.resources.ask(self.units.as_ref(), &asked, resource).await };
                self.ruled(component, probe, limit, ask).await
            }
        }
    }

    /// Asks a rule: that nobody answers in time proves nothing.
    async fn ruled<'a, F: Future<Output = Reading>>(
        &self,
        component: &'a Component,
        probe: &'a Probe,
        limit: Duration,
        ask: impl FnOnce(Asked<'a>) -> F,
    ) -> Reading {
        let whole = async {
            match Asked::now(self.units.as_ref(), component, probe).await {
                Ok(asked) => ask(asked).await,
                Err(why) => Reading::Unknown(why),
            }
        };
        timeout(limit, whole).await.unwrap_or_else(|_| Reading::Unknown(no_answer(limit)))
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
            let seen = self.once(component, probe, own.min(deadline.saturating_duration_since(began))).await;
            let is_last = tries >= probe.failures || Instant::now() + interval >= deadline;
            let (answer, detail) = match seen {
                Reading::Within(what) => (Answer::Passed, what),
                Reading::Beyond(why) => (Answer::Failed, why),
                Reading::Unknown(why) => (Answer::Undecided, why),
            };
            if answer != Answer::Failed || is_last {
                return ProbeResult {
                    name: probe.name.clone(),
                    weight: probe.weight,
                    answer,
                    tries,
                    duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    detail: sanitize(detail.as_bytes(), DETAIL_BYTES_MAX),
                    severity: probe.severity,
                };
            }
            sleep(interval).await;
        }
    }
}

/// Asks a check: that nobody answers in time is a failure.
async fn checked(limit: Duration, ask: impl Future<Output = Seen>) -> Reading {
    match timeout(limit, ask).await {
        Ok(Ok(what)) => Reading::Within(what),
        Ok(Err(why)) => Reading::Beyond(why),
        Err(_) => Reading::Beyond(no_answer(limit)),
    }
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
