//! Makes a release of what was staged: completes it, proves it, flushes it, gives it its name and records it.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use jiff::Timestamp;
use rollback::model::offer::OfferedKind;
use rollback::model::refusal::Refusal;
use rollback::model::release::{Manifest, Origin};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::super::adopt::Found;
use super::super::digest::{self, DEPTH_MAX, Kind, Stat, Tree, TreeError, hash_file, join};
use super::super::index::Index;
use super::super::{beneath, store, switch};
use super::staged::{Staged, close};
use crate::ports::{Adopted, LaidDown, PortError, PushError};

/// Lays a staged release down; see [`crate::ports::Staging::finish`].
///
/// A crash before the rename leaves what a push leaves that broke off. One after it leaves a directory without a manifest,
/// which the next adoption records as was promised.
pub(super) fn lay_down(mut staged: Staged, now: Timestamp) -> Result<LaidDown, PushError> {
    staged.repeat()?;
    complete(&staged).map_err(|error| staged.failed(error))?;
    // One flush of the whole file system: a flush of each of many thousand files costs a commit of its journal each.
    rustix::fs::syncfs(&staged.root).map_err(|error| PortError::Durability {
        attempt: format!("cannot flush `{}`", staged.attempt().path().display()),
        source: error.into(),
    })?;
    let mut index = prove(&staged, now)?;
    let label = &staged.pushed.label;
    let (entries, bytes) = index.tree.size();
    let mut manifest = Manifest {
        id: label.release.clone(),
        version: label.version.clone(),
        git_sha: label.git_sha.clone(),
        created_at: now,
        created_by: staged.pushed.by.clone(),
        recorded_at: now,
        origin: Origin::Pushed,
        bytes,
        entries,
        tree: staged.pushed.offer.tree(),
        configuration: None,
        notes: label.notes.clone(),
    };
    store::write_promise(&staged.component, &manifest)?;
    let _writing = staged.writing.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = name(&staged) {
        store::remove_promise(&staged.component, &label.release)?;
        return Err(error);
    }
    rustix::fs::fsync(&staged.releases).map_err(|error| PortError::Durability {
        attempt: format!("cannot flush the name of `{}`", label.release),
        source: error.into(),
    })?;
    if let Some(top) = index.tree.directories.first_mut() {
        // A rename moves the ctime of what is renamed.
        top.stat = Stat::of(&beneath::stat_open(staged.root.as_fd()).map_err(|error| staged.failed(error.into()))?);
    }
    index.tree.settle(now);
    let found = Found { component: &staged.component, releases: staged.releases.as_fd(), id: &label.release, now };
    let mut adopted = Adopted::default();
    found.record(&mut manifest, &index, &mut adopted)?;
    for (_, why) in adopted.skipped {
        tracing::warn!(release = %label.release, "{why}");
    }
    switch::prepare(&staged.component);
    Ok(LaidDown { manifest, came: staged.came })
}

/// Makes the links, and gives the directories their modes, the innermost first.
fn complete(staged: &Staged) -> io::Result<()> {
    let entries = staged.pushed.offer.entries();
    for entry in entries {
        let OfferedKind::Link(target) = &entry.kind else { continue };
        let (parent, name) = beneath::split(&entry.path);
        let parent = beneath::directory(staged.root.as_fd(), parent)?;
        beneath::remove(parent.as_fd(), name, DEPTH_MAX)?;
        rustix::fs::symlinkat(beneath::as_path(target), &parent, name)?;
    }
    for entry in entries.iter().rev().filter(|entry| entry.kind == OfferedKind::Directory) {
        close(&staged.root, &entry.path, entry.mode)?;
    }
    Ok(())
}

/// Proves that what lies there is what was offered, and gives its index: every file has the metadata under which its
/// content was proved, or is read again.
fn prove(staged: &Staged, now: Timestamp) -> Result<Index<'static>, PushError> {
    let failed = |error: TreeError| {
        let path = staged.attempt().path();
        PushError::Failed(PortError::failed(format!("cannot prove `{}`", path.display()), error))
    };
    let mut tree = digest::list(staged.root.as_fd()).map_err(failed)?;
    fill(staged, &mut tree).map_err(failed)?;
    let found = tree.digest();
    if found != staged.pushed.offer.tree() {
        staged.attempt().discard(&staged.releases);
        let attempt = format!("cannot lay down `{}`", staged.pushed.label.release);
        let found = "somebody else has written into what was staged; it was removed".to_owned();
        return Err(PushError::Failed(PortError::Unfit { attempt, found }));
    }
    let read_at = staged.read_at.min(now);
    Ok(Index { read_at, digest: *found.as_bytes(), tree })
}

fn fill(staged: &Staged, tree: &mut Tree<'_>) -> Result<(), TreeError> {
    let entries = staged.pushed.offer.entries();
    let mut buffer = Vec::new();
    for directory in &mut tree.directories {
        for child in &mut directory.children {
            let Kind::File(content) = &mut child.kind else { continue };
            let path = join(&directory.path, &child.name);
            let nth = entries.binary_search_by(|entry| entry.path.cmp(&path)).ok();
            let proved = nth.filter(|nth| staged.proofs[*nth].as_ref() == Some(&child.stat));
            *content = match proved.map(|nth| &entries[nth].kind) {
                Some(OfferedKind::File(file)) => *file.content.as_bytes(),
                Some(OfferedKind::Directory | OfferedKind::Link(_)) | None => {
                    hash_file(staged.root.as_fd(), &path, &child.stat, &mut buffer)?
                }
            };
        }
    }
    Ok(())
}

/// Gives the staged directory the release's name, if that is free.
fn name(staged: &Staged) -> Result<(), PushError> {
    let release = &staged.pushed.label.release;
    let failed = |error: Errno| {
        let text = format!("cannot name `{}` `{release}`", staged.attempt().path().display());
        PushError::Failed(PortError::failed(text, io::Error::from(error)))
    };
    let (from, to) = (staged.attempt().name, release.as_str());
    let taken = || PushError::Refused(Refusal::NameTaken { release: release.clone() });
    match rustix::fs::renameat_with(&staged.releases, from, &staged.releases, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(taken()),
        // The file system has no such rename (NFS): a look before is what is left.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if beneath::stat(staged.releases.as_fd(), to.as_bytes()).is_ok() {
                return Err(taken());
            }
            rustix::fs::renameat(&staged.releases, from, &staged.releases, to).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
