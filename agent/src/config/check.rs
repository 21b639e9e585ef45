//! Makes settings of what the files say together: types, bounds and contradictions, without looking at the host.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component as Part, Path, PathBuf};

use rollback::engine::floor::is_floor;
use rollback::model::decision::{Severity, Undecided};
use rollback::model::ids::{HostName, ReleaseId, UnitName, Version};
use rollback::model::policy::{AutomaticLimit, DeadManSwitch, ExternalDeploys, Policy, Retention, Timeouts};
use rollback::model::watch::{WATCH_MS_MAX, WATCH_MS_MIN};

use super::file::{Table, Value};
use super::probes::{self, Around};
use super::problem::Problems;
use super::section::Section;
use super::settings::{Backend, Component, ConfigurationFile, KeptConfiguration, Paths, ReleasesLayout, Tls};

/// Most units of a component: more stand and fall together nowhere, and each is asked for its state.
const UNITS_MAX: usize = 64;
/// Most files of a kept configuration; each is copied and read at every activation.
const CONFIGURATION_FILES_MAX: usize = 256;
/// Time limits of a unit: below a tenth of a second no unit stops, and an hour is no rollback any more.
const JOB_MILLIS: RangeInclusive<u64> = 100..=3_600_000;
/// The stability window: none for what ends at once, ten minutes for what leaks.
const STABILITY_MILLIS: RangeInclusive<u64> = 0..=600_000;
/// The lease: a shorter one ends under a running operation, a longer one locks people out for a day.
const LEASE_MILLIS: RangeInclusive<u64> = 60_000..=86_400_000;
/// Further releases that are tried: ten failures in a row are not the releases' fault.
const FALLBACKS: RangeInclusive<u32> = 0..=10;
/// Good releases that are kept: one at least, to go back to.
const RETAIN: RangeInclusive<u32> = 1..=1_000;
/// How long a release that was never verified stays: an hour at least, to be deployed; ten years are for ever.
const UNVERIFIED_MILLIS: RangeInclusive<u64> = 3_600_000..=315_360_000_000;
/// Automatic rollbacks within the window; 0 would be `automatic_rollback = false` by another name.
const AUTOMATIC: RangeInclusive<u32> = 1..=100;
/// The time to decide: none when nobody is to be asked; after a day nobody does.
const ASK_MILLIS: RangeInclusive<u64> = 0..=86_400_000;
/// The window of automatic rollbacks.
const WINDOW_MILLIS: RangeInclusive<u64> = 60_000..=86_400_000;

/// What `agent.toml` says, valid in itself; the host has not been looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentFile {
    /// The host's name; none for the name that the system has.
    pub host: Option<HostName>,
    /// Where to listen for operators.
    pub listen: Option<SocketAddr>,
    /// Keys and certificates; present exactly when `listen` is.
    pub tls: Option<Tls>,
    /// The rules that components start from.
    pub policy: Policy,
}

/// Reads the merged table of `agent.toml`.
pub(super) fn agent(table: &Table, configuration: &Path, problems: &Problems) -> AgentFile {
    let mut section = Section::new(table, problems);
    let host = section.parse("host");
    let listen = section.parse("listen");
    let mut tls = None;
    if let Some(keys) = section.table("tls") {
        if !section.has("listen") {
            let hint = "add `listen = \"0.0.0.0:7443\"`, or remove `[tls]`";
            section.problem_hint("tls", "keys have no use without `listen`", hint);
        }
        tls = self::tls(keys, configuration);
    } else if section.has("listen") && !section.has("tls") {
        section.problem_hint("listen", "operators are served over TLS alone, and `[tls]` is missing", TLS_HINT);
    }
    let policy = policy(&mut section, &Policy::default());
    section.finish();
    AgentFile { host, listen, tls, policy }
}

const TLS_HINT: &str = "add `[tls]` with `domain = \"example.org\"`, the trust domain of your certificates";

fn tls(mut section: Section<'_>, configuration: &Path) -> Option<Tls> {
    let pki = configuration.join("pki");
    let domain = section.parse("domain");
    if !section.has("domain") {
        section.missing("domain", "the trust domain of your certificates: `domain = \"example.org\"`");
    }
    let mut path = |key, default: &str| match section.has(key) {
        true => section.absolute(key),
        false => Some(pki.join(default)),
    };
    let (authority, certificate, key) =
        (path("authority", "ca.crt"), path("certificate", "agent.crt"), path("key", "agent.key"));
    let revocations = section.absolute("revocations");
    section.finish();
    Some(Tls { domain: domain?, authority: authority?, certificate: certificate?, key: key?, revocations })
}

