//! A release that is being laid down: what is there already, what is shared, what is awaited.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rayon::prelude::*;
use rollback::engine::push::{Room, room};
use rollback::model::digest::Digest;
use rollback::model::offer::{Offered, OfferedFile, OfferedKind};
use rollback::model::refusal::Refusal;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::super::adopt::matches;
use super::super::digest::{DEPTH_MAX, Stat, hash_file, printable};
use super::super::{beneath, store};
use super::share::{self, Goal, Source, seal};
use super::{Place, lay_down};
use crate::config::Component;
use crate::ports::{Came, Count, LaidDown, PortError, PushError, Pushed, Sharing, Staging};

/// A release that is being laid down.
pub(in crate::release) struct Staged {
    pub(super) component: Component,
    pub(super) pushed: Pushed,
    /// The directory of the releases, and the one in it that is written.
    pub(super) releases: OwnedFd,
    pub(super) root: OwnedFd,
    /// For each entry of the offer, the metadata under which its content was proved; none for what is no file.
    pub(super) proofs: Vec<Option<Stat>>,
    pub(super) came: Came,
    /// When the oldest of what is relied on was read.
    pub(super) read_at: Timestamp,
    /// Held while files of the state directory are written.
    pub(super) writing: Arc<Mutex<()>>,
    /// The entries by which the contents are awaited.
    lacking: VecDeque<usize>,
    receiving: Option<Receiving>,
    place: Place,
}

/// A file that is being received.
struct Receiving {
    nth: usize,
    file: File,
    hasher: blake3::Hasher,
    left: u64,
}

impl Staged {
    /// Takes what is there. Nothing is written before it is known that there is room; `writing` is held later, while files
    /// of the state directory are.
    pub(in crate::release) fn begin(
        component: Component,
        pushed: Pushed,
        (place, writing): (Place, Arc<Mutex<()>>),
        now: Timestamp,
    ) -> Result<Self, PushError> {
        let releases = store::open_releases(&component)?;
        check_name(&component, &releases, &pushed)?;
        let offer = Arc::clone(&pushed.offer);
        let attempt = Attempt { pushed: &pushed, component: &component, name: place.name() };
        let mut proofs = vec![None; offer.entries().len()];
        let mut came = Came::default();
        let resumed = match beneath::stat(releases.as_fd(), place.name().as_bytes()) {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(attempt.failed(error.into())),
        };
        if resumed {
            let root = attempt.make(&releases)?;
            proofs = left_before(&root, offer.entries());
            came.resumed = count(offer.entries(), &proofs);
            pushed.placed.store(came.resumed.bytes, Ordering::Relaxed);
        }
        let wanted: HashSet<Digest> = files(offer.entries())
            .filter(|(nth, _, file)| proofs[*nth].is_none() && file.bytes > 0)
            .map(|(_, _, file)| file.content)
            .collect();
        let sources = share::find(&component, store::manifests(&component)?, &wanted);
        let links = component.releases.hardlinks;
        came.sharing = share::sharing(releases.as_fd(), links, sources.values().next());
        let is_shared = |file: &OfferedFile| came.sharing != Sharing::Copy && sources.contains_key(&file.content);
        let needed = needed(offer.entries(), &proofs, is_shared);
        room(needed, free(&releases).map_err(|error| attempt.failed(error))?).map_err(PushError::Refused)?;
        let root = attempt.make(&releases)?;
        let share = Share { sources: &sources, sharing: came.sharing, placed: &pushed.placed };
        let taken = share.all(&root, offer.entries(), &proofs);
        let taken = taken.map_err(|error| attempt.failed_and_discarded(&releases, error))?;
        let read_at = taken.iter().flatten().map(|(_, read_at)| *read_at).fold(now, Timestamp::min);
        let taken: Vec<Option<Stat>> = taken.into_iter().map(|taken| taken.map(|(stat, _)| stat)).collect();
        came.shared = count(offer.entries(), &taken);
        proofs.iter_mut().zip(taken).for_each(|(proof, taken)| *proof = taken.or(proof.take()));
        let mut staged = Self {
            releases,
            root,
            proofs,
            came,
            read_at,
            writing,
            lacking: VecDeque::new(),
            receiving: None,
            place,
            component,
            pushed,
        };
        staged.await_the_rest()?;
        Ok(staged)
    }

