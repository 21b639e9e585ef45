//! The index of a release: what the tree looked like when it was read, and what is different now.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use rayon::prelude::*;
use rollback::model::release::{DIFFERENCES_MAX, Difference, DifferenceKind, Integrity};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::beneath;
use super::digest::{Child, Directory, ENTRIES_MAX, Kind, Stat, Tree, TreeError, hash_file, join, printable};

/// Begins every index file; another layout gets another name.
const MAGIC: &[u8; 17] = b"rollback index 1\n";
/// The magic and the BLAKE3 checksum of what follows.
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// A tree as it was read, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index<'a> {
    /// When all contents were read.
    pub(super) read_at: Timestamp,
    /// The digest of the tree.
    pub(super) digest: [u8; 32],
    /// The tree.
    #[serde(borrow)]
    pub(super) tree: Tree<'a>,
}

/// Says why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// The file is torn, damaged, or of another layout.
    #[error("its index is torn or damaged")]
    Damaged,
    /// The content does not parse although its checksum stands, or cannot be written.
    #[error("its index is not understood")]
    Content(#[source] postcard::Error),
}

impl<'a> Index<'a> {
    /// Writes the index as bytes with a checksum.
    pub(super) fn encode(&self) -> Result<Vec<u8>, IndexError> {
        let mut bytes = [MAGIC.as_slice(), &[0; 32]].concat();
        bytes = postcard::to_extend(self, bytes).map_err(IndexError::Content)?;
        let checksum = blake3::hash(&bytes[HEADER_BYTES..]);
        bytes[MAGIC.len()..HEADER_BYTES].copy_from_slice(checksum.as_bytes());
        Ok(bytes)
    }

    /// Reads an index from its bytes.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, IndexError> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(IndexError::Damaged)?;
        if header[..MAGIC.len()] != *MAGIC || header[MAGIC.len()..] != *blake3::hash(body).as_bytes() {
            return Err(IndexError::Damaged);
        }
        postcard::from_bytes(body).map_err(IndexError::Content)
    }
}

/// What a look at a tree found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What differs.
    pub(super) differences: Vec<Difference>,
    /// Whether metadata moved although nothing differs, so that the index should be written anew.
    pub(super) moved: bool,
}

impl Seen {
    fn add(&mut self, path: &[u8], what: DifferenceKind) {
        self.differences.push(Difference { path: printable(path), what });
    }

    fn merge(mut self, other: Self) -> Self {
        self.differences.extend(other.differences);
        self.moved |= other.moved;
        self
    }
}

/// Compares a tree with its index by metadata; what moved is read and compared, and updated in the index when it stands.
///
/// # Errors
/// When an entry cannot be read or changes meanwhile.
pub(super) fn look(root: BorrowedFd<'_>, tree: &mut Tree<'_>) -> Result<Seen, TreeError> {
    tree.directories
        .par_iter_mut()
        .map(|directory| look_at_directory(root, directory))
        .try_reduce(Seen::default, |all, one| Ok(all.merge(one)))
}

fn look_at_directory(root: BorrowedFd<'_>, directory: &mut Directory<'_>) -> Result<Seen, TreeError> {
    let mut seen = Seen::default();
    let path = &directory.path;
    let opened = match beneath::directory(root, path) {
        Ok(opened) => opened,
        Err(error) if is_gone(&error) => {
            seen.add(path, DifferenceKind::Missing);
            return Ok(seen);
        }
        Err(error) => return Err(TreeError::io("open", path, error)),
    };
    let stat = beneath::stat_open(opened.as_fd()).map_err(|error| TreeError::io("stat", path, error))?;
    let stat = Stat::of(&stat);
    if path.is_empty() && stat.mode != directory.stat.mode {
        seen.add(path, DifferenceKind::Mode);
    }
    if stat != directory.stat {
        // A name came or went; when the times stand, the names do too and need not be listed.
        let names = beneath::names(opened.as_fd(), ENTRIES_MAX).map_err(|error| TreeError::io("list", path, error))?;
        for name in names {
            if directory.children.binary_search_by(|child| (*child.name).cmp(&name)).is_err() {
                seen.add(&join(path, &name), DifferenceKind::Added);
            }
        }
        directory.stat = stat;
        seen.moved = true;
    }
    let mut buffer = Vec::new();
    for child in &mut directory.children {
        look_at_child(&Place { root, directory: opened.as_fd(), path }, child, &mut seen, &mut buffer)?;
    }
    Ok(seen)
}

