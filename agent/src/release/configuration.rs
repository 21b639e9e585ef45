//! The configuration that is frozen beside a release's manifest and returns with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rollback::chain::Chain;
use rollback::model::digest::Digest;
use rollback::model::host::Configuration;
use rollback::model::ids::ReleaseId;

use super::{beneath, store};
use crate::config::{Component, ConfigurationFile, KeptConfiguration};
use crate::durable;
use crate::ports::PortError;

/// Largest file of a configuration: a hundred times what people write by hand.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most files of a configuration.
const FILES_MAX: usize = 1_024;
/// Names the layout that is hashed.
const CONTEXT: &str = "rollback 2026-11 frozen configuration v1";

/// Says why a configuration was not frozen.
#[derive(Debug, thiserror::Error)]
pub(super) enum FreezeError {
    /// A file is missing or cannot be read; nothing was frozen.
    #[error("cannot read `{from}`, which its configuration needs")]
    Source {
        /// Where it should come from.
        from: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory could not be written.
    #[error(transparent)]
    State(#[from] PortError),
}

/// The directory in which a release's configuration is frozen.
pub(super) fn directory(component: &Component, release: &ReleaseId) -> PathBuf {
    component.state.join("configuration").join(release.as_str())
}

/// Freezes the files of a configuration for an opened release and gives their digest.
///
/// What is frozen already is kept: it may be what runs now. After a crash there is all of it or nothing under its name.
pub(super) fn freeze(
    component: &Component,
    kept: &KeptConfiguration,
    release: &ReleaseId,
    opened: BorrowedFd<'_>,
) -> Result<Digest, FreezeError> {
    let target = directory(component, release);
    if let Ok(digest) = frozen_digest(&target) {
        return Ok(digest);
    }
    let mut files = Vec::with_capacity(kept.files.len());
    for file in &kept.files {
        let bytes =
            read_source(opened, file).map_err(|source| FreezeError::Source { from: file.from.clone(), source })?;
        files.push((file.name.as_bytes().to_vec(), bytes));
    }
    let parent = component.state.join("configuration");
    let temporary = parent.join(format!(".{release}.tmp"));
    let attempt = || format!("cannot freeze configuration `{}`", target.display());
    let failed = |error| FreezeError::State(PortError::failed(attempt(), error));
    match std::fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => durable::make_directory(&temporary)?,
    }
    for (name, bytes) in &files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary.join(beneath::as_path(name)))
            .map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_all().map_err(|source| PortError::Durability { attempt: attempt(), source })?;
    }
    durable::sync_directory(&temporary, attempt)?;
    std::fs::rename(&temporary, &target).map_err(failed)?;
    durable::sync_directory(&parent, attempt)?;
    Ok(digest(files))
}

/// Removes the frozen configuration of a release; that there is none is well.
pub(super) fn remove(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let frozen = directory(component, release);
    match std::fs::remove_dir_all(&frozen) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PortError::failed(format!("cannot remove `{}`", frozen.display()), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_source(release: BorrowedFd<'_>, file: &ConfigurationFile) -> io::Result<Vec<u8>> {
    if file.from.is_absolute() {
        // The path is the administrator's own, so links in it are followed.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(&file.from)?;
        beneath::read_regular(opened.into(), FILE_BYTES_MAX)
    } else {
        beneath::read(release, file.from.as_os_str().as_encoded_bytes(), FILE_BYTES_MAX)
    }
}

/// Judges what was frozen with a release.
pub(super) fn look(component: &Component, release: &ReleaseId) -> Configuration {
    if component.configuration.is_none() {
        return Configuration::NotKept;
    }
    let recorded = match store::manifest(component, release) {
        Ok(manifest) => manifest.configuration,
        Err(error) => return Configuration::Missing(Chain(&error).to_string()),
    };
    let Some(recorded) = recorded else {
        return Configuration::Missing("no configuration was frozen with it".to_owned());
    };
    let path = directory(component, release);
    match frozen_digest(&path) {
        Ok(found) if found == recorded => Configuration::Frozen,
        Ok(_) => Configuration::Missing(format!("`{}` is not as it was frozen", path.display())),
        Err(error) => Configuration::Missing(format!("cannot read `{}`: {error}", path.display())),
    }
}

fn frozen_digest(path: &Path) -> io::Result<Digest> {
    let opened = File::open(path)?;
    let mut files = Vec::new();
    for name in beneath::names(opened.as_fd(), FILES_MAX)? {
        let bytes = beneath::read(opened.as_fd(), &name, FILE_BYTES_MAX)?;
        files.push((name, bytes));
    }
    Ok(digest(files))
}

/// Digests names and contents, in the order of the names.
fn digest(mut files: Vec<(Vec<u8>, Vec<u8>)>) -> Digest {
    files.sort();
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for part in files.iter().flat_map(|(name, bytes)| [name, bytes]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}