/// Reads the policy of a component. The dead-man's switch is a timer of systemd, which takes back units of systemd.
fn policy_of(section: &mut Section<'_>, base: &Policy, backend: Option<&Backend>) -> Policy {
    let can = !matches!(backend, Some(Backend::Process { .. }));
    let dead_man = if can { base.dead_man } else { DeadManSwitch::Off };
    let policy = policy(section, &Policy { dead_man, ..base.clone() });
    if policy.dead_man == DeadManSwitch::Armed && !can {
        section.problem_hint("policy.dead_man", "systemd alone can keep it, and runs no process", "remove it");
    }
    policy
}

fn policy(parent: &mut Section<'_>, base: &Policy) -> Policy {
    let Some(mut section) = parent.table("policy") else { return base.clone() };
    let policy = Policy {
        fallbacks_max: section.integer("fallbacks", FALLBACKS).unwrap_or(base.fallbacks_max),
        healthy_needs_force: section.flag("healthy_needs_force").unwrap_or(base.healthy_needs_force),
        full_read: section.flag("full_read").unwrap_or(base.full_read),
        lease_secs: section.millis("lease", LEASE_MILLIS).map_or(base.lease_secs, |millis| millis.div_ceil(1_000)),
        watch_ms: section.millis("watch", WATCH_MS_MIN..=WATCH_MS_MAX).unwrap_or(base.watch_ms),
        auto: section.flag("automatic_rollback").unwrap_or(base.auto),
        external: external(&mut section).unwrap_or(base.external),
        dead_man: match section.flag("dead_man") {
            Some(true) => DeadManSwitch::Armed,
            Some(false) => DeadManSwitch::Off,
            None => base.dead_man,
        },
        automatic_from: automatic_from(&mut section).unwrap_or(base.automatic_from),
        ask_ms: section.millis("ask", ASK_MILLIS).unwrap_or(base.ask_ms),
        undecided: undecided(&mut section).unwrap_or(base.undecided),
        floor: floor(&mut section).or_else(|| base.floor.clone()),
        retention: Retention {
            good_max: base.retention.good_max,
            unverified_secs: section
                .millis("retain_unverified", UNVERIFIED_MILLIS)
                .map_or(base.retention.unverified_secs, |millis| millis / 1_000),
            adopted: section.flag("remove_adopted").unwrap_or(base.retention.adopted),
        },
        limit: AutomaticLimit {
            count_max: section.integer("automatic_rollbacks", AUTOMATIC).unwrap_or(base.limit.count_max),
            window_secs: section
                .millis("automatic_window", WINDOW_MILLIS)
                .map_or(base.limit.window_secs, |millis| millis / 1_000),
        },
    };
    section.finish();
    policy
}

fn automatic_from(section: &mut Section<'_>) -> Option<Severity> {
    match section.text("automatic_from")? {
        "critical" => Some(Severity::Critical),
        "high" => Some(Severity::High),
        other => {
            let what = format_args!("{other:?} is no severity that can be left by itself");
            section.problem_hint("automatic_from", what, "\"critical\" or \"high\"");
            None
        }
    }
}

fn undecided(section: &mut Section<'_>) -> Option<Undecided> {
    match section.text("undecided")? {
        "rollback" => Some(Undecided::RollBack),
        "stay" => Some(Undecided::Stay),
        other => {
            let what = format_args!("{other:?} is nothing to do when nobody decides");
            section.problem_hint("undecided", what, "\"rollback\" or \"stay\"");
            None
        }
    }
}

fn floor(section: &mut Section<'_>) -> Option<Version> {
    let floor: Version = section.parse("floor")?;
    if !is_floor(&floor) {
        let what = format_args!("{:?} has no order among versions", floor.as_str());
        section.problem_hint("floor", what, "numbers with dots: `floor = \"2.4.0\"`");
        return None;
    }
    Some(floor)
}

fn external(section: &mut Section<'_>) -> Option<ExternalDeploys> {
    match section.text("external_deploys")? {
        "watch" => Some(ExternalDeploys::Watch),
        "note" => Some(ExternalDeploys::Note),
        other => {
            let what = format_args!("{other:?} is nothing to do with a `current` that another hand has switched");
            section.problem_hint("external_deploys", what, "\"watch\" or \"note\"");
            None
        }
    }
}