/// Where a child lies.
struct Place<'a> {
    root: BorrowedFd<'a>,
    directory: BorrowedFd<'a>,
    path: &'a [u8],
}

fn look_at_child(
    place: &Place<'_>,
    child: &mut Child<'_>,
    seen: &mut Seen,
    buffer: &mut Vec<u8>,
) -> Result<(), TreeError> {
    let path = || join(place.path, &child.name);
    let stat = match beneath::stat(place.directory, &child.name) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => {
            seen.add(&path(), DifferenceKind::Missing);
            return Ok(());
        }
        Err(error) => return Err(TreeError::io("stat", &path(), error)),
    };
    if !child.kind.is(beneath::kind(&stat)) {
        seen.add(&path(), DifferenceKind::Type);
        return Ok(());
    }
    let stat = Stat::of(&stat);
    if stat.mode != child.stat.mode {
        seen.add(&path(), DifferenceKind::Mode);
    }
    match &child.kind {
        // Its times are those of its own record.
        Kind::Directory => return Ok(()),
        Kind::File(_) | Kind::Link(_) if stat == child.stat => return Ok(()),
        Kind::File(content) => {
            if hash_file(place.root, &path(), &stat, buffer)? != *content {
                seen.add(&path(), DifferenceKind::Content);
            }
        }
        Kind::Link(target) => {
            let found = beneath::link_target(place.directory, &child.name)
                .map_err(|error| TreeError::io("read link", &path(), error))?;
            if found.as_deref() != Some(&**target) {
                seen.add(&path(), DifferenceKind::Target);
            }
        }
    }
    child.stat = stat;
    seen.moved = true;
    Ok(())
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}

/// Names what differs between two readings of a tree.
pub(super) fn differences(old: &Tree<'_>, new: &Tree<'_>) -> Vec<Difference> {
    let (old, new) = (by_path(old), by_path(new));
    let mut seen = Seen::default();
    for (path, (mode, kind)) in &old {
        match new.get(path) {
            None => seen.add(path, DifferenceKind::Missing),
            Some((_, found)) if std::mem::discriminant(*kind) != std::mem::discriminant(*found) => {
                seen.add(path, DifferenceKind::Type);
            }
            Some((found_mode, found)) => {
                if mode != found_mode {
                    seen.add(path, DifferenceKind::Mode);
                }
                if kind != found {
                    let link = matches!(kind, Kind::Link(_));
                    seen.add(path, if link { DifferenceKind::Target } else { DifferenceKind::Content });
                }
            }
        }
    }
    new.keys().filter(|path| !old.contains_key(*path)).for_each(|path| seen.add(path, DifferenceKind::Added));
    seen.differences
}

fn by_path<'a>(tree: &'a Tree<'_>) -> BTreeMap<Cow<'a, [u8]>, (u32, &'a Kind<'a>)> {
    let top = tree.directories.iter().take(1).map(|top| (Cow::Borrowed(&b""[..]), (top.stat.mode, &Kind::Directory)));
    let below = tree.directories.iter().flat_map(|directory| {
        directory
            .children
            .iter()
            .map(|child| (Cow::Owned(join(&directory.path, &child.name)), (child.stat.mode, &child.kind)))
    });
    top.chain(below).collect()
}

/// Sorts and bounds what differs; an entry that two looks missed counts once.
pub(super) fn damaged(mut differences: Vec<Difference>) -> Integrity {
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    // A directory is missed by its parent's look (maybe as of another type) and by its own, which comes later.
    differences.dedup_by(|later, kept| {
        later.path == kept.path && (later.what == kept.what || later.what == DifferenceKind::Missing)
    });
    let more = differences.len().saturating_sub(DIFFERENCES_MAX) as u64;
    differences.truncate(DIFFERENCES_MAX);
    Integrity::Damaged { differences, more }
}
