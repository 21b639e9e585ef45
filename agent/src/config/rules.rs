//! Makes rules of what `[[probes]]` of the kinds `log`, `metric` and `resource` say.

use std::ops::RangeInclusive;

use rollback::rules::lines::Patterns;
use rollback::rules::metric::Measure;
use rollback::rules::selector::Selector;
use rollback::rules::usage::Limits;

use super::probes::{Defaults, LATENCY_MILLIS, url};
use super::section::{Section, duration_text};
use super::settings::{LogProbe, MetricProbe, ProbeKind, QueryProbe, ResourceProbe, ScrapeProbe};

/// Most patterns of a probe: each line is matched with all of them.
const PATTERNS_MAX: usize = 64;
/// Critical lines that are borne: a service that logs ten thousand of them is not asked whether it is well.
const LINES: RangeInclusive<u32> = 0..=10_000;
/// The time within which lines count, and over which counters are compared: below a second nothing is seen, past an
/// hour a watch is over.
const WINDOW_MILLIS: RangeInclusive<u64> = 1_000..=3_600_000;
/// Requests that are needed before anything is told: one at least, to divide by.
const REQUESTS: RangeInclusive<u32> = 1..=1_000_000;
/// Percent of one processor: none has more than a thousand of them.
const CPU_PERCENT: RangeInclusive<u32> = 1..=100_000;
/// Memory: from what the smallest program needs to what the largest host has.
const MEMORY_BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 44);
/// Growth a minute: less than that is what an allocator does by itself.
const GROWTH_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 40);

/// One minute: what happened lately, not a single burst.
const WINDOW_DEFAULT_MS: u64 = 60_000;
/// One request of a hundred may fail.
const RATIO_DEFAULT: f64 = 0.01;
/// The slowest of a hundred requests counts.
const QUANTILE_DEFAULT: f64 = 0.99;
/// It may take so long.
const LATENCY_DEFAULT_MS: u64 = 200;
/// One failure of fewer requests is no rate.
const REQUESTS_DEFAULT: u32 = 20;

/// The journal is read every second, and one critical line is enough.
pub(super) const LOG: Defaults = Defaults { interval_ms: 1_000, failures: 1, for_ms: 0 };
/// Processes are looked at every second; a minute above a limit is no peak any more.
pub(super) const RESOURCE: Defaults = Defaults { interval_ms: 1_000, failures: 1, for_ms: 60_000 };
/// Between two looks at metrics: what Prometheus itself would call often.
const METRIC_INTERVAL_MS: u64 = 5_000;
/// Errors for five minutes are no hiccup of a neighbour, and slowness for ten no cold cache.
const ERRORS_FOR_MS: u64 = 300_000;
const LATENCY_FOR_MS: u64 = 600_000;

pub(super) fn metric_defaults(metric: &MetricProbe) -> Defaults {
    let for_ms = match metric {
        MetricProbe::Scrape(ScrapeProbe { measure: Measure::Quantile { .. }, .. }) => LATENCY_FOR_MS,
        MetricProbe::Scrape(ScrapeProbe { measure: Measure::Ratio { .. }, .. }) | MetricProbe::Query(_) => {
            ERRORS_FOR_MS
        }
    };
    Defaults { interval_ms: METRIC_INTERVAL_MS, failures: 1, for_ms }
}

/// Names the failure of a metric probe as the engine's table does.
pub(super) fn metric_failure(metric: &MetricProbe) -> &'static str {
    match metric {
        MetricProbe::Scrape(ScrapeProbe { measure: Measure::Quantile { .. }, .. }) => "latency",
        MetricProbe::Scrape(ScrapeProbe { measure: Measure::Ratio { .. }, .. }) => "error rate",
        MetricProbe::Query(_) => "query",
    }
}

/// Reports a window in which no two looks lie.
pub(super) fn fits(section: &Section<'_>, kind: &ProbeKind, interval_ms: u64) {
    let window_ms = match kind {
        ProbeKind::Metric(MetricProbe::Scrape(scrape)) => scrape.window_ms,
        ProbeKind::Resource(resource) => resource.window_ms,
        ProbeKind::Unit
        | ProbeKind::Http(_)
        | ProbeKind::Tcp(_)
        | ProbeKind::Exec(_)
        | ProbeKind::Log(_)
        | ProbeKind::Metric(MetricProbe::Query(_)) => return,
    };
    if window_ms < interval_ms.saturating_mul(2) {
        let interval = duration_text(interval_ms);
        let what = format_args!("two looks that lie {interval} apart need twice that time");
        section.problem_hint("window", what, "raise `window`, or lower `interval`");
    }
}

pub(super) fn log(section: &mut Section<'_>) -> Option<LogProbe> {
    if !section.has("patterns") {
        section.missing("patterns", "what makes a line critical: `patterns = [\"FATAL\", \"panicked at\"]`");
    }
    let items = section.list("patterns");
    if section.has("patterns") && items.is_empty() {
        section.problem("patterns", "there is no pattern");
    }
    if items.len() > PATTERNS_MAX {
        section
            .problem("patterns", format_args!("there are {} of them, at most {PATTERNS_MAX} are allowed", items.len()));
    }
    let mut texts = Vec::new();
    for item in items.iter().take(PATTERNS_MAX) {
        let Some(text) = section.any("patterns", item) else { continue };
        match Patterns::new([text]) {
            Ok(_) if !text.is_empty() => texts.push(text),
            Ok(_) => section.problems.add(&item.place, "`probes.patterns`: every line matches the empty pattern"),
            Err(why) => section.problems.add(&item.place, format!("`probes.patterns`: {text:?}: {why}")),
        }
    }
    let lines_max = section.integer("max_lines", LINES).unwrap_or(0);
    let within_ms = section.millis("within", WINDOW_MILLIS).unwrap_or(WINDOW_DEFAULT_MS);
    match Patterns::new(texts) {
        Ok(patterns) => Some(LogProbe { patterns, lines_max, within_ms }),
        Err(why) => {
            section.problem("patterns", why);
            None
        }
    }
}