/// Reads the merged table of one component; none when something that must be there is not, or is wrong.
pub(super) fn component(table: &Table, base: &Policy, paths: &Paths, problems: &Problems) -> Option<Component> {
    let mut section = Section::new(table, problems);
    for (key, hint) in REQUIRED {
        if !section.has(key) {
            section.missing(key, hint);
        }
    }
    let (name, environment) = (section.parse("name"), section.parse("environment"));
    let root = root(&mut section);
    let releases = releases(&mut section);
    let current = entry(&mut section, "current").unwrap_or_else(|| "current".to_owned());
    let units = units(&mut section);
    let backend = backend(&mut section, &units);
    let configuration = section.table("configuration").and_then(kept);
    let timeouts = timeouts(&mut section);
    let mut policy = policy_of(&mut section, base, backend.as_ref());
    policy.retention.good_max = section.integer("retain", RETAIN).unwrap_or(policy.retention.good_max);
    let around = Around { timeouts: &timeouts, policy: &policy, has_journal: has_journal(backend.as_ref()) };
    let probes = probes::read(&mut section, &around);
    entries_differ(&section, &releases, &current, configuration.as_ref());
    section.finish();
    let (name, environment) = (name?, environment?);
    let state = paths.component(&environment, &name);
    let (root, backend) = (root?, backend?);
    Some(Component {
        name,
        environment,
        root,
        releases,
        current,
        backend,
        units,
        configuration,
        probes,
        timeouts,
        policy,
        state,
    })
}

const REQUIRED: [(&str, &str); 4] = [
    ("name", "what people call it: `name = \"web\"`"),
    ("environment", "its label: `environment = \"prod\"`"),
    ("root", "the directory that has `current` and the releases: `root = \"/srv/web\"`"),
    ("units", "what is stopped and started, in start order: `units = [\"web.service\"]`"),
];

fn root(section: &mut Section<'_>) -> Option<PathBuf> {
    let root = section.absolute("root")?;
    if root.components().any(|part| part == Part::ParentDir) || root.parent().is_none() {
        section.problem("root", format_args!("{root:?} must be a directory below `/`, written without `..`"));
        return None;
    }
    Some(root.components().collect())
}

fn releases(section: &mut Section<'_>) -> ReleasesLayout {
    let default = ReleasesLayout { directory: PathBuf::from("releases"), pattern: "*".to_owned(), hardlinks: false };
    if !section.has("releases") {
        return default;
    }
    if let Some(Value::Text(_)) = section.node("releases").map(|node| &node.value) {
        return ReleasesLayout { directory: below(section, "releases").unwrap_or(default.directory), ..default };
    }
    let Some(mut table) = section.table("releases") else { return default };
    let directory = below(&mut table, "directory").unwrap_or(default.directory);
    let pattern = table.text("pattern").unwrap_or("*").to_owned();
    if pattern != "*" {
        // What the pattern takes must be able to be a release's name; `*` stands for any part of one.
        let probe = format!("{}{}", if pattern.starts_with('*') { "a" } else { "" }, pattern.trim_start_matches('*'));
        if pattern.is_empty() || probe.replace('*', "a").parse::<ReleaseId>().is_err() {
            table.problem("pattern", format_args!("{pattern:?} is not a release's name with `*` for any text"));
        }
    }
    let hardlinks = table.flag("hardlinks").unwrap_or(default.hardlinks);
    table.finish();
    ReleasesLayout { directory, pattern, hardlinks }
}

/// Reads a relative path without `..`.
fn below(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let text = section.text(key)?;
    if !is_below(Path::new(text)) {
        section.problem(key, format_args!("{text:?} must be a path below the root, without `..`"));
        return None;
    }
    Some(Path::new(text).components().collect())
}

fn is_below(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Part::Normal(_)))
}

/// Reads the name of one entry of a directory.
fn entry(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text = section.text(key)?;
    if text.contains('/') || !is_below(Path::new(text)) {
        section.problem(key, format_args!("{text:?} is not the name of one directory entry"));
        return None;
    }
    Some(text.to_owned())
}

fn units(section: &mut Section<'_>) -> Vec<UnitName> {
    let mut units = Vec::new();
    let named = section.texts("units");
    if section.has("units") && section.list("units").is_empty() {
        section.problem("units", "there is no unit");
    }
    if named.len() > UNITS_MAX {
        section.problem("units", format_args!("there are {} units, at most {UNITS_MAX} are allowed", named.len()));
    }
    for (text, place) in named.into_iter().take(UNITS_MAX) {
        match text.parse::<UnitName>() {
            Ok(unit) if units.contains(&unit) => section.problems.add(place, format!("`units`: {unit} stands twice")),
            Ok(unit) => units.push(unit),
            Err(error) => section.problems.add(place, format!("`units`: {error}")),
        }
    }
    units
}

