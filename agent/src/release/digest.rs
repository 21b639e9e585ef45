//! Reads a release's tree: every entry with its metadata, and the content of every file on all cores.
//!
//! Never follows a link, never writes, and holds one bounded buffer per core.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rayon::prelude::*;
use rollback::model::digest::Digest;
use rollback::model::release::{Entry, EntryKind, tree_digest};
use rollback::model::text::sanitize;
use rustix::fs::{FileType, Statx};
use serde::{Deserialize, Serialize};

use super::beneath;

/// Most entries of a release. A release with more is a mistake (a mounted volume, a cache), and the index is held in
/// memory at about 120 bytes each.
pub(super) const ENTRIES_MAX: usize = 1_000_000;
/// Deepest nesting of directories: twice what the deepest package trees have, and far below what a path can hold.
pub(super) const DEPTH_MAX: usize = 64;
/// Longest path that is printed: the longest that the kernel takes.
pub(super) const PATH_BYTES_MAX: usize = 4_096;
/// What one core reads at once: most files of a release fit, and it stays in the core's cache.
const BUFFER_BYTES: usize = 64 * 1024;
/// From this size on a file is read by all cores together; below, the files themselves keep the cores busy.
const LARGE_BYTES: u64 = 16 * 1024 * 1024;
/// What all cores read together at once: large enough to hide the wait for each other, small beside the 40 MB allowed.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// What one core reads of a window.
const SLICE_BYTES: usize = 512 * 1024;
/// A file that changed this shortly before it was read may change again without a visible step of its ctime: the
/// kernel's clock for files ticks every 10 ms at worst.
const UNSETTLED_NS: i128 = 20_000_000;

/// Says why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    /// Reading failed.
    #[error("cannot {attempt} `{path}`")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry is neither file nor directory nor link.
    #[error("`{path}` is {kind}, a release has only files, directories and links")]
    Special {
        /// The entry.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// An entry changed while it was read.
    #[error("`{0}` changed while it was read")]
    Changed(String),
    /// Directories are nested deeper than [`DEPTH_MAX`].
    #[error("`{0}` is nested deeper than {DEPTH_MAX} directories")]
    TooDeep(String),
    /// The tree has more than [`ENTRIES_MAX`] entries.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
}

impl TreeError {
    pub(super) fn io(attempt: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { attempt, path: printable(path), source: source.into() }
    }
}

/// The metadata by which a later look tells whether an entry moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    /// `mode & 0o7777`.
    pub(super) mode: u32,
    pub(super) inode: u64,
    pub(super) size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Stat {
    /// Takes what counts of the kernel's answer.
    pub(super) fn of(stat: &Statx) -> Self {
        let nanoseconds = |time: &rustix::fs::StatxTimestamp| {
            time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
        };
        Self {
            mode: u32::from(stat.stx_mode) & 0o7777,
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime_ns: nanoseconds(&stat.stx_mtime),
            ctime_ns: nanoseconds(&stat.stx_ctime),
        }
    }

    /// Forgets a ctime that is too fresh to be trusted, so that the next look reads the entry again.
    fn settle(&mut self, now: Timestamp) {
        if i128::from(self.ctime_ns) > now.as_nanosecond() - UNSETTLED_NS {
            self.ctime_ns = 0;
        }
    }
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind<'a> {
    /// A directory; it has a [`Directory`] of its own.
    Directory,
    /// A file with the digest of its content.
    File([u8; 32]),
    /// A link with its target.
    Link(#[serde(borrow)] Cow<'a, [u8]>),
}

impl Kind<'_> {
    /// Tells whether this is the type that the kernel names.
    pub(super) fn is(&self, found: FileType) -> bool {
        match self {
            Self::Directory => found == FileType::Directory,
            Self::File(_) => found == FileType::RegularFile,
            Self::Link(_) => found == FileType::Symlink,
        }
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Child<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, [u8]>,
    pub(super) stat: Stat,
    #[serde(borrow)]
    pub(super) kind: Kind<'a>,
}

/// One directory of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory<'a> {
    /// The path below the release; empty for the release itself.
    #[serde(borrow)]
    pub(super) path: Cow<'a, [u8]>,
    pub(super) stat: Stat,
    /// Its entries, sorted by name.
    #[serde(borrow)]
    pub(super) children: Vec<Child<'a>>,
}

/// A tree as its directories, each before those inside of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tree<'a> {
    #[serde(borrow)]
    pub(super) directories: Vec<Directory<'a>>,
}