    pub(super) fn attempt(&self) -> Attempt<'_> {
        Attempt { pushed: &self.pushed, component: &self.component, name: self.place.name() }
    }

    /// Makes the empty files, and notes what must be sent: each content once.
    fn await_the_rest(&mut self) -> Result<(), PushError> {
        let offer = Arc::clone(&self.pushed.offer);
        let mut known: HashSet<Digest> = HashSet::new();
        for (nth, _, file) in files(offer.entries()) {
            if self.proofs[nth].is_some() {
                known.insert(file.content);
            }
        }
        for (nth, entry, file) in files(offer.entries()) {
            if self.proofs[nth].is_some() {
                continue;
            }
            if file.bytes == 0 {
                if file.content != Digest::of(b"") {
                    return Err(self.unfit(format!("`{}` is empty and its digest is not", printable(&entry.path))));
                }
                let made = beneath::create(self.root.as_fd(), &entry.path);
                let made = made.and_then(|made| seal(made.as_fd(), entry.mode, file));
                self.proofs[nth] = Some(made.map_err(|error| self.failed(error))?);
                self.came.shared.files += 1;
            } else if known.insert(file.content) {
                self.lacking.push_back(nth);
            }
        }
        Ok(())
    }

    /// Shares contents that the release has several times, once they are all there.
    pub(super) fn repeat(&mut self) -> Result<(), PushError> {
        let offer = Arc::clone(&self.pushed.offer);
        let own = self.root.try_clone().map_err(|error| self.failed(error))?;
        let own = Arc::new(own);
        let mut sources = HashMap::new();
        for (nth, entry, file) in files(offer.entries()) {
            if let Some(stat) = &self.proofs[nth] {
                let (path, stat) = (entry.path.clone(), stat.clone());
                let source = Source { root: Arc::clone(&own), path, stat, read_at: self.read_at };
                sources.entry(file.content).or_insert(source);
            }
        }
        for (nth, entry, file) in files(offer.entries()) {
            if self.proofs[nth].is_some() {
                continue;
            }
            let Some(source) = sources.get_mut(&file.content) else {
                let text = format!("`{}` has not been sent", printable(&entry.path));
                return Err(self.failed(io::Error::other(text)));
            };
            let (parent, name) = beneath::split(&entry.path);
            let taken = beneath::directory(self.root.as_fd(), parent).and_then(|parent| {
                Goal { directory: parent.as_fd(), name, mode: entry.mode, file }.take(source, self.came.sharing)
            });
            let taken = taken.map_err(|error| self.failed(error))?;
            if taken.inode == source.stat.inode {
                source.stat = taken.clone();
            }
            self.proofs[nth] = Some(taken);
            self.came.shared.files += 1;
            self.came.shared.bytes += file.bytes;
            self.pushed.placed.fetch_add(file.bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Refuses what was offered, and leaves nothing of it.
    pub(super) fn unfit(&self, why: String) -> PushError {
        self.attempt().discard(&self.releases);
        PushError::Refused(Refusal::OfferUnfit { release: self.pushed.label.release.clone(), why })
    }

    /// Gives up for now. What has arrived stays, unless it fills the disk.
    pub(super) fn failed(&self, error: io::Error) -> PushError {
        self.attempt().failed_and_discarded(&self.releases, error)
    }

    fn receive(&mut self, nth: usize, file: &OfferedFile) -> io::Result<Receiving> {
        let path = &self.pushed.offer.entries()[nth].path;
        beneath::remove(self.root.as_fd(), path, DEPTH_MAX)?;
        let opened = beneath::create(self.root.as_fd(), path)?;
        Ok(Receiving { nth, file: opened.into(), hasher: blake3::Hasher::new(), left: file.bytes })
    }
}

impl Staging for Staged {
    fn lacking(&self) -> Vec<Digest> {
        let entries = self.pushed.offer.entries();
        self.lacking.iter().filter_map(|nth| file_of(&entries[*nth])).map(|file| file.content).collect()
    }

    fn put(&mut self, content: Digest, data: &[u8]) -> Result<(), PushError> {
        let offer = Arc::clone(&self.pushed.offer);
        let nth = self.receiving.as_ref().map(|receiving| receiving.nth).or_else(|| self.lacking.front().copied());
        let awaited = nth.and_then(|nth| Some((nth, &offer.entries()[nth], file_of(&offer.entries()[nth])?)));
        let Some((nth, entry, file)) = awaited.filter(|(_, _, file)| file.content == content && !data.is_empty())
        else {
            return Err(self.unfit(format!("content {} is not the one that is awaited", content.short())));
        };
        let mut receiving = match self.receiving.take() {
            Some(receiving) => receiving,
            None => self.receive(nth, file).map_err(|error| self.failed(error))?,
        };
        let Some(left) = receiving.left.checked_sub(data.len() as u64) else {
            return Err(self.unfit(format!("`{}` is larger than was offered", printable(&entry.path))));
        };
        receiving.file.write_all(data).map_err(|error| self.failed(error))?;
        receiving.hasher.update(data);
        receiving.left = left;
        self.pushed.placed.fetch_add(data.len() as u64, Ordering::Relaxed);
        if left > 0 {
            self.receiving = Some(receiving);
            return Ok(());
        }
        if receiving.hasher.finalize().as_bytes() != content.as_bytes() {
            return Err(self.unfit(format!("the content of `{}` is not what was offered", printable(&entry.path))));
        }
        let sealed = seal(receiving.file.as_fd(), entry.mode, file);
        self.proofs[nth] = Some(sealed.map_err(|error| self.failed(error))?);
        self.lacking.pop_front();
        self.came.sent.files += 1;
        self.came.sent.bytes += file.bytes;
        Ok(())
    }

    fn finish(self: Box<Self>, now: Timestamp) -> Result<LaidDown, PushError> {
        lay_down::lay_down(*self, now)
    }
}

/// How files of other releases are taken.
struct Share<'a> {
    sources: &'a HashMap<Digest, Source>,
    sharing: Sharing,
    placed: &'a AtomicU64,
}

impl Share<'_> {
    /// Takes every file without a proof that has a source; gives its proof and when the source was read.
    fn all(
        &self,
        root: &OwnedFd,
        entries: &[Offered],
        proofs: &[Option<Stat>],
    ) -> io::Result<Vec<Option<(Stat, Timestamp)>>> {
        let mut first = HashSet::new();
        let wanted: Vec<Option<&OfferedFile>> = entries
            .iter()
            .zip(proofs)
            .map(|(entry, proof)| file_of(entry).filter(|file| proof.is_none() && file.bytes > 0))
            // A link moves the source's ctime, so that it does not stand for a second one: [`Staged::repeat`] makes that.
            .map(|file| file.filter(|file| self.sharing != Sharing::Hardlink || first.insert(file.content)))
            .collect();
        let taken = entries.par_iter().zip(wanted).map_init(
            || None,
            |held, (entry, file)| {
                let taken = file.and_then(|file| Some((file, self.sources.get(&file.content)?)));
                taken
                    .map_or(Ok(None), |(file, source)| self.one(open_parent(root, entry, held)?, entry, (file, source)))
            },
        );
        taken.collect()
    }

    fn one(
        &self,
        directory: BorrowedFd<'_>,
        entry: &Offered,
        (file, source): (&OfferedFile, &Source),
    ) -> io::Result<Option<(Stat, Timestamp)>> {
        let (_, name) = beneath::split(&entry.path);
        match (Goal { directory, name, mode: entry.mode, file }).take(source, self.sharing) {
            Ok(stat) => {
                self.placed.fetch_add(file.bytes, Ordering::Relaxed);
                Ok(Some((stat, source.read_at)))
            }
            Err(error) if is_full(&error) => Err(error),
            Err(error) => {
                tracing::info!(%error, path = printable(&entry.path), "a file cannot be shared and is asked for");
                beneath::remove(directory, name, 0)?;
                Ok(None)
            }
        }
    }
}