fn backend(section: &mut Section<'_>, units: &[UnitName]) -> Option<Backend> {
    let kind = section.text("backend").unwrap_or("systemd");
    let commands = section.table("commands");
    match kind {
        "systemd" => {
            if commands.is_some() {
                let hint = "remove `[commands]`, or say `backend = \"process\"`";
                section.problem_hint("commands", "systemd takes the command from the unit's own file", hint);
            }
            Some(Backend::Systemd)
        }
        "process" => Some(Backend::Process { commands: self::commands(section, commands, units) }),
        other => {
            section.problem_hint("backend", format_args!("{other:?} is not a backend"), "\"systemd\" or \"process\"");
            None
        }
    }
}

/// Tells whether lines of the units can be read with their time and their start.
fn has_journal(backend: Option<&Backend>) -> bool {
    !matches!(backend, Some(Backend::Process { .. }))
}

fn commands(section: &Section<'_>, table: Option<Section<'_>>, units: &[UnitName]) -> BTreeMap<UnitName, Vec<String>> {
    let mut commands = BTreeMap::new();
    for (name, node) in table.iter().flat_map(Section::named) {
        match units.iter().find(|unit| unit.as_str() == name) {
            Some(unit) => {
                commands.insert(unit.clone(), section.argv(&format!("commands.{name}"), node).unwrap_or_default());
            }
            None => section.problems.hint(
                &node.place,
                format!("`commands.{name}`: it is none of the units"),
                "add it to `units`, or remove the command",
            ),
        }
    }
    for unit in units.iter().filter(|unit| !commands.contains_key(unit)) {
        let key = if section.has("commands") { "commands" } else { "backend" };
        let hint = format!("`[commands]` with `\"{unit}\" = [\"bin/program\", \"--flag\"]`");
        section.problem_hint(key, format_args!("the process backend has no command for {unit}"), hint);
    }
    commands
}

fn kept(mut section: Section<'_>) -> Option<KeptConfiguration> {
    let link = entry(&mut section, "link");
    if !section.has("link") {
        section.missing("link", "the link's name below the root: `link = \"config\"`");
    }
    let mut files: Vec<ConfigurationFile> = Vec::new();
    for mut table in section.tables("files", CONFIGURATION_FILES_MAX) {
        let name = entry(&mut table, "name");
        let from = table.text("from").map(PathBuf::from);
        if let Some(from) = from.as_ref().filter(|from| !from.is_absolute() && !is_below(from)) {
            table.problem("from", format_args!("{from:?} must be absolute, or below the release and without `..`"));
        }
        for key in ["name", "from"] {
            if !table.has(key) {
                table.missing(key, "a file needs `name` and `from`");
            }
        }
        if let Some(name) = name.as_ref().filter(|name| files.iter().any(|file| file.name == **name)) {
            table.problem("name", format_args!("{name:?} stands twice"));
        }
        table.finish();
        if let (Some(name), Some(from)) = (name, from) {
            files.push(ConfigurationFile { name, from });
        }
    }
    if section.list("files").is_empty() {
        section.missing("files", "at least one `[[configuration.files]]` with `name` and `from`");
    }
    section.finish();
    Some(KeptConfiguration { link: link?, files })
}

fn timeouts(parent: &mut Section<'_>) -> Timeouts {
    let base = Timeouts::default();
    let Some(mut section) = parent.table("timeouts") else { return base };
    let timeouts = Timeouts {
        stop_ms: section.millis("stop", JOB_MILLIS).unwrap_or(base.stop_ms),
        start_ms: section.millis("start", JOB_MILLIS).unwrap_or(base.start_ms),
        stability_ms: section.millis("stability", STABILITY_MILLIS).unwrap_or(base.stability_ms),
        verify_ms: section.millis("verify", JOB_MILLIS).unwrap_or(base.verify_ms),
    };
    section.finish();
    timeouts
}

/// The two links and the releases directory are three different entries of the root.
fn entries_differ(
    section: &Section<'_>,
    releases: &ReleasesLayout,
    current: &str,
    configuration: Option<&KeptConfiguration>,
) {
    if releases.directory.starts_with(current) {
        section.problem("releases", format_args!("the releases cannot be behind the link {current:?}"));
    }
    let Some(kept) = configuration else { return };
    if kept.link == current {
        section.problem("configuration", format_args!("the link {current:?} is `current` already"));
    }
    if releases.directory.starts_with(&kept.link) {
        section.problem("configuration", format_args!("the link {:?} hides the releases", kept.link));
    }
}