impl Tree<'_> {
    /// Gives the entries as the tree digest sees them.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let top = self.directories.iter().take(1).map(|directory| Entry {
            path: Vec::new(),
            mode: directory.stat.mode,
            kind: EntryKind::Directory,
        });
        let below = self.directories.iter().flat_map(|directory| {
            directory.children.iter().map(|child| Entry {
                path: join(&directory.path, &child.name),
                mode: child.stat.mode,
                kind: match &child.kind {
                    Kind::Directory => EntryKind::Directory,
                    Kind::File(content) => EntryKind::File(Digest::from_bytes(*content)),
                    Kind::Link(target) => EntryKind::Link(target.to_vec()),
                },
            })
        });
        top.chain(below).collect()
    }

    /// Digests the tree.
    pub(super) fn digest(&self) -> Digest {
        tree_digest(&self.entries())
    }

    /// Counts the entries, the release itself included, and the bytes of its files.
    pub(super) fn size(&self) -> (u64, u64) {
        let children = || self.directories.iter().flat_map(|directory| &directory.children);
        let bytes = children().filter(|child| matches!(child.kind, Kind::File(_))).map(|child| child.stat.size).sum();
        (children().count() as u64 + 1, bytes)
    }

    /// Gives the files with their paths, sizes and digests.
    pub(super) fn files(&self) -> impl Iterator<Item = (&[u8], &Child<'_>, &[u8; 32])> {
        self.directories.iter().flat_map(|directory| {
            directory.children.iter().filter_map(|child| match &child.kind {
                Kind::File(content) => Some((&*directory.path, child, content)),
                Kind::Directory | Kind::Link(_) => None,
            })
        })
    }

    /// Forgets ctimes that are too fresh to be trusted; `now` is from before the tree was read.
    pub(super) fn settle(&mut self, now: Timestamp) {
        for directory in &mut self.directories {
            directory.stat.settle(now);
            directory.children.iter_mut().for_each(|child| child.stat.settle(now));
        }
    }
}

