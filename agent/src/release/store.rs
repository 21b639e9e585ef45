//! Manifests and indexes in the state directory, and the judgement of a release by them.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rollback::chain::Chain;
use rollback::model::ids::ReleaseId;
use rollback::model::release::{Difference, DifferenceKind, Integrity, Manifest};
use rustix::io::Errno;

use super::beneath;
use super::digest::{self, Tree};
use super::index::{self, Index};
use crate::config::Component;
use crate::durable;
use crate::ports::PortError;

/// Largest manifest: its texts are bounded to far less.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Largest index: the most entries with names of common length, several times over.
const INDEX_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Says why a release's manifest or index does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// There is none.
    #[error("there is no `{0}`")]
    Absent(PathBuf),
    /// It cannot be read.
    #[error("cannot read `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("`{path}` is torn or damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Where a component's manifests and indexes are.
pub(super) fn manifests_directory(component: &Component) -> PathBuf {
    component.state.join("manifests")
}

/// Lists the manifests that can be read.
pub(super) fn manifests(component: &Component) -> Result<Vec<Manifest>, PortError> {
    let directory = manifests_directory(component);
    let failed = |error| PortError::failed(format!("cannot list the manifests in `{}`", directory.display()), error);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut manifests = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
        let Some(id) = id else { continue };
        match manifest(component, &id) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => tracing::warn!(release = %id, "release is no target: {}", Chain(&error)),
        }
    }
    Ok(manifests)
}

/// Reads one manifest.
pub(super) fn manifest(component: &Component, release: &ReleaseId) -> Result<Manifest, StateError> {
    let path = manifests_directory(component).join(format!("{release}.json"));
    let bytes = read_state(&path, MANIFEST_BYTES_MAX)?;
    parse_manifest(&bytes, release).map_err(|why| StateError::Damaged { path, why })
}

/// Reads the bytes of the manifest of a release.
///
/// # Errors
/// When they are no manifest, or that of another release.
pub fn parse_manifest(bytes: &[u8], release: &ReleaseId) -> Result<Manifest, String> {
    match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) if manifest.id == *release => Ok(manifest),
        Ok(manifest) => Err(format!("it is that of `{}`", manifest.id)),
        Err(error) => Err(error.to_string()),
    }
}

/// Writes one manifest durably: after a crash there is the whole new one or what was there before.
pub(super) fn write_manifest(component: &Component, manifest: &Manifest) -> Result<(), PortError> {
    let name = format!("{}.json", manifest.id);
    let bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|error| PortError::failed(format!("cannot write manifest `{name}`"), error))?;
    durable::write(&manifests_directory(component), &name, &bytes)
}

/// Writes durably what will be recorded of a release that is about to get its name: a crash before the record leaves a
/// directory, whose adoption keeps this promise.
pub(super) fn write_promise(component: &Component, manifest: &Manifest) -> Result<(), PortError> {
    let name = format!("{}.promise", manifest.id);
    let bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|error| PortError::failed(format!("cannot write promise `{name}`"), error))?;
    durable::write(&manifests_directory(component), &name, &bytes)
}

/// Reads what was promised of a release; one that cannot be read is none.
pub(super) fn promise(component: &Component, release: &ReleaseId) -> Option<Manifest> {
    let bytes = read_state(&promise_path(component, release), MANIFEST_BYTES_MAX).ok()?;
    parse_manifest(&bytes, release).ok()
}

