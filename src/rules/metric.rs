//! Rules over metrics: the share of errors, a quantile of latencies, the answer to a PromQL query.

use serde_json::Value;

use super::Reading;
use super::counters::{Counters, Counts, Growth};
use super::exposition::{Malformed, samples};
use super::histogram::{Bound, quantile};
use super::selector::Selector;

/// Most series of one look: a service with more of one metric has a label that is no label.
const SERIES_MAX: usize = 20_000;

/// What is counted of a service's metrics, and its limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// The share of one counter in another.
    Ratio {
        /// What counts as an error.
        errors: Selector,
        /// What counts at all.
        total: Selector,
        /// The largest share.
        max: f64,
    },
    /// A quantile of a histogram of seconds.
    Quantile {
        /// The histogram.
        histogram: Selector,
        /// Which quantile, between 0 and 1.
        quantile: f64,
        /// The largest latency, in milliseconds.
        max_ms: u64,
    },
}

/// What a series counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Errors.
    Errors,
    /// Everything.
    Total,
    /// Observations up to a bound.
    Bucket(Bound),
}

/// Why a text tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeError {
    /// It is no text of metrics.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A counter has a value that none can have.
    #[error("`{0}` has a value that no counter can have")]
    Value(String),
    /// There are too many series.
    #[error("more than {SERIES_MAX} series match")]
    TooMany,
    /// What is looked for is not there.
    #[error("no series matches `{0}`")]
    Absent(String),
}

impl Measure {
    /// Picks what is measured out of a text of metrics.
    ///
    /// # Errors
    /// When the text is malformed or does not have what is measured. Errors may be missing: many services count the
    /// first one when it happens.
    pub fn counts(&self, text: &str) -> Result<Counts<Part>, ScrapeError> {
        let mut counts = Counts::new();
        for sample in samples(text) {
            let sample = sample?;
            let parts = match self {
                Self::Ratio { errors, total, .. } => [
                    errors.selects(&sample, "").then_some(Part::Errors),
                    total.selects(&sample, "").then_some(Part::Total),
                ],
                Self::Quantile { histogram, .. } => {
                    let bound = histogram.selects(&sample, "_bucket").then(|| Bound::parse(sample.label("le")));
                    [bound.flatten().map(Part::Bucket), None]
                }
            };
            for part in parts.into_iter().flatten() {
                // A label is quoted, so that no value can make two series one.
                let mut series = format!("{}{:?}", sample.name, sample.labels);
                series.shrink_to_fit();
                if !(sample.value.is_finite() && sample.value >= 0.0) {
                    return Err(ScrapeError::Value(sample.name.to_owned()));
                }
                counts.insert((part, series), sample.value);
                if counts.len() > SERIES_MAX {
                    return Err(ScrapeError::TooMany);
                }
            }
        }
        let wanted = match self {
            Self::Ratio { total, .. } => total,
            Self::Quantile { histogram, .. } => histogram,
        };
        let is_there = counts.keys().any(|(part, _)| matches!(part, Part::Total | Part::Bucket(_)));
        if is_there { Ok(counts) } else { Err(ScrapeError::Absent(wanted.to_string())) }
    }

    /// Judges what the counters grew by; with fewer than `min_requests` in the window nothing is told.
    #[must_use]
    pub fn judge(&self, counters: &Counters<Part>, min_requests: u32) -> Reading {
        let Some(growth) = counters.growth() else {
            return Reading::Unknown("the counters were read once: what they grow by is not known yet".to_owned());
        };
        match self {
            Self::Ratio { max, .. } => ratio(&growth, *max, min_requests),
            Self::Quantile { quantile, max_ms, .. } => latency(&growth, *quantile, *max_ms, min_requests),
        }
    }
}

fn ratio(growth: &Growth<Part>, max: f64, min_requests: u32) -> Reading {
    let of = |part| growth.by.get(&part).copied().unwrap_or(0.0);
    let (errors, total) = (of(Part::Errors), of(Part::Total));
    if let Some(few) = too_few(total, min_requests, growth.over_ms) {
        return few;
    }
    let share = errors / total;
    let words = format!("{} of {total:.0} requests in {} failed", percent(share), seconds(growth.over_ms));
    if share > max {
        Reading::Beyond(format!("{words}, {} is the limit", percent(max)))
    } else {
        Reading::Within(words)
    }
}

fn latency(growth: &Growth<Part>, wanted: f64, max_ms: u64, min_requests: u32) -> Reading {
    let buckets: Vec<(Bound, f64)> = growth
        .by
        .iter()
        .filter_map(|(part, count)| match part {
            Part::Bucket(bound) => Some((*bound, *count)),
            Part::Errors | Part::Total => None,
        })
        .collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    if let Some(few) = too_few(total, min_requests, growth.over_ms) {
        return few;
    }
    let Some(found) = quantile(wanted, &buckets) else {
        return Reading::Unknown("the histogram has no bucket `+Inf` beside others".to_owned());
    };
    let found_ms = found * 1_000.0;
    let words = format!("{} of {total:.0} requests in {} is {found_ms:.0} ms", name(wanted), seconds(growth.over_ms));
    #[expect(clippy::cast_precision_loss, reason = "a latency limit is far below 2^52 milliseconds")]
    let is_beyond = found_ms > max_ms as f64;
    if is_beyond { Reading::Beyond(format!("{words}, {max_ms} ms is the limit")) } else { Reading::Within(words) }
}

fn too_few(total: f64, min_requests: u32, over_ms: u64) -> Option<Reading> {
    (total < f64::from(min_requests.max(1))).then(|| {
        Reading::Unknown(format!("{total:.0} requests in {}, {min_requests} are needed to tell", seconds(over_ms)))
    })
}

/// Judges the answer to an instant query of a Prometheus server: the largest of its values counts.
#[must_use]
pub fn answer(body: &[u8], max: f64) -> Reading {
    let Ok(said) = serde_json::from_slice::<Value>(body) else {
        return Reading::Unknown("the answer is not JSON".to_owned());
    };
    if said["status"] != "success" {
        let why = said["error"].as_str().unwrap_or("it does not say why");
        return Reading::Unknown(format!("the query failed: {why}"));
    }
    let result = &said["data"]["result"];
    let texts: Vec<&Value> = match said["data"]["resultType"].as_str() {
        Some("vector") => result.as_array().into_iter().flatten().map(|series| &series["value"][1]).collect(),
        Some("scalar") => vec![&result[1]],
        _ => return Reading::Unknown("the query gives neither a vector nor a scalar".to_owned()),
    };
    let values =
        texts.into_iter().filter_map(|text| text.as_str()?.parse::<f64>().ok()).filter(|value| !value.is_nan());
    let Some(largest) = values.reduce(f64::max) else {
        return Reading::Unknown("the query gives no value".to_owned());
    };
    if largest > max {
        Reading::Beyond(format!("the query gives {}, {max} is the limit", short(largest)))
    } else {
        Reading::Within(format!("the query gives {}", short(largest)))
    }
}

fn short(value: f64) -> String {
    let rounded = format!("{value:.4}");
    match rounded.contains('.') {
        true => rounded.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => rounded,
    }
}

fn percent(share: f64) -> String {
    format!("{} %", short((share * 10_000.0).round() / 100.0))
}

fn name(quantile: f64) -> String {
    format!("P{}", short(quantile * 100.0))
}

pub(super) fn seconds(millis: u64) -> String {
    format!("{} s", millis.div_ceil(1_000))
}
