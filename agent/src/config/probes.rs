//! Makes probes of what `[[probes]]` and `[[smoke]]` say.

use std::ops::RangeInclusive;
use std::path::Path;

use rollback::model::health::Weight;
use rollback::model::policy::Timeouts;

use super::section::{Section, duration_text};
use super::settings::{ExecProbe, HttpProbe, Probe, ProbeKind, TcpProbe};

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

/// Two seconds for one try: the slowest answer that people still call an answer.
const TIMEOUT_DEFAULT_MS: u64 = 2_000;
/// Half a second between tries: three failures are found within two seconds.
const INTERVAL_DEFAULT_MS: u64 = 500;
/// Three failures in a row: one lost packet is not a bad release.
const FAILURES_DEFAULT: u32 = 3;
/// A smoke check is tried once unless it says otherwise: it runs when the probes have passed.
const SMOKE_FAILURES_DEFAULT: u32 = 1;

/// Reads the probes and then the smoke checks, which are required probes that are tried once.
pub(super) fn read(component: &mut Section<'_>, timeouts: &Timeouts) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for key in ["probes", "smoke"] {
        for mut section in component.tables(key, PROBES_MAX) {
            let probe = probe(&mut section, key == "smoke");
            if let Some(probe) = probe {
                if probes.iter().any(|other| other.name == probe.name) {
                    section.problem("name", format_args!("{:?} stands twice", probe.name.as_str()));
                }
                if probe.timeout_ms > timeouts.verify_ms {
                    let verify = duration_text(timeouts.verify_ms);
                    let hint = "raise `verify` in `[timeouts]`";
                    section.problem_hint("timeout", format_args!("verification ends after {verify} already"), hint);
                }
                probes.push(probe);
            }
            section.finish();
        }
    }
    probes
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
    let interval_ms = section.millis("interval", INTERVAL_MILLIS).unwrap_or(INTERVAL_DEFAULT_MS);
    let default = if smoke { SMOKE_FAILURES_DEFAULT } else { FAILURES_DEFAULT };
    let failures = section.integer("failures", FAILURES).unwrap_or(default);
    let kind = kind(section);
    Some(Probe { name: name?, weight: weight?, kind: kind?, timeout_ms, interval_ms, failures })
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

const KINDS: &str = "\"unit\", \"http\", \"tcp\" or \"exec\"";

fn kind(section: &mut Section<'_>) -> Option<ProbeKind> {
    let kind = section.text("kind")?;
    let keys = [("http", "url"), ("http", "statuses"), ("http", "body"), ("tcp", "address"), ("exec", "command")];
    if !["unit", "http", "tcp", "exec"].contains(&kind) {
        section.problem_hint("kind", format_args!("{kind:?} is not a kind of probe"), KINDS);
        // What else it says cannot be judged without the kind.
        for (_, key) in keys {
            section.node(key);
        }
        return None;
    }
    for (of, key) in keys.into_iter().filter(|(of, _)| *of != kind) {
        section.forbid(&[key], &format!("only a probe of the kind \"{of}\" has it"));
    }
    match kind {
        "http" => http(section).map(ProbeKind::Http),
        "tcp" => tcp(section).map(ProbeKind::Tcp),
        "exec" => exec(section).map(ProbeKind::Exec),
        _ => Some(ProbeKind::Unit),
    }
}

fn http(section: &mut Section<'_>) -> Option<HttpProbe> {
    if !section.has("url") {
        section.missing("url", "what is asked: `url = \"http://127.0.0.1:8080/health\"`");
    }
    let url = section.text("url");
    if let Some(why) = url.and_then(wrong_url) {
        section.problem("url", why);
    }
    let mut statuses = Vec::new();
    for item in section.list("statuses") {
        let status = match item.value {
            super::file::Value::Integer(status) if STATUSES.contains(&status) => u16::try_from(status).ok(),
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
    Some(HttpProbe { url: url?.to_owned(), statuses, body })
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
