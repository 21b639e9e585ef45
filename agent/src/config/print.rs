//! Prints settings as the files would say them, with the file and line that each value comes from.

use std::fmt::Write as _;

use rollback::model::health::Weight;
use rollback::model::policy::{ExternalDeploys, Policy};
use toml::Value;

use super::Origins;
use super::host::probe_key;
use super::merge::KeyPlaces;
use super::section::duration_text;
use super::settings::{Backend, Component, Probe, ProbeKind, Settings};

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
    page.line("retain", "retain", i64::from(component.retain));
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
    let values: [(&str, Value); 7] = [
        ("fallbacks", i64::from(policy.fallbacks_max).into()),
        ("healthy_needs_force", policy.healthy_needs_force.into()),
        ("full_read", policy.full_read.into()),
        ("lease", duration_text(policy.lease_secs.saturating_mul(1_000)).into()),
        ("watch", duration_text(policy.watch_ms).into()),
        ("automatic_rollback", policy.auto.into()),
        ("external_deploys", external.into()),
    ];
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
    match &probe.kind {
        ProbeKind::Unit => line("kind", "unit".into()),
        ProbeKind::Http(http) => {
            line("kind", "http".into());
            line("url", http.url.as_str().into());
            let statuses: Vec<Value> = http.statuses.iter().map(|status| i64::from(*status).into()).collect();
            line("statuses", statuses.into());
            if let Some(body) = &http.body {
                line("body", body.as_str().into());
            }
        }
        ProbeKind::Tcp(tcp) => {
            line("kind", "tcp".into());
            line("address", tcp.address.as_str().into());
        }
        ProbeKind::Exec(exec) => {
            line("kind", "exec".into());
            line("command", exec.command.clone().into());
        }
    }
    line("timeout", duration_text(probe.timeout_ms).into());
    line("interval", duration_text(probe.interval_ms).into());
    line("failures", i64::from(probe.failures).into());
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