/// The three forms of a metric: the key that makes it one, and those that only it has.
const FORMS: [(&str, &[&str]); 3] =
    [("errors", &["total", "max_ratio"]), ("histogram", &["quantile", "max_latency"]), ("promql", &["server", "max"])];
/// The keys that a query has no use for.
const SCRAPE: [&str; 3] = ["url", "window", "min_requests"];

pub(super) fn metric(section: &mut Section<'_>) -> Option<MetricProbe> {
    let forms: Vec<&str> = FORMS.iter().map(|(key, _)| *key).filter(|key| section.has(key)).collect();
    for (key, own) in FORMS {
        if section.has(key) && forms[0] != key {
            section.problem(key, format_args!("a probe measures one thing, and `{}` stands here as well", forms[0]));
            section.node(key);
        }
        if !section.has(key) && !forms.is_empty() {
            section.forbid(own, &format!("it belongs to `{key}`"));
        }
    }
    match forms.first().copied() {
        Some("promql") => {
            section.forbid(&SCRAPE, "a query has no use for it");
            query(section).map(MetricProbe::Query)
        }
        Some("histogram") => {
            let measure = histogram(section);
            scrape(section, measure).map(MetricProbe::Scrape)
        }
        Some(_) => {
            let measure = ratio(section);
            scrape(section, measure).map(MetricProbe::Scrape)
        }
        None => {
            section.missing("errors", "or `histogram`, or `promql`: `errors = 'http_requests_total{code=~\"5..\"}'`");
            for key in FORMS.iter().flat_map(|(key, own)| [*key].into_iter().chain(own.iter().copied())).chain(SCRAPE) {
                section.node(key);
            }
            None
        }
    }
}

fn scrape(section: &mut Section<'_>, measure: Option<Measure>) -> Option<ScrapeProbe> {
    let url = url(section, "url", "where the metrics are: `url = \"http://127.0.0.1:8080/metrics\"`");
    let window_ms = section.millis("window", WINDOW_MILLIS).unwrap_or(WINDOW_DEFAULT_MS);
    let requests_min = section.integer("min_requests", REQUESTS).unwrap_or(REQUESTS_DEFAULT);
    Some(ScrapeProbe { url: url?, measure: measure?, window_ms, requests_min })
}

fn ratio(section: &mut Section<'_>) -> Option<Measure> {
    let errors: Option<Selector> = section.parse("errors");
    if !section.has("total") {
        section.missing("total", "what the errors are a part of: `total = \"http_requests_total\"`");
    }
    let total = section.parse("total");
    let max = section.number("max_ratio", 0.0..=1.0).unwrap_or(RATIO_DEFAULT);
    Some(Measure::Ratio { errors: errors?, total: total?, max })
}

fn histogram(section: &mut Section<'_>) -> Option<Measure> {
    let histogram: Option<Selector> = section.parse("histogram");
    if let Some(name) = histogram.as_ref().map(Selector::name).filter(|name| name.ends_with("_bucket")) {
        let hint = format!("write `{}`", name.trim_end_matches("_bucket"));
        section.problem_hint("histogram", "the name stands without what its series have behind it", hint);
    }
    let quantile = section.number("quantile", 0.001..=0.9999).unwrap_or(QUANTILE_DEFAULT);
    let max_ms = section.millis("max_latency", LATENCY_MILLIS).unwrap_or(LATENCY_DEFAULT_MS);
    Some(Measure::Quantile { histogram: histogram?, quantile, max_ms })
}

fn query(section: &mut Section<'_>) -> Option<QueryProbe> {
    let server = url(section, "server", "the Prometheus server: `server = \"http://prometheus:9090\"`");
    let promql = section.text("promql");
    if !section.has("max") {
        section.missing("max", "the largest value that is well: `max = 0.01`");
    }
    let max = section.number("max", f64::MIN..=f64::MAX);
    Some(QueryProbe { server: server?, promql: promql?.to_owned(), max: max? })
}

pub(super) fn resource(section: &mut Section<'_>) -> Option<ResourceProbe> {
    let limits = Limits {
        memory_max: section.bytes("max_memory", MEMORY_BYTES),
        memory_growth_per_min: section.bytes("max_memory_growth", GROWTH_BYTES),
        cpu_max: section.integer("max_cpu", CPU_PERCENT),
        cpu_growth_per_min: section.integer("max_cpu_growth", CPU_PERCENT),
    };
    if !["max_memory", "max_memory_growth", "max_cpu", "max_cpu_growth"].iter().any(|key| section.has(key)) {
        section
            .missing("max_memory", "or `max_memory_growth`, `max_cpu` or `max_cpu_growth`: `max_memory = \"512MiB\"`");
    }
    let window_ms = section.millis("window", WINDOW_MILLIS).unwrap_or(WINDOW_DEFAULT_MS);
    Some(ResourceProbe { limits, window_ms })
}
