//! Compares settings with the host and with each other: directories, programs and keys, and who claims what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rollback::model::ids::UnitName;

use super::merge::KeyPlaces;
use super::problem::{ConfigProblem, Place, Problems};
use super::settings::{Component, ProbeKind, Tls};
use super::trust;

/// Finds the revocation list and checks that keys and certificates are there and that the key is private.
pub(super) fn tls(tls: &mut Tls, configuration: &Path, places: &KeyPlaces, problems: &Problems) {
    let default = configuration.join("pki/crl.pem");
    if tls.revocations.is_none() && default.exists() {
        tls.revocations = Some(default);
    }
    let read = [
        ("tls.authority", Some(&tls.authority)),
        ("tls.certificate", Some(&tls.certificate)),
        ("tls.revocations", tls.revocations.as_ref()),
    ];
    for (key, path) in read {
        let Some(path) = path else { continue };
        let judged = match path.metadata() {
            Ok(metadata) if metadata.is_file() => trust::judge(path, &metadata),
            Ok(_) => Err(ConfigProblem::of_file(path, "it is not a file", None)),
            Err(error) => Err(ConfigProblem::of_file(path, format!("cannot look at it: {error}"), None)),
        };
        report(judged, key, place_of(places, key, "tls"), problems);
    }
    report(trust::check_private(&tls.key), "tls.key", place_of(places, "tls.key", "tls"), problems);
}

/// Checks what a component needs of the host.
pub(super) fn component(component: &Component, places: &KeyPlaces, problems: &Problems) {
    let place = |key: &str| place_of(places, key, "root");
    let root = trust::directory(&component.root);
    let root_stands = root.is_ok();
    report(root, "root", place("root"), problems);
    if root_stands {
        let key = if places.contains_key("releases.directory") { "releases.directory" } else { "releases" };
        report(plain_directory(&component.root, &component.releases.directory), key, place(key), problems);
    }
    for (at, file) in component.configuration.iter().flat_map(|kept| &kept.files).enumerate() {
        let key = format!("configuration.files[{at}].from");
        if file.from.is_absolute() && !file.from.is_file() {
            let problem = ConfigProblem::of_file(&file.from, "there is no such file", None);
            report(Err(problem), &key, place(&key), problems);
        }
    }
    let declared = places.keys().filter(|key| key.starts_with("probes[") && key.ends_with(']')).count();
    for (at, probe) in component.probes.iter().enumerate() {
        if let ProbeKind::Exec(exec) = &probe.kind {
            let key = probe_key(at, declared) + ".command";
            report(program(component, Path::new(&exec.command[0])), &key, place(&key), problems);
        }
    }
}

/// Names the table of a probe: probes come first, smoke checks after them.
pub(super) fn probe_key(at: usize, declared: usize) -> String {
    if at < declared { format!("probes[{at}]") } else { format!("smoke[{}]", at - declared) }
}

/// A program that belongs to the agent's configuration, not to a release: what a release brings is judged, not trusted,
/// and is missing when it is needed most.
fn program(component: &Component, path: &Path) -> Result<(), ConfigProblem> {
    if path.starts_with(&component.root) {
        return Err(in_release(path));
    }
    let found = trust::program(path)?;
    let root = std::fs::canonicalize(&component.root).unwrap_or_else(|_| component.root.clone());
    if found.starts_with(root) { Err(in_release(path)) } else { Ok(()) }
}

fn in_release(path: &Path) -> ConfigProblem {
    let hint = "install the check outside of the component's root".to_owned();
    ConfigProblem::of_file(path, "what a release brings cannot judge it", Some(hint))
}

/// A directory below the root that no link on the way replaces.
fn plain_directory(root: &Path, below: &Path) -> Result<(), ConfigProblem> {
    let mut at = root.to_owned();
    for part in below.components() {
        at.push(part);
        let found = at.symlink_metadata().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ConfigProblem::of_file(&at, "it does not exist", None),
            _ => ConfigProblem::of_file(&at, format!("cannot look at it: {error}"), None),
        })?;
        if !found.is_dir() {
            return Err(ConfigProblem::of_file(&at, "it is not a directory", None));
        }
    }
    Ok(())
}

/// What components have claimed: no two may own the same name, link or unit.
#[derive(Debug, Default)]
pub(super) struct Claims {
    links: BTreeMap<PathBuf, Place>,
    units: BTreeMap<UnitName, Place>,
}

impl Claims {
    /// Claims a component's links and units.
    pub(super) fn claim(&mut self, component: &Component, places: &KeyPlaces, problems: &Problems) {
        let place = |key: &str| place_of(places, key, "root");
        let kept = component.configuration.as_ref().map(|kept| (kept.link.as_str(), "configuration.link"));
        for (link, key) in [(component.current.as_str(), "current")].into_iter().chain(kept) {
            let path = component.root.join(link);
            let Some(place) = place(key) else { continue };
            match self.links.get(&path) {
                Some(other) => {
                    let message = format!("the link {} belongs to another component", path.display());
                    problems.hint(place, message, format!("see {other}"));
                }
                None => {
                    self.links.insert(path, place.clone());
                }
            }
        }
        for (at, unit) in component.units.iter().enumerate() {
            let Some(place) = place_of(places, &format!("units[{at}]"), "units") else { continue };
            match self.units.get(unit) {
                Some(other) => {
                    let message = format!("`units`: {unit} belongs to another component");
                    problems.hint(place, message, format!("see {other}"));
                }
                None => {
                    self.units.insert(unit.clone(), place.clone());
                }
            }
        }
    }
}

fn place_of<'a>(places: &'a KeyPlaces, key: &str, otherwise: &str) -> Option<&'a Place> {
    places.get(key).or_else(|| places.get(otherwise))
}

/// Reports what is wrong with an object of the host at the place of the key that names it.
fn report(judged: Result<(), ConfigProblem>, key: &str, place: Option<&Place>, problems: &Problems) {
    let Err(problem) = judged else { return };
    let Some(place) = place else { return problems.push(problem) };
    let message = format!("`{key}`: {}: {}", problem.file.display(), problem.message);
    match problem.hint {
        Some(hint) => problems.hint(place, message, hint),
        None => problems.add(place, message),
    }
}
