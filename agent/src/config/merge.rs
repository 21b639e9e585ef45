//! Finds the files of the configuration and lays drop-ins over what they add to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Table, Value};
use super::problem::{ConfigProblem, Place, Problems};
use super::settings::Paths;
use super::trust;

/// Most files in one directory of the configuration: more components than any one host runs.
pub const FILES_MAX: usize = 1_024;

/// Reads `agent.toml` with the drop-ins of `agent.d`; an empty table when there are none of them.
pub(super) fn agent(paths: &Paths, problems: &Problems) -> Option<Table> {
    let main = paths.configuration.join("agent.toml");
    let base = if exists(&main) { file::read(&main, problems) } else { Some(Table::empty(&main)) };
    drop_ins(base, &paths.configuration.join("agent.d"), problems)
}

/// Reads every `components.d/NAME.toml` with the drop-ins of `components.d/NAME.toml.d`, sorted by name.
pub(super) fn components(paths: &Paths, problems: &Problems) -> Vec<Table> {
    let directory = paths.configuration.join("components.d");
    let files = toml_files(&directory, problems);
    for orphan in entries(&directory, ".toml.d", problems) {
        if !files.contains(&orphan.with_extension("")) {
            problems.push(ConfigProblem::of_file(
                &orphan,
                "drop-ins for a component that has no file",
                Some("remove the directory, or name it after a file: `NAME.toml.d`".to_owned()),
            ));
        }
    }
    let read = |file: &PathBuf| {
        let mut drop_in_directory = file.clone().into_os_string();
        drop_in_directory.push(".d");
        drop_ins(file::read(file, problems), Path::new(&drop_in_directory), problems)
    };
    files.iter().filter_map(read).collect()
}

fn drop_ins(base: Option<Table>, directory: &Path, problems: &Problems) -> Option<Table> {
    let read: Vec<_> = toml_files(directory, problems).iter().map(|file| file::read(file, problems)).collect();
    read.into_iter().fold(base, |base, over| {
        let (mut base, over) = (base?, over?);
        overlay(&mut base, over);
        Some(base)
    })
}

/// Lays one table over another: tables are merged key by key, everything else is replaced as a whole.
fn overlay(base: &mut Table, over: Table) {
    for (key, node) in over.keys {
        let below = base.keys.get_mut(&key).map(|below| &mut below.value);
        match (below, node.value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.keys.insert(key, file::Node { place: node.place, value });
            }
        }
    }
}

fn toml_files(directory: &Path, problems: &Problems) -> Vec<PathBuf> {
    entries(directory, ".toml", problems)
}

/// Lists what a directory has with that ending, sorted; hidden entries (editors' own files) do not count.
fn entries(directory: &Path, ending: &str, problems: &Problems) -> Vec<PathBuf> {
    if !exists(directory) {
        return Vec::new();
    }
    if let Err(problem) = trust::directory(directory) {
        problems.push(problem);
        return Vec::new();
    }
    let counts = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.ends_with(ending.as_bytes()) && !name.starts_with(b".")
    };
    let listed = std::fs::read_dir(directory)
        .and_then(|listed| listed.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
    let mut names = match listed {
        Ok(names) => names,
        Err(error) => {
            problems.push(ConfigProblem::of_file(directory, format!("cannot list: {error}"), None));
            return Vec::new();
        }
    };
    names.retain(|name| counts(name));
    names.sort();
    if names.len() > FILES_MAX {
        let message = format!("has {} files, at most {FILES_MAX} are read", names.len());
        problems.push(ConfigProblem::of_file(directory, message, None));
        names.truncate(FILES_MAX);
    }
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// Tells whether there is an entry, a dangling link included: that one is a problem for whoever reads it.
fn exists(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The places of keys by their dotted names, `probes[0].url`.
pub(super) type KeyPlaces = BTreeMap<String, Place>;

/// Lists where every key of a merged table was said last.
pub(super) fn places(table: &Table) -> KeyPlaces {
    let mut places = KeyPlaces::new();
    for (key, node) in &table.keys {
        collect(key.clone(), node, &mut places);
    }
    places
}

fn collect(name: String, node: &file::Node, places: &mut KeyPlaces) {
    match &node.value {
        Value::Table(table) => {
            for (key, below) in &table.keys {
                collect(format!("{name}.{key}"), below, places);
            }
        }
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                collect(format!("{name}[{at}]"), item, places);
            }
        }
        Value::Text(_) | Value::Integer(_) | Value::Float(_) | Value::Flag(_) | Value::Other(_) => {}
    }
    places.insert(name, node.place.clone());
}
