//! The `metric` probe: what the service's own metrics grew by, or what a Prometheus server says. Without data it cannot
//! tell: whether the service answers at all is for other probes to say.

use std::sync::Arc;

use reqwest::Url;
use rollback::rules::Reading;
use rollback::rules::counters::Counters;
use rollback::rules::metric::{Part, answer};

use super::http::Client;
use super::memory::{Asked, Memory};
use crate::config::{MetricProbe, QueryProbe, ScrapeProbe};
use crate::ports::Clock;

/// Largest page of metrics: a large service has one of them, and one that streams for ever is cut here.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest answer of a server: a query that gives more does not give one value.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The format that is asked for; services that know another one as well would choose that.
const ACCEPT: &str = "text/plain;version=0.0.4";

/// Asks for metrics, and remembers counters between two looks.
pub(super) struct Metrics {
    clock: Arc<dyn Clock>,
    memory: Memory<Counters<Part>>,
}

impl Metrics {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, memory: Memory::default() }
    }

    pub(super) async fn ask(&self, client: &Client, asked: &Asked<'_>, probe: &MetricProbe) -> Reading {
        let read = match probe {
            MetricProbe::Scrape(scrape) => self.scrape(client, asked, scrape).await,
            MetricProbe::Query(query) => self::query(client, query).await,
        };
        read.unwrap_or_else(Reading::Unknown)
    }

    async fn scrape(&self, client: &Client, asked: &Asked<'_>, scrape: &ScrapeProbe) -> Result<Reading, String> {
        let page = get(client, &scrape.url, PAGE_BYTES_MAX).await?;
        let text = String::from_utf8(page).map_err(|_| "the metrics are not text".to_owned())?;
        let counts = scrape.measure.counts(&text).map_err(|error| format!("the metrics tell nothing: {error}"))?;
        let now_ms = u64::try_from(self.clock.boottime().as_millis()).unwrap_or(u64::MAX);
        let fresh = || Counters::new(scrape.window_ms);
        Ok(self.memory.with(asked, fresh, |counters| {
            counters.look(now_ms, counts);
            scrape.measure.judge(counters, scrape.requests_min)
        }))
    }
}

async fn query(client: &Client, query: &QueryProbe) -> Result<Reading, String> {
    let mut url = Url::parse(&query.server).map_err(|error| error.to_string())?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["api", "v1", "query"]);
    }
    url.query_pairs_mut().append_pair("query", &query.promql);
    Ok(answer(&get(client, url.as_str(), ANSWER_BYTES_MAX).await?, query.max))
}

async fn get(client: &Client, url: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let page = client.get(url, Some(ACCEPT), bytes_max).await?;
    match (page.status, page.is_whole) {
        (200, true) => Ok(page.body),
        (200, false) => Err(format!("the answer has more than {bytes_max} bytes")),
        // A server says in the body why it refuses a query.
        (400 | 422, true) => Ok(page.body),
        (status, _) => Err(format!("HTTP {status}, expected 200")),
    }
}