/// A directory that is held open, with its path.
type Held<'a> = Option<(&'a [u8], OwnedFd)>;

/// Opens the directory of an entry, or takes the one that is held: entries of one directory mostly follow each other.
fn open_parent<'h, 'a>(root: &OwnedFd, entry: &'a Offered, held: &'h mut Held<'a>) -> io::Result<BorrowedFd<'h>> {
    let (parent, _) = beneath::split(&entry.path);
    if held.as_ref().is_none_or(|(path, _)| *path != parent) {
        *held = Some((parent, beneath::directory(root.as_fd(), parent)?));
    }
    held.as_ref().map(|(_, opened)| opened.as_fd()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What is attempted, for errors, and the directory that it is attempted in.
pub(super) struct Attempt<'a> {
    pushed: &'a Pushed,
    component: &'a Component,
    pub(super) name: &'a str,
}

impl Attempt<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.component.root.join(&self.component.releases.directory).join(self.name)
    }

    fn failed(&self, error: io::Error) -> PushError {
        let text = format!("cannot lay down `{}` in `{}`", self.pushed.label.release, self.path().display());
        PushError::Failed(PortError::failed(text, error))
    }

    fn failed_and_discarded(&self, releases: &OwnedFd, error: io::Error) -> PushError {
        if is_full(&error) {
            // A full disk hurts everybody on the host.
            self.discard(releases);
        }
        self.failed(error)
    }

    pub(super) fn discard(&self, releases: &OwnedFd) {
        if let Err(error) = beneath::remove(releases.as_fd(), self.name.as_bytes(), DEPTH_MAX + 2) {
            tracing::warn!(%error, "cannot remove `{}`", self.path().display());
        }
    }

    /// Ensures that the directory and those of the offer below it are there, and the agent's own.
    fn make(&self, releases: &OwnedFd) -> Result<OwnedFd, PushError> {
        let make = || -> io::Result<OwnedFd> {
            let root = beneath::make_directory(releases.as_fd(), self.name.as_bytes())?;
            if beneath::stat_open(root.as_fd())?.stx_uid != nix::unistd::geteuid().as_raw() {
                return Err(io::Error::other("it belongs to somebody else"));
            }
            // Its time says when somebody has last taken it up.
            rustix::fs::futimens(&root, &of_now())?;
            for entry in self.pushed.offer.entries().iter().skip(1) {
                if entry.kind == OfferedKind::Directory {
                    drop(beneath::make_directory(root.as_fd(), &entry.path)?);
                }
            }
            Ok(root)
        };
        make().map_err(|error| self.failed_and_discarded(releases, error))
    }
}

