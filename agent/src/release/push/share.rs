//! Takes files that the host has already: by reflink, by hardlink where the configuration says so, else by copy.
//!
//! A source may belong to the application's user, who may change it at any time. So it is opened once, without following
//! links, and is either what its index says before and after it was taken, or every byte that was copied is hashed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use jiff::Timestamp;
use rollback::chain::Chain;
use rollback::model::digest::Digest;
use rollback::model::offer::OfferedFile;
use rollback::model::release::Manifest;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, Timespec, Timestamps};

use super::super::beneath;
use super::super::digest::{Stat, join};
use super::super::index::Index;
use super::super::store;
use crate::config::Component;
use crate::ports::Sharing;

/// What is copied at once; it stays in the core's cache.
const BUFFER_BYTES: usize = 128 * 1024;
/// The one attribute that a hardlink may share: SELinux labels are the host's, not the release's.
const LABEL: &[u8] = b"security.selinux";

/// A file whose content is known.
pub(super) struct Source {
    /// The directory of its release.
    pub(super) root: Arc<OwnedFd>,
    /// Its path below that.
    pub(super) path: Vec<u8>,
    /// The metadata under which its content was read.
    pub(super) stat: Stat,
    /// When that was.
    pub(super) read_at: Timestamp,
}

/// Finds files with certain contents in the releases of a component by their indexes, those of the newest first. A release
/// whose index does not serve has none.
pub(super) fn find(
    component: &Component,
    mut manifests: Vec<Manifest>,
    wanted: &HashSet<Digest>,
) -> HashMap<Digest, Source> {
    let mut found = HashMap::new();
    manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.recorded_at));
    for manifest in manifests {
        if found.len() == wanted.len() {
            break;
        }
        if let Err(why) = find_in(component, &manifest, wanted, &mut found) {
            tracing::info!(release = %manifest.id, "its files are not shared: {why}");
        }
    }
    found
}

fn find_in(
    component: &Component,
    manifest: &Manifest,
    wanted: &HashSet<Digest>,
    found: &mut HashMap<Digest, Source>,
) -> Result<(), String> {
    let bytes = store::index_bytes(component, &manifest.id).map_err(|error| Chain(&error).to_string())?;
    let index = Index::decode(&bytes).map_err(|error| Chain(&error).to_string())?;
    if index.digest != *manifest.tree.as_bytes() {
        return Err("its index is not that of its manifest".to_owned());
    }
    let releases = store::open_releases(component).map_err(|error| Chain(&error).to_string())?;
    let root = beneath::directory(releases.as_fd(), manifest.id.as_str().as_bytes())
        .map_err(|error| format!("cannot open it: {error}"))?;
    let root = Arc::new(root);
    for (directory, child, content) in index.tree.files() {
        let content = Digest::from_bytes(*content);
        if wanted.contains(&content) {
            found.entry(content).or_insert_with(|| Source {
                root: Arc::clone(&root),
                path: join(directory, &child.name),
                stat: child.stat.clone(),
                read_at: index.read_at,
            });
        }
    }
    Ok(())
}

/// Tells how files are shared on a file system, by trying it on a file without a name.
pub(super) fn sharing(releases: BorrowedFd<'_>, hardlinks: bool, sample: Option<&Source>) -> Sharing {
    if hardlinks {
        return Sharing::Hardlink;
    }
    let reflinks = || -> io::Result<()> {
        let sample = sample.ok_or(io::ErrorKind::NotFound)?;
        let source = beneath::file(sample.root.as_fd(), &sample.path)?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = rustix::fs::openat(releases, ".", flags, Mode::from_raw_mode(0o600))?;
        Ok(rustix::fs::ioctl_ficlone(&unnamed, &source)?)
    };
    if reflinks().is_ok() { Sharing::Reflink } else { Sharing::Copy }
}

/// Gives an opened file its mode and its time, and tells the metadata by which it is known from now on.
pub(super) fn seal(made: BorrowedFd<'_>, mode: u32, file: &OfferedFile) -> io::Result<Stat> {
    rustix::fs::fchmod(made, Mode::from_raw_mode(mode))?;
    let modified =
        Timespec { tv_sec: file.modified.as_second(), tv_nsec: file.modified.subsec_nanosecond().max(0).into() };
    rustix::fs::futimens(made, &Timestamps { last_access: modified, last_modification: modified })?;
    Ok(Stat::of(&beneath::stat_open(made)?))
}

/// Where a file goes, and what it must be there.
pub(super) struct Goal<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    pub(super) mode: u32,
    pub(super) file: &'a OfferedFile,
}

impl Goal<'_> {
    /// Takes the content of a source; gives the metadata under which the new file's content is proved.
    ///
    /// # Errors
    /// When the source does not have that content any more, or something fails; there may be a file then.
    pub(super) fn take(&self, source: &Source, sharing: Sharing) -> io::Result<Stat> {
        let opened = beneath::file(source.root.as_fd(), &source.path)?;
        let found = beneath::stat_open(opened.as_fd())?;
        let stands = Stat::of(&found) == source.stat;
        match sharing {
            Sharing::Hardlink if stands && self.may_link(opened.as_fd(), &found)? => {
                if let Ok(stat) = self.link(opened.as_fd()) {
                    return Ok(stat);
                }
            }
            Sharing::Reflink if stands => {
                let made = beneath::create_in(self.directory, self.name)?;
                let cloned = rustix::fs::ioctl_ficlone(&made, &opened).is_ok();
                if cloned && Stat::of(&beneath::stat_open(opened.as_fd())?) == source.stat {
                    return seal(made.as_fd(), self.mode, self.file);
                }
                beneath::remove(self.directory, self.name, 0)?;
            }
            Sharing::Hardlink | Sharing::Reflink | Sharing::Copy => {}
        }
        self.copy(opened)
    }

    /// Tells whether one file may have both names: it must be the agent's own, with that very mode, and without attributes
    /// (which might give rights) that nobody has offered.
    fn may_link(&self, source: BorrowedFd<'_>, found: &Statx) -> io::Result<bool> {
        let mode = u32::from(found.stx_mode) & 0o7777;
        if mode != self.mode || found.stx_uid != nix::unistd::geteuid().as_raw() {
            return Ok(false);
        }
        let mut names = Vec::with_capacity(rustix::fs::flistxattr_query(source).unwrap_or_default());
        if names.capacity() > 0 {
            rustix::fs::flistxattr(source, rustix::buffer::spare_capacity(&mut names))?;
        }
        Ok(names.split(|byte| *byte == 0).all(|name| name.is_empty() || name == LABEL))
    }

    /// Gives an opened file a second name.
    fn link(&self, source: BorrowedFd<'_>) -> io::Result<Stat> {
        // By its descriptor, so that it is the file that was looked at, whatever its path leads to by now.
        let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, opened, self.directory, self.name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(Stat::of(&beneath::stat_open(source)?))
    }

    /// Copies and hashes.
    fn copy(&self, source: OwnedFd) -> io::Result<Stat> {
        let mut source = File::from(source);
        let mut made = File::from(beneath::create_in(self.directory, self.name)?);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = source.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            made.write_all(&buffer[..count])?;
        }
        if hasher.finalize().as_bytes() == self.file.content.as_bytes() {
            return seal(made.as_fd(), self.mode, self.file);
        }
        beneath::remove(self.directory, self.name, 0)?;
        Err(io::Error::other("it has another content than its index says"))
    }
}
