//! Prints settings as the files would say them, with the file and line that each value comes from.

use std::fmt::Write as _;

use rollback::model::decision::Undecided;
use rollback::model::health::Weight;
use rollback::model::policy::{DeadManSwitch, ExternalDeploys, Policy};
use rollback::rules::metric::Measure;
use toml::Value;

use super::Origins;
use super::host::probe_key;
use super::merge::KeyPlaces;
use super::section::{bytes_text, duration_text};
use super::settings::{Backend, Component, HttpProbe, MetricProbe, Probe, ProbeKind, ScrapeProbe, Settings};

/// Prints the merged configuration: every key with its value and, as a comment, where it was said last or that it is
/// the default. Components follow the agent, each as its own file would be.
#[must_use]
pub fn print_merged(settings: &Settings, origins: &Origins) -> String {
    let mut page = Page { text: String::new(), places: &origins.agent };
    page.line("host", "host", settings.host.as_str());
    if let Some(listen) = settings.listen {
        page.line("listen", "listen", listen.to_string());
    }
    if let Some(tls) = &settings.tls {
        page.header("\n[tls]");
        page.line("domain", "tls.domain", tls.domain.as_str());
        let files =
            [("authority", Some(&tls.authority)), ("certificate", Some(&tls.certificate)), ("key", Some(&tls.key))];
        for (key, path) in files.into_iter().chain([("revocations", tls.revocations.as_ref())]) {
            if let Some(path) = path {
                page.line(key, &format!("tls.{key}"), path.display().to_string());
            }
        }
    }
    let mut text = page.text;
    for (key, component) in &settings.components {
        let none = KeyPlaces::new();
        let places = origins.components.get(key).unwrap_or(&none);
        let file = places.get("name").map_or_else(String::new, |place| place.file.display().to_string());
        // Writing to a string cannot fail.
        let _ = write!(text, "\n# {file}\n");
        text.push_str(&self::component(component, places, &origins.agent));
    }
    text
}

/// One file that is being printed.
struct Page<'a> {
    text: String,
    places: &'a KeyPlaces,
}

impl Page<'_> {
    fn header(&mut self, header: &str) {
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn line(&mut self, key: &str, origin: &str, value: impl Into<Value>) {
        let origin = self.places.get(origin).map_or_else(|| "default".to_owned(), ToString::to_string);
        let value = value.into();
        let _ = writeln!(self.text, "{key} = {value}  # {origin}");
    }
}

/// Prints one component as its file.
pub(super) fn component<'a>(component: &Component, places: &'a KeyPlaces, agent: &'a KeyPlaces) -> String {
    let mut page = Page { text: String::new(), places };
    page.line("name", "name", component.name.as_str());
    page.line("environment", "environment", component.environment.as_str());
    page.line("root", "root", component.root.display().to_string());
    page.line("current", "current", component.current.as_str());
    let units: Vec<Value> = component.units.iter().map(|unit| unit.as_str().into()).collect();
    page.line("units", "units", units);
    let kind = match component.backend {
        Backend::Systemd => "systemd",
        Backend::Process { .. } => "process",
    };
    page.line("backend", "backend", kind);
    page.line("retain", "retain", i64::from(component.policy.retention.good_max));
    page.header("\n[releases]");
    let directory = if places.contains_key("releases.directory") { "releases.directory" } else { "releases" };
    page.line("directory", directory, component.releases.directory.display().to_string());
    page.line("pattern", "releases.pattern", component.releases.pattern.as_str());
    page.line("hardlinks", "releases.hardlinks", component.releases.hardlinks);
    if let Backend::Process { commands } = &component.backend {
        page.header("\n[commands]");
        for (unit, command) in commands {
            page.line(&quoted(unit.as_str()), &format!("commands.{unit}"), command.clone());
        }
    }
    kept(&mut page, component);
    page.header("\n[timeouts]");
    let timeouts = &component.timeouts;
    for (key, millis) in [
        ("stop", timeouts.stop_ms),
        ("start", timeouts.start_ms),
        ("stability", timeouts.stability_ms),
        ("verify", timeouts.verify_ms),
    ] {
        page.line(key, &format!("timeouts.{key}"), duration_text(millis));
    }
    policy(&mut page, &component.policy, agent);
    let declared = places.keys().filter(|key| key.starts_with("probes[") && key.ends_with(']')).count();
    for (at, probe) in component.probes.iter().enumerate() {
        self::probe(&mut page, probe, &probe_key(at, declared));
    }
    page.text
}

fn kept(page: &mut Page<'_>, component: &Component) {
    let Some(kept) = &component.configuration else { return };
    page.header("\n[configuration]");
    page.line("link", "configuration.link", kept.link.as_str());
    for (at, file) in kept.files.iter().enumerate() {
        page.header("\n[[configuration.files]]");
        page.line("name", &format!("configuration.files[{at}].name"), file.name.as_str());
        page.line("from", &format!("configuration.files[{at}].from"), file.from.display().to_string());
    }
}

