//! Configuration in three stages: what the files say, what they say together, what is valid; only [`Settings`] leaves.
//!
//! `file` and `merge` read trees in which every value knows its line, `section`, `check`, `probes` and `rules` make types of
//! them without looking at the host, `host` and `trust` compare those with the host and with each other. Every stage
//! goes on after a problem, so that one run finds all of them.
#![expect(clippy::disallowed_methods, reason = "this module reads the agent's configuration from the disk")]

mod check;
mod file;
mod host;
mod merge;
mod print;
mod probes;
mod problem;
mod reload;
mod rules;
mod section;
mod settings;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::BTreeMap;
use std::path::Path;

use rollback::model::ids::{ComponentName, Environment, HostName};
use rollback::model::policy::Policy;

pub use check::AgentFile;
pub use file::FILE_BYTES_MAX;
pub use merge::FILES_MAX;
pub use print::print_merged;
pub use problem::{ConfigErrors, ConfigProblem, Place};
pub use reload::{QUIET, QUIET_WAIT_MAX, watch};
pub use settings::{
    Backend, Component, ConfigurationFile, ExecProbe, HttpProbe, JsonValue, KeptConfiguration, LogProbe, MetricProbe,
    Paths, Probe, ProbeKind, QueryProbe, ReleasesLayout, ResourceProbe, ScrapeProbe, Settings, TcpProbe, Tls,
};
pub use trust::check_private;

use host::Claims;
use merge::KeyPlaces;
use problem::Problems;

/// Where every key of the configuration was said, for [`print_merged`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    agent: KeyPlaces,
    components: BTreeMap<(Environment, ComponentName), KeyPlaces>,
}

/// Reads the whole configuration and compares it with the host. `hostname` is the name that the system has; it serves
/// when the files give none.
///
/// # Errors
/// All problems at once; nothing is changed on the host.
pub fn load(paths: &Paths, hostname: &str) -> Result<Settings, ConfigErrors> {
    load_with_origins(paths, hostname).map(|(settings, _)| settings)
}

/// Does what [`load`] does and tells where every key was said.
///
/// # Errors
/// As [`load`].
pub fn load_with_origins(paths: &Paths, hostname: &str) -> Result<(Settings, Origins), ConfigErrors> {
    let problems = Problems::default();
    if let Err(problem) = trust::directory(&paths.configuration) {
        // Nothing below it can be trusted, and without it nothing was configured.
        problems.push(problem);
        return problems.finish(None);
    }
    let mut origins = Origins::default();
    let agent = agent(paths, &mut origins, &problems);
    let policy = agent.as_ref().map_or_else(Policy::default, |agent| agent.policy.clone());
    let components = components(paths, &policy, &mut origins, &problems);
    let settings = agent.and_then(|agent| {
        let host = agent.host.or_else(|| system_host(paths, hostname, &problems))?;
        Some(Settings { host, listen: agent.listen, tls: agent.tls, paths: paths.clone(), components })
    });
    problems.finish(settings.map(|settings| (settings, origins)))
}

fn agent(paths: &Paths, origins: &mut Origins, problems: &Problems) -> Option<AgentFile> {
    let table = merge::agent(paths, problems)?;
    origins.agent = merge::places(&table);
    let mut agent = check::agent(&table, &paths.configuration, problems);
    if let Some(tls) = &mut agent.tls {
        host::tls(tls, &paths.configuration, &origins.agent, problems);
    }
    Some(agent)
}

fn components(
    paths: &Paths,
    policy: &Policy,
    origins: &mut Origins,
    problems: &Problems,
) -> BTreeMap<(Environment, ComponentName), Component> {
    let mut components = BTreeMap::new();
    let mut claims = Claims::default();
    for table in merge::components(paths, problems) {
        let Some(component) = check::component(&table, policy, paths, problems) else { continue };
        let places = merge::places(&table);
        host::component(&component, &places, problems);
        claims.claim(&component, &places, problems);
        let key = (component.environment.clone(), component.name.clone());
        if let (Some(place), Some(other)) =
            (places.get("name"), origins.components.get(&key).and_then(|o| o.get("name")))
        {
            let message = format!("`name`: {} of {} is declared twice", key.1, key.0);
            problems.hint(place, message, format!("see {other}"));
            continue;
        }
        origins.components.insert(key.clone(), places);
        components.insert(key, component);
    }
    components
}

fn system_host(paths: &Paths, hostname: &str, problems: &Problems) -> Option<HostName> {
    let invalid = |error| {
        let hint = "give the host a name: `host = \"web1\"`".to_owned();
        let message = format!("the system's host name does not serve: {error}");
        problems.push(ConfigProblem::of_file(&paths.configuration.join("agent.toml"), message, Some(hint)));
    };
    hostname.parse().map_err(invalid).ok()
}

/// Reads the text of a component's file by itself: types, bounds and contradictions, without drop-ins, without the
/// agent's own rules and without looking at the host. `file` names it in problems.
///
/// # Errors
/// All problems of the text.
pub fn parse_component(text: &str, file: &Path) -> Result<Component, ConfigErrors> {
    let problems = Problems::default();
    let component = file::parse(text, file, &problems)
        .and_then(|table| check::component(&table, &Policy::default(), &Paths::default(), &problems));
    problems.finish(component)
}

/// Reads the text of `agent.toml` by itself, as [`parse_component`] does for a component.
///
/// # Errors
/// All problems of the text.
pub fn parse_agent(text: &str, file: &Path) -> Result<AgentFile, ConfigErrors> {
    let problems = Problems::default();
    let agent = file::parse(text, file, &problems)
        .map(|table| check::agent(&table, &Paths::default().configuration, &problems));
    problems.finish(agent)
}