/// Removes a promise that is kept or given up. Not flushed: one that comes back is only ever kept for the same files.
pub(super) fn remove_promise(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let path = promise_path(component, release);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PortError::failed(format!("cannot remove `{}`", path.display()), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn promise_path(component: &Component, release: &ReleaseId) -> PathBuf {
    manifests_directory(component).join(format!("{release}.promise"))
}

/// Removes manifest and index of a release. The index goes first: a manifest without one is written anew.
pub(super) fn remove_manifest(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let directory = manifests_directory(component);
    for path in [index_path(component, release), directory.join(format!("{release}.json"))] {
        let attempt = || format!("cannot remove `{}`", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(PortError::failed(attempt(), error)),
            Ok(()) | Err(_) => {}
        }
    }
    durable::sync_directory(&directory, || format!("cannot forget release `{release}`"))
}

/// Reads the bytes of a release's index.
pub(super) fn index_bytes(component: &Component, release: &ReleaseId) -> Result<Vec<u8>, StateError> {
    read_state(&index_path(component, release), INDEX_BYTES_MAX)
}

fn index_path(component: &Component, release: &ReleaseId) -> PathBuf {
    manifests_directory(component).join(format!("{release}.index"))
}

/// Writes a release's index durably.
pub(super) fn write_index(component: &Component, release: &ReleaseId, index: &Index<'_>) -> Result<(), PortError> {
    let name = format!("{release}.index");
    let bytes = index.encode().map_err(|error| PortError::failed(format!("cannot write index `{name}`"), error))?;
    durable::write(&manifests_directory(component), &name, &bytes)
}

fn read_state(path: &Path, bytes_max: u64) -> Result<Vec<u8>, StateError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => StateError::Absent(path.to_owned()),
        _ => StateError::Io { path: path.to_owned(), source },
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    beneath::read_regular(file.into(), bytes_max).map_err(failed)
}

/// Opens the component's root.
pub(super) fn open_root(component: &Component) -> Result<OwnedFd, PortError> {
    beneath::open_directory(&component.root)
        .map_err(|error| PortError::failed(format!("cannot open `{}`", component.root.display()), error))
}

/// Opens the directory of the component's releases.
pub(super) fn open_releases(component: &Component) -> Result<OwnedFd, PortError> {
    let directory = &component.releases.directory;
    beneath::directory(open_root(component)?.as_fd(), directory.as_os_str().as_encoded_bytes()).map_err(|error| {
        PortError::failed(format!("cannot open `{}`", component.root.join(directory).display()), error)
    })
}

/// Judges a release by metadata. `lock` is taken only to write the index anew.
pub(super) fn check<L>(component: &Component, release: &ReleaseId, now: Timestamp, lock: impl Fn() -> L) -> Integrity {
    let judge = || -> Result<Integrity, Integrity> {
        let manifest = manifest(component, release).map_err(|error| unknown(&error))?;
        let bytes = index_bytes(component, release).map_err(|error| unknown(&error))?;
        let mut index = Index::decode(&bytes).map_err(|error| unknown(&error))?;
        if index.digest != *manifest.tree.as_bytes() {
            return Err(Integrity::Unknown { why: "its index is not that of its manifest".to_owned() });
        }
        let root = open_release(component, release)?;
        let seen = index::look(root.as_fd(), &mut index.tree).map_err(|error| unknown(&error))?;
        if !seen.differences.is_empty() {
            return Ok(index::damaged(seen.differences));
        }
        let read_at = index.read_at;
        if seen.moved {
            index.tree.settle(now);
            let _writing = lock();
            keep_index(component, release, &index);
        }
        Ok(Integrity::Intact { read_at })
    };
    judge().unwrap_or_else(|judged| judged)
}

/// What is to be read in full.
pub(super) struct Reading<'a> {
    pub(super) component: &'a Component,
    pub(super) release: &'a ReleaseId,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

/// Judges a release by reading it; writes its index anew when it stands, which also repairs a damaged index.
pub(super) fn verify<L>(read: &Reading<'_>, now: Timestamp, lock: impl Fn() -> L) -> Integrity {
    let judge = || -> Result<Integrity, Integrity> {
        let manifest = manifest(read.component, read.release).map_err(|error| unknown(&error))?;
        let root = open_release(read.component, read.release)?;
        let mut tree = digest::read_tree(root.as_fd(), read.progress).map_err(|error| unknown(&error))?;
        let digest = tree.digest();
        if digest != manifest.tree {
            return Err(name_differences(read, &manifest, &tree));
        }
        tree.settle(now);
        let index = Index { read_at: now, digest: *digest.as_bytes(), tree };
        let _writing = lock();
        keep_index(read.component, read.release, &index);
        Ok(Integrity::Intact { read_at: now })
    };
    judge().unwrap_or_else(|judged| judged)
}

fn name_differences(read: &Reading<'_>, manifest: &Manifest, tree: &Tree<'_>) -> Integrity {
    let bytes = match index_bytes(read.component, read.release) {
        Ok(bytes) => bytes,
        Err(error) => return unnamed(&Chain(&error).to_string()),
    };
    match Index::decode(&bytes) {
        Ok(index) if index.digest == *manifest.tree.as_bytes() => index::damaged(index::differences(&index.tree, tree)),
        Ok(_) => unnamed("its index is not that of its manifest"),
        Err(error) => unnamed(&Chain(&error).to_string()),
    }
}

fn unnamed(why: &str) -> Integrity {
    Integrity::Unknown { why: format!("its files are not those of its manifest; which ones cannot be told: {why}") }
}

/// Opens a release, which must be a directory of the releases directory and no link.
fn open_release(component: &Component, release: &ReleaseId) -> Result<OwnedFd, Integrity> {
    let releases = open_releases(component).map_err(|error| unknown(&error))?;
    beneath::directory(releases.as_fd(), release.as_str().as_bytes()).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => gone(DifferenceKind::Missing),
            Some(Errno::NOTDIR | Errno::LOOP) => gone(DifferenceKind::Type),
            Some(_) | None => Integrity::Unknown { why: format!("cannot open release `{release}`: {error}") },
        }
    })
}

fn gone(what: DifferenceKind) -> Integrity {
    Integrity::Damaged { differences: vec![Difference { path: ".".to_owned(), what }], more: 0 }
}

/// Writes the index anew if it can: an old one only costs the next look another reading.
fn keep_index(component: &Component, release: &ReleaseId, index: &Index<'_>) {
    if let Err(error) = write_index(component, release, index) {
        tracing::warn!(%release, "release is intact but its index stays old: {}", Chain(&error));
    }
}

fn unknown(error: &(dyn std::error::Error + 'static)) -> Integrity {
    Integrity::Unknown { why: Chain(error).to_string() }
}