/// The rules of a component come from its own file, else from the agent's.
fn policy<'a>(page: &mut Page<'a>, policy: &Policy, agent: &'a KeyPlaces) {
    page.header("\n[policy]");
    let external = match policy.external {
        ExternalDeploys::Watch => "watch",
        ExternalDeploys::Note => "note",
    };
    let mut values: Vec<(&str, Value)> = vec![
        ("fallbacks", i64::from(policy.fallbacks_max).into()),
        ("healthy_needs_force", policy.healthy_needs_force.into()),
        ("full_read", policy.full_read.into()),
        ("lease", duration_text(policy.lease_secs.saturating_mul(1_000)).into()),
        ("watch", duration_text(policy.watch_ms).into()),
        ("automatic_rollback", policy.auto.into()),
        ("external_deploys", external.into()),
        ("dead_man", (policy.dead_man == DeadManSwitch::Armed).into()),
        ("automatic_from", policy.automatic_from.as_str().into()),
        ("ask", duration_text(policy.ask_ms).into()),
        (
            "undecided",
            match policy.undecided {
                Undecided::RollBack => "rollback",
                Undecided::Stay => "stay",
            }
            .into(),
        ),
        ("automatic_rollbacks", i64::from(policy.limit.count_max).into()),
        ("automatic_window", duration_text(policy.limit.window_secs.saturating_mul(1_000)).into()),
        ("retain_unverified", duration_text(policy.retention.unverified_secs.saturating_mul(1_000)).into()),
        ("remove_adopted", policy.retention.adopted.into()),
    ];
    values.extend(policy.floor.as_ref().map(|floor| ("floor", floor.as_str().into())));
    for (key, value) in values {
        let origin = format!("policy.{key}");
        let own = page.places;
        if !own.contains_key(&origin) {
            page.places = agent;
        }
        page.line(key, &origin, value);
        page.places = own;
    }
}

fn probe(page: &mut Page<'_>, probe: &Probe, table: &str) {
    page.header(if table.starts_with("smoke") { "\n[[smoke]]" } else { "\n[[probes]]" });
    let mut line = |key: &str, value: Value| page.line(key, &format!("{table}.{key}"), value);
    line("name", probe.name.as_str().into());
    if !table.starts_with("smoke") {
        let weight = match probe.weight {
            Weight::Required => "required",
            Weight::Advisory => "advisory",
        };
        line("weight", weight.into());
    }
    for (key, value) in kind(&probe.kind) {
        line(key, value);
    }
    line("timeout", duration_text(probe.timeout_ms).into());
    line("interval", duration_text(probe.interval_ms).into());
    line("failures", i64::from(probe.failures).into());
    if !matches!(probe.kind, ProbeKind::Log(_)) {
        line("for", duration_text(probe.for_ms).into());
    }
}

type Keys = Vec<(&'static str, Value)>;

/// Gives the keys that not every kind of probe has.
fn kind(kind: &ProbeKind) -> Keys {
    match kind {
        ProbeKind::Unit => vec![("kind", "unit".into())],
        ProbeKind::Http(http) => self::http(http),
        ProbeKind::Tcp(tcp) => vec![("kind", "tcp".into()), ("address", tcp.address.as_str().into())],
        ProbeKind::Exec(exec) => vec![("kind", "exec".into()), ("command", exec.command.clone().into())],
        ProbeKind::Log(log) => vec![
            ("kind", "log".into()),
            ("patterns", log.patterns.texts().to_vec().into()),
            ("max_lines", i64::from(log.lines_max).into()),
            ("within", duration_text(log.within_ms).into()),
        ],
        ProbeKind::Metric(MetricProbe::Scrape(scrape)) => self::scrape(scrape),
        ProbeKind::Metric(MetricProbe::Query(query)) => vec![
            ("kind", "metric".into()),
            ("server", query.server.as_str().into()),
            ("promql", query.promql.as_str().into()),
            ("max", query.max.into()),
        ],
        ProbeKind::Resource(resource) => {
            let limits = &resource.limits;
            let sizes = [("max_memory", limits.memory_max), ("max_memory_growth", limits.memory_growth_per_min)];
            let mut keys: Keys = vec![("kind", "resource".into())];
            keys.extend(sizes.into_iter().filter_map(|(key, bytes)| Some((key, bytes_text(bytes?).into()))));
            let percents = [("max_cpu", limits.cpu_max), ("max_cpu_growth", limits.cpu_growth_per_min)];
            keys.extend(percents.into_iter().filter_map(|(key, percent)| Some((key, i64::from(percent?).into()))));
            keys.push(("window", duration_text(resource.window_ms).into()));
            keys
        }
    }
}

fn http(http: &HttpProbe) -> Keys {
    let statuses: Vec<Value> = http.statuses.iter().map(|status| i64::from(*status).into()).collect();
    let mut keys: Keys =
        vec![("kind", "http".into()), ("url", http.url.as_str().into()), ("statuses", statuses.into())];
    keys.extend(http.body.as_ref().map(|body| ("body", body.as_str().into())));
    if let Some(json) = &http.json {
        keys.push(("json_pointer", json.pointer.as_str().into()));
        keys.extend(json.equals.as_ref().and_then(|value| Some(("json_equals", Value::try_from(value).ok()?))));
    }
    keys.extend(http.latency_max_ms.map(|millis| ("max_latency", duration_text(millis).into())));
    keys
}

fn scrape(scrape: &ScrapeProbe) -> Keys {
    let mut keys: Keys = vec![("kind", "metric".into()), ("url", scrape.url.as_str().into())];
    match &scrape.measure {
        Measure::Ratio { errors, total, max } => keys.extend([
            ("errors", Value::from(errors.to_string())),
            ("total", total.to_string().into()),
            ("max_ratio", (*max).into()),
        ]),
        Measure::Quantile { histogram, quantile, max_ms } => keys.extend([
            ("histogram", Value::from(histogram.to_string())),
            ("quantile", (*quantile).into()),
            ("max_latency", duration_text(*max_ms).into()),
        ]),
    }
    keys.push(("window", duration_text(scrape.window_ms).into()));
    keys.push(("min_requests", i64::from(scrape.requests_min).into()));
    keys
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
