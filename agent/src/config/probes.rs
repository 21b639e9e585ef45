//! Makes probes of what `[[probes]]` and `[[smoke]]` say.

use std::ops::RangeInclusive;
use std::path::Path;

use rollback::engine::trigger;
use rollback::model::decision::Severity;
use rollback::model::health::Weight;
use rollback::model::policy::{Policy, Timeouts};
use rollback::model::watch::WATCH_MS_MAX;

use super::file::Value;
use super::rules;
use super::section::{Section, duration_text};
use super::settings::{ExecProbe, HttpProbe, JsonValue, Probe, ProbeKind, TcpProbe};

/// Most probes of a component, and most smoke checks: all of them run at every verification.
const PROBES_MAX: usize = 64;
/// One try: below ten milliseconds even loopback fails now and then, and five minutes is longer than any verification.
const TIMEOUT_MILLIS: RangeInclusive<u64> = 10..=300_000;
/// Between two tries: shorter is load, longer finds a failure too late.
const INTERVAL_MILLIS: RangeInclusive<u64> = 10..=60_000;
/// Consecutive failures: past a hundred nothing is decided within a verification.
const FAILURES: RangeInclusive<u32> = 1..=100;
/// Status codes that HTTP has.
const STATUSES: RangeInclusive<i64> = 100..=599;

/// How long a probe may have to fail: no watch is longer.
const FOR_MILLIS: RangeInclusive<u64> = 0..=WATCH_MS_MAX;
/// A latency: below a millisecond nothing is measured, past five minutes no try is left.
pub(super) const LATENCY_MILLIS: RangeInclusive<u64> = 1..=300_000;

/// Two seconds for one try: the slowest answer that people still call an answer.
const TIMEOUT_DEFAULT_MS: u64 = 2_000;
/// Half a second between tries: three failures are found within two seconds.
const INTERVAL_DEFAULT_MS: u64 = 500;
/// Three failures in a row: one lost packet is not a bad release.
const FAILURES_DEFAULT: u32 = 3;
/// A smoke check is tried once unless it says otherwise: it runs when the probes have passed.
const SMOKE_FAILURES_DEFAULT: u32 = 1;

/// What of the component bears on its probes.
pub(super) struct Around<'a> {
    pub(super) timeouts: &'a Timeouts,
    pub(super) policy: &'a Policy,
    /// Whether lines of the units can be read with their time and their start.
    pub(super) has_journal: bool,
}

/// What a probe of a kind does unless it says otherwise.
pub(super) struct Defaults {
    pub(super) interval_ms: u64,
    pub(super) failures: u32,
    pub(super) for_ms: u64,
}

/// Reads the probes and then the smoke checks, which are required probes that are tried once.
pub(super) fn read(component: &mut Section<'_>, around: &Around<'_>) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for key in ["probes", "smoke"] {
        for mut section in component.tables(key, PROBES_MAX) {
            let probe = probe(&mut section, key == "smoke");
            if let Some(probe) = probe {
                if probes.iter().any(|other| other.name == probe.name) {
                    section.problem("name", format_args!("{:?} stands twice", probe.name.as_str()));
                }
                fits(&section, &probe, around);
                probes.push(probe);
            }
            section.finish();
        }
    }
    probes
}

/// Reports what of a probe contradicts the rest of its component.
fn fits(section: &Section<'_>, probe: &Probe, around: &Around<'_>) {
    if probe.timeout_ms > around.timeouts.verify_ms {
        let verify = duration_text(around.timeouts.verify_ms);
        let hint = "raise `verify` in `[timeouts]`";
        section.problem_hint("timeout", format_args!("verification ends after {verify} already"), hint);
    }
    if probe.for_ms > around.policy.watch_ms {
        let (needs, watch) = (duration_text(probe.for_ms), duration_text(around.policy.watch_ms));
        let what = format_args!("it must fail for {needs}, and a watch ends after {watch} already");
        section.problem_hint("for", what, "raise `watch` in `[policy]`, or lower `for`");
    }
    if matches!(&probe.kind, ProbeKind::Http(http) if http.latency_max_ms.is_some_and(|max| max > probe.timeout_ms)) {
        let what = format_args!("a try ends after {} already", duration_text(probe.timeout_ms));
        section.problem_hint("max_latency", what, "raise `timeout`, or lower `max_latency`");
    }
    if matches!(probe.kind, ProbeKind::Log(_)) && !around.has_journal {
        section.problem("kind", "the process backend keeps no journal that a probe of the kind \"log\" could read");
    }
}

