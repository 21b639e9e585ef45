//! Removes releases: first the name, in one step, then what was recorded, then the files.

use std::os::fd::{AsFd, BorrowedFd};

use rollback::model::ids::ReleaseId;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{beneath, configuration, store, switch};
use crate::config::Component;
use crate::ports::PortError;

/// Begins the hidden name of a release whose files are being removed; no release has such a name.
const REMOVED: &str = ".removed-";
/// Directories below each other that are removed at most: PATH_MAX allows no more of one letter.
const DEPTH_MAX: usize = 2_048;
/// Names that are looked through at most.
const NAMES_MAX: usize = 10_000;
/// A disk is short when less than this part of its blocks or inodes is free, in percent.
const SHORT_PERCENT: u64 = 10;

/// Removes a release; see [`crate::ports::Store::remove`].
pub(super) fn remove(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let attempt = || format!("cannot remove release `{release}`");
    if switch::current(component)?.release() == Some(release) {
        return Err(PortError::Unfit { attempt: attempt(), found: "`current` leads there".to_owned() });
    }
    let releases = store::open_releases(component)?;
    let hidden = format!("{REMOVED}{release}");
    // What an earlier removal has left of a release of this name goes first.
    beneath::remove(releases.as_fd(), hidden.as_bytes(), DEPTH_MAX)
        .map_err(|error| PortError::failed(attempt(), error))?;
    match rustix::fs::renameat_with(&releases, release.as_str(), &releases, &*hidden, RenameFlags::NOREPLACE) {
        // It went before, and what was recorded of it is left.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(PortError::failed(attempt(), std::io::Error::from(error))),
    }
    rustix::fs::fsync(&releases).map_err(|error| PortError::Durability { attempt: attempt(), source: error.into() })?;
    store::remove_manifest(component, release)?;
    configuration::remove(component, release)?;
    tidy(releases.as_fd()).map_err(|error| PortError::failed(attempt(), error))
}

/// Removes the files of every release whose removal was cut off.
fn tidy(releases: BorrowedFd<'_>) -> std::io::Result<()> {
    for name in beneath::names(releases, NAMES_MAX)? {
        if let Some(name) = std::str::from_utf8(&name).ok().filter(|name| name.starts_with(REMOVED)) {
            beneath::remove(releases, name.as_bytes(), DEPTH_MAX)?;
        }
    }
    Ok(())
}

/// Tells whether the disk of the releases is short; one that does not tell is not.
pub(super) fn is_short(component: &Component) -> bool {
    let path = component.root.join(&component.releases.directory);
    let Ok(stat) = nix::sys::statvfs::statvfs(&path) else { return false };
    let is_low = |free: u64, all: u64| all > 0 && free.saturating_mul(100) / all < SHORT_PERCENT;
    is_low(stat.blocks_available(), stat.blocks()) || is_low(stat.files_available(), stat.files())
}