fn of_now() -> rustix::fs::Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::Timestamps { last_access: now, last_modification: now }
}

/// Refuses a name that adoption would not see, or that is on the disk already: also a directory that is not adopted yet.
fn check_name(component: &Component, releases: &OwnedFd, pushed: &Pushed) -> Result<(), PushError> {
    let release = &pushed.label.release;
    let pattern = &component.releases.pattern;
    if !matches(pattern, release.as_str()) {
        let why = format!("the names of this component's releases are `{pattern}`");
        return Err(PushError::Refused(Refusal::OfferUnfit { release: release.clone(), why }));
    }
    match beneath::stat(releases.as_fd(), release.as_str().as_bytes()) {
        Ok(_) => Err(PushError::Refused(Refusal::NameTaken { release: release.clone() })),
        Err(_) => Ok(()),
    }
}

/// Proves the files that an earlier push has left, and removes what is not as offered.
fn left_before(root: &OwnedFd, entries: &[Offered]) -> Vec<Option<Stat>> {
    let prove = |buffer: &mut Vec<u8>, entry: &Offered, file: &OfferedFile| -> io::Result<Option<Stat>> {
        let opened = match beneath::file(root.as_fd(), &entry.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = beneath::stat_open(opened.as_fd())?;
        let stat = Stat::of(&found);
        if beneath::kind(&found) != FileType::RegularFile || stat.size != file.bytes {
            return Ok(None);
        }
        match hash_file(root.as_fd(), &entry.path, &stat, buffer) {
            Ok(content) if content == *file.content.as_bytes() => {}
            Ok(_) | Err(_) => return Ok(None),
        }
        if found.stx_nlink > 1 {
            // Its mode is another release's too.
            return Ok((stat.mode == entry.mode).then_some(stat));
        }
        seal(opened.as_fd(), entry.mode, file).map(Some)
    };
    entries
        .par_iter()
        .map_init(Vec::new, |buffer, entry| {
            let OfferedKind::File(file) = &entry.kind else { return None };
            let proof = prove(buffer, entry, file).ok().flatten();
            if proof.is_none() {
                // What cannot be removed fails when it is written.
                drop(beneath::remove(root.as_fd(), &entry.path, DEPTH_MAX));
            }
            proof
        })
        .collect()
}

fn file_of(entry: &Offered) -> Option<&OfferedFile> {
    match &entry.kind {
        OfferedKind::File(file) => Some(file),
        OfferedKind::Directory | OfferedKind::Link(_) => None,
    }
}

/// The files with their places among the entries.
fn files(entries: &[Offered]) -> impl Iterator<Item = (usize, &Offered, &OfferedFile)> {
    entries.iter().enumerate().filter_map(|(nth, entry)| Some((nth, entry, file_of(entry)?)))
}

fn count(entries: &[Offered], proofs: &[Option<Stat>]) -> Count {
    let proved = || files(entries).filter(|(nth, _, _)| proofs[*nth].is_some());
    Count { files: proved().count() as u64, bytes: proved().map(|(_, _, file)| file.bytes).sum() }
}

/// What is still to be written.
fn needed(entries: &[Offered], proofs: &[Option<Stat>], is_shared: impl Fn(&OfferedFile) -> bool) -> Room {
    let written = files(entries).filter(|(nth, _, file)| proofs[*nth].is_none() && !is_shared(file));
    let inodes = entries.len() - proofs.iter().flatten().count();
    Room {
        bytes: written.map(|(_, _, file)| file.bytes.next_multiple_of(BLOCK_BYTES)).sum(),
        inodes: Some(inodes as u64),
    }
}

/// What the smallest file takes on common file systems.
const BLOCK_BYTES: u64 = 4_096;

fn free(releases: &OwnedFd) -> io::Result<Room> {
    let found = rustix::fs::fstatvfs(releases)?;
    let inodes = (found.f_files > 0).then_some(found.f_favail);
    Ok(Room { bytes: found.f_bavail.saturating_mul(found.f_frsize), inodes })
}

/// Tells an error that every further file would meet too.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Sets the mode of a directory that is complete.
pub(super) fn close(root: &OwnedFd, path: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(beneath::directory(root.as_fd(), path)?, Mode::from_raw_mode(mode))?)
}