fn probe(section: &mut Section<'_>, smoke: bool) -> Option<Probe> {
    for (key, hint) in [("name", "a name of its own: `name = \"health\"`"), ("kind", KINDS)] {
        if !section.has(key) {
            section.missing(key, hint);
        }
    }
    let name = section.parse("name");
    let weight = if smoke {
        section.forbid(&["weight"], "a smoke check is always required");
        Some(Weight::Required)
    } else {
        weight(section)
    };
    let timeout_ms = section.millis("timeout", TIMEOUT_MILLIS).unwrap_or(TIMEOUT_DEFAULT_MS);
    let interval = section.millis("interval", INTERVAL_MILLIS);
    let failures = section.integer("failures", FAILURES);
    let for_ms = section.millis("for", FOR_MILLIS);
    let severity = severity(section);
    let kind = kind(section)?;
    let severity = severity.unwrap_or_else(|| trigger::severity(failure(&kind, smoke)));
    let default = defaults(&kind, smoke);
    let interval_ms = interval.unwrap_or(default.interval_ms);
    rules::fits(section, &kind, interval_ms);
    let failures = failures.unwrap_or(default.failures);
    let for_ms = for_ms.unwrap_or(default.for_ms);
    Some(Probe { name: name?, weight: weight?, kind, timeout_ms, interval_ms, failures, for_ms, severity })
}

/// Names a probe's failure as the engine's table does.
fn failure(kind: &ProbeKind, smoke: bool) -> &'static str {
    match kind {
        _ if smoke => "smoke",
        ProbeKind::Unit => "unit",
        ProbeKind::Http(_) => "http",
        ProbeKind::Tcp(_) => "tcp",
        ProbeKind::Exec(_) => "exec",
        ProbeKind::Log(_) => "log",
        ProbeKind::Metric(metric) => rules::metric_failure(metric),
        ProbeKind::Resource(_) => "resource",
    }
}

/// Reads a severity by its word.
pub(super) fn severity(section: &mut Section<'_>) -> Option<Severity> {
    let word = section.text("severity")?;
    let found = Severity::ALL.into_iter().find(|severity| severity.as_str() == word);
    if found.is_none() {
        let hint = "\"low\", \"medium\", \"high\" or \"critical\"";
        section.problem_hint("severity", format_args!("{word:?} is not a severity"), hint);
    }
    found
}

fn defaults(kind: &ProbeKind, smoke: bool) -> Defaults {
    match kind {
        ProbeKind::Unit | ProbeKind::Http(_) | ProbeKind::Tcp(_) | ProbeKind::Exec(_) => Defaults {
            interval_ms: INTERVAL_DEFAULT_MS,
            failures: if smoke { SMOKE_FAILURES_DEFAULT } else { FAILURES_DEFAULT },
            for_ms: 0,
        },
        ProbeKind::Log(_) => rules::LOG,
        ProbeKind::Metric(metric) => rules::metric_defaults(metric),
        ProbeKind::Resource(_) => rules::RESOURCE,
    }
}

fn weight(section: &mut Section<'_>) -> Option<Weight> {
    match section.text("weight") {
        Some("required") => Some(Weight::Required),
        Some("advisory") => Some(Weight::Advisory),
        Some(other) => {
            let hint = "\"required\" or \"advisory\"";
            section.problem_hint("weight", format_args!("{other:?} is not a weight"), hint);
            None
        }
        None => Some(Weight::Required),
    }
}

const KINDS: &str = "\"unit\", \"http\", \"tcp\", \"exec\", \"log\", \"metric\" or \"resource\"";

/// The keys that not every kind has, with the kinds that have them.
const KEYS: [(&str, &[&str]); 26] = [
    ("url", &["http", "metric"]),
    ("statuses", &["http"]),
    ("body", &["http"]),
    ("json_pointer", &["http"]),
    ("json_equals", &["http"]),
    ("max_latency", &["http", "metric"]),
    ("address", &["tcp"]),
    ("command", &["exec"]),
    ("patterns", &["log"]),
    ("max_lines", &["log"]),
    ("within", &["log"]),
    ("errors", &["metric"]),
    ("total", &["metric"]),
    ("max_ratio", &["metric"]),
    ("histogram", &["metric"]),
    ("quantile", &["metric"]),
    ("min_requests", &["metric"]),
    ("server", &["metric"]),
    ("promql", &["metric"]),
    ("max", &["metric"]),
    ("window", &["metric", "resource"]),
    ("max_memory", &["resource"]),
    ("max_memory_growth", &["resource"]),
    ("max_cpu", &["resource"]),
    ("max_cpu_growth", &["resource"]),
    // Of lines those count that were written within a time; that time is theirs.
    ("for", &["unit", "http", "tcp", "exec", "metric", "resource"]),
];