/// Reads a whole tree with the contents of its files; `progress` is told the bytes read so far.
///
/// # Errors
/// When something cannot be read, is no file, directory or link, or changes meanwhile, and past the bounds.
pub(super) fn read_tree(root: BorrowedFd<'_>, progress: &(dyn Fn(u64) + Sync)) -> Result<Tree<'static>, TreeError> {
    let mut tree = list(root)?;
    let bytes_read = AtomicU64::new(0);
    let advance = |bytes: u64| progress(bytes_read.fetch_add(bytes, Ordering::Relaxed) + bytes);
    tree.directories
        .par_iter_mut()
        .flat_map(|directory| {
            let path = &directory.path;
            directory.children.par_iter_mut().map(move |child| (path, child))
        })
        .try_for_each_init(
            || Vec::with_capacity(BUFFER_BYTES),
            |buffer, (path, child)| match &mut child.kind {
                Kind::File(content) if child.stat.size < LARGE_BYTES => {
                    *content = hash_file(root, &join(path, &child.name), &child.stat, buffer)?;
                    advance(child.stat.size);
                    Ok(())
                }
                Kind::File(_) | Kind::Directory | Kind::Link(_) => Ok(()),
            },
        )?;
    for directory in &mut tree.directories {
        for child in &mut directory.children {
            if let Kind::File(content) = &mut child.kind
                && child.stat.size >= LARGE_BYTES
            {
                *content = hash_large(root, &join(&directory.path, &child.name), &child.stat, &advance)?;
            }
        }
    }
    Ok(tree)
}

/// Lists a tree; the digests of its files are still to be filled in.
pub(super) fn list(root: BorrowedFd<'_>) -> Result<Tree<'static>, TreeError> {
    let mut tree = Tree { directories: Vec::new() };
    let mut level = vec![Vec::new()];
    let mut entries = 1;
    for _ in 0..=DEPTH_MAX {
        let read: Vec<Directory<'static>> =
            level.into_par_iter().map(|path| list_directory(root, path)).collect::<Result<_, _>>()?;
        entries += read.iter().map(|directory| directory.children.len()).sum::<usize>();
        if entries > ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        level = read.iter().flat_map(subdirectories).collect();
        tree.directories.extend(read);
        if level.is_empty() {
            return Ok(tree);
        }
    }
    Err(TreeError::TooDeep(printable(&level[0])))
}

fn subdirectories<'a>(directory: &'a Directory<'_>) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let below = directory.children.iter().filter(|child| child.kind == Kind::Directory);
    below.map(|child| join(&directory.path, &child.name))
}

fn list_directory(root: BorrowedFd<'_>, path: Vec<u8>) -> Result<Directory<'static>, TreeError> {
    let opened = beneath::directory(root, &path).map_err(|error| TreeError::io("open", &path, error))?;
    // Before the names are read: a name that comes or goes meanwhile moves the directory's times past these.
    let stat = beneath::stat_open(opened.as_fd()).map_err(|error| TreeError::io("stat", &path, error))?;
    let mut names = beneath::names(opened.as_fd(), ENTRIES_MAX).map_err(|error| TreeError::io("list", &path, error))?;
    names.sort_unstable();
    let children = names.into_iter().map(|name| list_child(opened.as_fd(), &path, name)).collect::<Result<_, _>>()?;
    Ok(Directory { stat: Stat::of(&stat), children, path: Cow::Owned(path) })
}

fn list_child(directory: BorrowedFd<'_>, path: &[u8], name: Vec<u8>) -> Result<Child<'static>, TreeError> {
    let failed = |attempt, error: io::Error| TreeError::io(attempt, &join(path, &name), error);
    let stat = beneath::stat(directory, &name).map_err(|error| failed("stat", error.into()))?;
    let special = |kind| TreeError::Special { path: printable(&join(path, &name)), kind };
    let kind = match beneath::kind(&stat) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File([0; 32]),
        FileType::Symlink => {
            match beneath::link_target(directory, &name).map_err(|error| failed("read link", error))? {
                Some(target) => Kind::Link(Cow::Owned(target)),
                None => return Err(TreeError::Changed(printable(&join(path, &name)))),
            }
        }
        FileType::Fifo => return Err(special("a FIFO")),
        FileType::Socket => return Err(special("a socket")),
        FileType::BlockDevice => return Err(special("a block device")),
        FileType::CharacterDevice => return Err(special("a character device")),
        FileType::Unknown => return Err(special("of an unknown type")),
    };
    Ok(Child { stat: Stat::of(&stat), kind, name: Cow::Owned(name) })
}

/// Hashes the file at `path` below `root`, which must be the one that `expected` describes before and after.
///
/// # Errors
/// When it cannot be read, or is not (or no longer) that file.
pub(super) fn hash_file(
    root: BorrowedFd<'_>,
    path: &[u8],
    expected: &Stat,
    buffer: &mut Vec<u8>,
) -> Result<[u8; 32], TreeError> {
    let file = beneath::file(root, path).map_err(|error| TreeError::io("open", path, error))?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes_read = 0;
    buffer.reserve(BUFFER_BYTES);
    while bytes_read < expected.size {
        buffer.clear();
        let count = rustix::io::read(&file, rustix::buffer::spare_capacity(buffer))
            .map_err(|error| TreeError::io("read", path, error))?;
        if count == 0 {
            break;
        }
        hasher.update(buffer);
        bytes_read += count as u64;
    }
    confirm(file.as_fd(), path, expected, bytes_read)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Hashes one large file on all cores.
fn hash_large(
    root: BorrowedFd<'_>,
    path: &[u8],
    expected: &Stat,
    advance: &dyn Fn(u64),
) -> Result<[u8; 32], TreeError> {
    let file = beneath::file(root, path).map_err(|error| TreeError::io("open", path, error))?;
    let mut hasher = blake3::Hasher::new();
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = 0;
    while at < expected.size {
        let count = usize::try_from(expected.size - at).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
        window[..count]
            .par_chunks_mut(SLICE_BYTES)
            .enumerate()
            .try_for_each(|(nth, slice)| read_exactly(file.as_fd(), slice, at + (nth * SLICE_BYTES) as u64))
            .map_err(|error| TreeError::io("read", path, error))?;
        hasher.update_rayon(&window[..count]);
        at += count as u64;
        advance(count as u64);
    }
    confirm(file.as_fd(), path, expected, at)?;
    Ok(*hasher.finalize().as_bytes())
}

fn read_exactly(file: BorrowedFd<'_>, mut slice: &mut [u8], mut at: u64) -> io::Result<()> {
    while !slice.is_empty() {
        let count = rustix::io::pread(file, &mut *slice, at)?;
        if count == 0 {
            return Err(io::Error::other("it became shorter"));
        }
        slice = &mut slice[count..];
        at += count as u64;
    }
    Ok(())
}

fn confirm(file: BorrowedFd<'_>, path: &[u8], expected: &Stat, bytes_read: u64) -> Result<(), TreeError> {
    let stat = beneath::stat_open(file).map_err(|error| TreeError::io("stat", path, error))?;
    if Stat::of(&stat) == *expected && bytes_read == expected.size && beneath::kind(&stat) == FileType::RegularFile {
        Ok(())
    } else {
        Err(TreeError::Changed(printable(path)))
    }
}

/// Joins a directory's path and a name in it.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Makes a path safe to print; the release itself is `.`.
pub(super) fn printable(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { sanitize(path, PATH_BYTES_MAX).replace('\n', "\\n") }
}