fn kind(section: &mut Section<'_>) -> Option<ProbeKind> {
    let kind = section.text("kind")?;
    if !["unit", "http", "tcp", "exec", "log", "metric", "resource"].contains(&kind) {
        section.problem_hint("kind", format_args!("{kind:?} is not a kind of probe"), KINDS);
        // What else it says cannot be judged without the kind.
        for (key, _) in KEYS {
            section.node(key);
        }
        return None;
    }
    for (key, kinds) in KEYS.into_iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
        let of: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
        section.forbid(&[key], &format!("only a probe of the kind {} has it", of.join(" or ")));
    }
    match kind {
        "http" => http(section).map(ProbeKind::Http),
        "tcp" => tcp(section).map(ProbeKind::Tcp),
        "exec" => exec(section).map(ProbeKind::Exec),
        "log" => rules::log(section).map(ProbeKind::Log),
        "metric" => rules::metric(section).map(ProbeKind::Metric),
        "resource" => rules::resource(section).map(ProbeKind::Resource),
        _ => Some(ProbeKind::Unit),
    }
}

fn http(section: &mut Section<'_>) -> Option<HttpProbe> {
    let url = url(section, "url", "what is asked: `url = \"http://127.0.0.1:8080/health\"`");
    let mut statuses = Vec::new();
    for item in section.list("statuses") {
        let status = match item.value {
            Value::Integer(status) if STATUSES.contains(&status) => u16::try_from(status).ok(),
            _ => None,
        };
        match status {
            Some(status) => statuses.push(status),
            None => section.problems.add(&item.place, "`statuses`: an integer between 100 and 599 is expected"),
        }
    }
    let body = section.node("body").and_then(|node| section.any("body", node)).map(str::to_owned);
    if body.as_ref().is_some_and(String::is_empty) {
        section.problem("body", "every body contains the empty text");
    }
    let json = json(section);
    let latency_max_ms = section.millis("max_latency", LATENCY_MILLIS);
    Some(HttpProbe { url: url?, statuses, body, json, latency_max_ms })
}

fn json(section: &mut Section<'_>) -> Option<JsonValue> {
    let pointer = section.text("json_pointer");
    let equals = section.node("json_equals").and_then(|node| match &node.value {
        Value::Text(text) => Some(text.as_str().into()),
        Value::Integer(number) => Some((*number).into()),
        Value::Flag(flag) => Some((*flag).into()),
        Value::Float(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
            section.problem("json_equals", "a string, an integer or a boolean is expected");
            None
        }
    });
    if section.has("json_equals") && pointer.is_none() {
        section.problem_hint("json_equals", "`json_pointer` must say what is compared", "`json_pointer = \"/status\"`");
    }
    let pointer = pointer?;
    if !pointer.is_empty() && !pointer.starts_with('/') {
        section.problem_hint(
            "json_pointer",
            format_args!("{pointer:?} is not a pointer"),
            "it begins with `/`: `/status`",
        );
    }
    Some(JsonValue { pointer: pointer.to_owned(), equals })
}

/// Reads a URL that must be there.
pub(super) fn url(section: &mut Section<'_>, key: &'static str, hint: &str) -> Option<String> {
    if !section.has(key) {
        section.missing(key, hint);
    }
    let url = section.text(key)?;
    if let Some(why) = wrong_url(url) {
        section.problem(key, why);
    }
    Some(url.to_owned())
}

fn wrong_url(text: &str) -> Option<String> {
    match reqwest::Url::parse(text) {
        Err(error) => Some(format!("{text:?} is not a URL: {error}")),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Some(format!("the scheme {:?} is neither http nor https", url.scheme()))
        }
        // The text itself is not repeated: it has a password in it.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Some("a user or a password would appear in logs and in the history".to_owned())
        }
        Ok(_) => None,
    }
}

fn tcp(section: &mut Section<'_>) -> Option<TcpProbe> {
    if !section.has("address") {
        section.missing("address", "where to connect: `address = \"127.0.0.1:5432\"`");
    }
    let address = section.text("address")?;
    let host_and_port = address.rsplit_once(':').filter(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fits = bare.map_or(!host.contains([':', '[', ']', '/', ' ']), |host| host.contains(':'));
        !host.is_empty() && host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if host_and_port.is_none() {
        section.problem_hint(
            "address",
            format_args!("{address:?} is not HOST:PORT"),
            "IPv6 stands in brackets: `[::1]:5432`",
        );
        return None;
    }
    Some(TcpProbe { address: address.to_owned() })
}

fn exec(section: &mut Section<'_>) -> Option<ExecProbe> {
    if !section.has("command") {
        section.missing("command", "the program and its arguments: `command = [\"/usr/local/bin/check\", \"--fast\"]`");
    }
    let command = section.command("command")?;
    if !Path::new(&command[0]).is_absolute() {
        let hint = "there is no shell and no search path: write `/usr/bin/...`";
        section.problem_hint("command", format_args!("the program {:?} is not an absolute path", command[0]), hint);
        return None;
    }
    Some(ExecProbe { command })
}
