//! A release that is offered for a host: every entry with its type, mode and content, checked before anything is written.
//!
//! Both sides build it: the client so that hostile archives end early, the agent because it trusts no client.

use std::collections::HashMap;

use jiff::Timestamp;

use super::digest::Digest;
use super::ids::{ReleaseId, Version};
use super::release::{Entry, EntryKind, tree_digest};
use super::text::{Text, sanitize};

/// Most entries of an offer. It is held in memory at about 200 bytes each; a release with more is a mistake (a mounted
/// volume, a cache).
pub const ENTRIES_MAX: usize = 300_000;
/// Most bytes of all paths and link targets together: 200 for each of the most entries, so that long paths cannot make
/// an offer ten times as large in memory.
pub const PATHS_BYTES_MAX: usize = 200 * ENTRIES_MAX;
/// Most bytes of all files together: several times the largest releases (models, media) and small beside any disk.
pub const BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// Deepest nesting: twice what the deepest package trees have, and what reading a release accepts.
pub const DEPTH_MAX: usize = 64;
/// Longest path below the release: half of what the kernel takes, so that what stands before it fits too.
pub const PATH_BYTES_MAX: usize = 2_048;
/// Longest name of an entry: the longest that Linux file systems take.
pub const NAME_BYTES_MAX: usize = 255;
/// The mode that every link has on Linux.
pub const LINK_MODE: u32 = 0o777;
/// The permission bits that an entry may have: neither setuid nor setgid nor the sticky bit.
const MODE_MAX: u32 = 0o777;

/// What people say of a release that they offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The name of its directory.
    pub release: ReleaseId,
    /// What people call it.
    pub version: Option<Version>,
    /// The commit that it was built from.
    pub git_sha: Option<String>,
    /// What its maker says of it.
    pub notes: Option<Text>,
}

/// One entry of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The path below the release, byte for byte, without a leading slash; empty for the release itself.
    pub path: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: OfferedKind,
}

/// What an offered entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(OfferedFile),
    /// A symbolic link with its target, byte for byte.
    Link(Vec<u8>),
}

/// What is offered of a file; its content is sent only to hosts that lack it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedFile {
    /// Its size.
    pub bytes: u64,
    /// The digest of its content.
    pub content: Digest,
    /// When it was changed last.
    pub modified: Timestamp,
}

/// Says why an offer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It has more than [`ENTRIES_MAX`] entries.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// Its files have more than [`BYTES_MAX`] bytes.
    #[error("its files have more than {} GiB", BYTES_MAX >> 30)]
    TooLarge,
    /// Its paths have more than [`PATHS_BYTES_MAX`] bytes.
    #[error("its paths have more than {PATHS_BYTES_MAX} bytes together")]
    LongPaths,
    /// The entry of the release itself is missing.
    #[error("the entry of the release itself is missing")]
    NoTop,
    /// One entry cannot be accepted.
    #[error("`{path}` {fault}")]
    Entry {
        /// Its path, made safe to print.
        path: String,
        /// What is wrong with it.
        fault: EntryFault,
    },
}

/// What is wrong with one entry of an offer; continues a sentence whose subject is its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The path begins with a slash.
    #[error("is an absolute path")]
    Absolute,
    /// A part of the path is empty, `.` or `..`.
    #[error("has a part that is empty, `.` or `..`")]
    Step,
    /// The path or the target has a zero byte.
    #[error("has a zero byte")]
    Nul,
    /// A name has more than [`NAME_BYTES_MAX`] bytes.
    #[error("has a name of more than {NAME_BYTES_MAX} bytes")]
    LongName,
    /// The path or the target has more than [`PATH_BYTES_MAX`] bytes.
    #[error("has a path of more than {PATH_BYTES_MAX} bytes")]
    LongPath,
    /// The entry lies deeper than [`DEPTH_MAX`].
    #[error("is nested deeper than {DEPTH_MAX} directories")]
    TooDeep,
    /// It is setuid, setgid or sticky, or the mode is none.
    #[error("has the mode {0:o}; neither setuid nor setgid nor the sticky bit is accepted")]
    Mode(u32),
    /// It is the release itself and no directory.
    #[error("is the release itself, which must be a directory")]
    TopIsNoDirectory,
    /// It is there twice.
    #[error("is there twice")]
    Twice,
    /// Its parent is no directory of the offer: a link, a file, or not there.
    #[error("does not lie in a directory of the release")]
    NoParent,
    /// Another entry says another size of the same content.
    #[error("has another size than another entry with the same digest")]
    TwoSizes,
    /// The link's target is empty.
    #[error("is a link to nothing")]
    EmptyTarget,
    /// The link leads out of the release.
    #[error("is a link that leads out of the release, to `{0}`")]
    Escapes(String),
    /// The link's target has `..` after a name, so that where it leads depends on other links.
    #[error("is a link with `..` after a name, to `{0}`")]
    Winding(String),
}

/// An offer that may be written below a directory: nothing in it leads outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    entries: Vec<Offered>,
    bytes: u64,
    tree: Digest,
}

impl Offer {
    /// The entries in the order of their paths: each directory before what lies in it.
    #[must_use]
    pub fn entries(&self) -> &[Offered] {
        &self.entries
    }

    /// The files with their paths, in the order of these.
    pub fn files(&self) -> impl Iterator<Item = (&Offered, &OfferedFile)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            OfferedKind::File(file) => Some((entry, file)),
            OfferedKind::Directory | OfferedKind::Link(_) => None,
        })
    }

    /// The bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest that the release will have.
    #[must_use]
    pub fn tree(&self) -> Digest {
        self.tree
    }
}

/// Takes the entries of an offer one by one, in any order, and stops at the first that cannot be accepted.
#[derive(Debug, Default)]
pub struct OfferBuilder {
    entries: Vec<Offered>,
    bytes: u64,
    path_bytes: usize,
}

impl OfferBuilder {
    /// Takes an entry.
    ///
    /// # Errors
    /// When it cannot be accepted whatever the others are, or a bound is passed.
    pub fn add(&mut self, entry: Offered) -> Result<(), OfferError> {
        check(&entry).map_err(|fault| at(&entry, fault))?;
        if self.entries.len() == ENTRIES_MAX {
            return Err(OfferError::TooMany);
        }
        let (bytes, target_bytes) = match &entry.kind {
            OfferedKind::Directory => (0, 0),
            OfferedKind::File(file) => (file.bytes, 0),
            OfferedKind::Link(target) => (0, target.len()),
        };
        self.bytes = self.bytes.checked_add(bytes).filter(|all| *all <= BYTES_MAX).ok_or(OfferError::TooLarge)?;
        self.path_bytes += entry.path.len() + target_bytes;
        if self.path_bytes > PATHS_BYTES_MAX {
            return Err(OfferError::LongPaths);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Tells how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there is no entry yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Compares the entries with each other.
    ///
    /// # Errors
    /// When they do not make one tree.
    pub fn finish(self) -> Result<Offer, OfferError> {
        let Self { mut entries, bytes, .. } = self;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        match entries.first() {
            Some(top) if top.path.is_empty() => {}
            Some(_) | None => return Err(OfferError::NoTop),
        }
        let mut sizes = HashMap::new();
        for (nth, entry) in entries.iter().enumerate().skip(1) {
            if entries[nth - 1].path == entry.path {
                return Err(at(entry, EntryFault::Twice));
            }
            let parent = parent(&entry.path);
            let found = entries.binary_search_by(|other| other.path.as_slice().cmp(parent));
            if !found.is_ok_and(|found| entries[found].kind == OfferedKind::Directory) {
                return Err(at(entry, EntryFault::NoParent));
            }
            if let OfferedKind::File(file) = &entry.kind
                && *sizes.entry(file.content).or_insert(file.bytes) != file.bytes
            {
                return Err(at(entry, EntryFault::TwoSizes));
            }
        }
        let tree = tree_digest(&entries.iter().map(of_tree).collect::<Vec<_>>());
        Ok(Offer { entries, bytes, tree })
    }
}

fn at(entry: &Offered, fault: EntryFault) -> OfferError {
    OfferError::Entry { path: printable(&entry.path), fault }
}

fn of_tree(entry: &Offered) -> Entry {
    let kind = match &entry.kind {
        OfferedKind::Directory => EntryKind::Directory,
        OfferedKind::File(file) => EntryKind::File(file.content),
        OfferedKind::Link(target) => EntryKind::Link(target.clone()),
    };
    Entry { path: entry.path.clone(), mode: entry.mode, kind }
}

/// Gives the path of the directory in which an entry lies; empty for the release itself.
#[must_use]
pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &path[..slash])
}

fn check(entry: &Offered) -> Result<(), EntryFault> {
    if !entry.path.is_empty() {
        check_path(&entry.path)?;
    } else if entry.kind != OfferedKind::Directory {
        return Err(EntryFault::TopIsNoDirectory);
    }
    match &entry.kind {
        OfferedKind::Directory | OfferedKind::File(_) if entry.mode <= MODE_MAX => Ok(()),
        OfferedKind::Link(target) if entry.mode == LINK_MODE => check_target(&entry.path, target),
        OfferedKind::Directory | OfferedKind::File(_) | OfferedKind::Link(_) => Err(EntryFault::Mode(entry.mode)),
    }
}

fn check_path(path: &[u8]) -> Result<(), EntryFault> {
    if path.len() > PATH_BYTES_MAX {
        return Err(EntryFault::LongPath);
    }
    if path.contains(&0) {
        return Err(EntryFault::Nul);
    }
    if path.starts_with(b"/") {
        return Err(EntryFault::Absolute);
    }
    for (nth, part) in path.split(|byte| *byte == b'/').enumerate() {
        match part {
            b"" | b"." | b".." => return Err(EntryFault::Step),
            _ if part.len() > NAME_BYTES_MAX => return Err(EntryFault::LongName),
            _ if nth == DEPTH_MAX => return Err(EntryFault::TooDeep),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that a link stays in the release.
///
/// `..` may only come first: it then goes up through directories, which [`OfferBuilder::finish`] proves to be real ones.
/// After that names only go down, through links that are checked in the same way.
fn check_target(path: &[u8], target: &[u8]) -> Result<(), EntryFault> {
    if target.is_empty() {
        return Err(EntryFault::EmptyTarget);
    }
    if target.len() > PATH_BYTES_MAX {
        return Err(EntryFault::LongPath);
    }
    if target.contains(&0) {
        return Err(EntryFault::Nul);
    }
    if target.starts_with(b"/") {
        return Err(EntryFault::Escapes(printable(target)));
    }
    let mut above = path.split(|byte| *byte == b'/').count() - 1;
    let mut went_down = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if went_down => return Err(EntryFault::Winding(printable(target))),
            b".." => {
                above = above.checked_sub(1).ok_or_else(|| EntryFault::Escapes(printable(target)))?;
            }
            _ if part.len() > NAME_BYTES_MAX => return Err(EntryFault::LongName),
            _ => went_down = true,
        }
    }
    Ok(())
}

fn printable(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { sanitize(path, PATH_BYTES_MAX).replace('\n', "\\n") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directory(path: &str) -> Offered {
        Offered { path: path.into(), mode: 0o755, kind: OfferedKind::Directory }
    }

    fn file(path: impl Into<Vec<u8>>, bytes: u64) -> Offered {
        let content = Digest::of(&bytes.to_le_bytes());
        let file = OfferedFile { bytes, content, modified: Timestamp::UNIX_EPOCH };
        Offered { path: path.into(), mode: 0o644, kind: OfferedKind::File(file) }
    }

    fn link(path: &str, target: impl Into<Vec<u8>>) -> Offered {
        Offered { path: path.into(), mode: LINK_MODE, kind: OfferedKind::Link(target.into()) }
    }

    fn offer(entries: Vec<Offered>) -> Result<Offer, OfferError> {
        let mut builder = OfferBuilder::default();
        entries.into_iter().try_for_each(|entry| builder.add(entry))?;
        builder.finish()
    }

    /// A tree with two directories, and further entries.
    fn tree(further: Vec<Offered>) -> Result<Offer, OfferError> {
        offer([directory(""), directory("a"), directory("a/b"), file("a/b/f", 1)].into_iter().chain(further).collect())
    }

    #[test]
    fn good_entries_are_accepted_and_digested_as_a_release_is() {
        let accepted = tree(vec![
            link("l", "a/b/f"),
            link("a/b/up", "../../l"),
            link("a/here", "."),
            link("a/dangling", "not/there"),
            file(vec![b'n', 0xff, b'\n'], 7),
        ])
        .expect("all of it stays inside");
        assert_eq!((accepted.entries().len(), accepted.bytes(), accepted.files().count()), (9, 8, 2));
        let entries: Vec<Entry> = accepted.entries().iter().map(of_tree).collect();
        assert_eq!(accepted.tree(), tree_digest(&entries));
        assert!(accepted.entries().is_sorted_by(|a, b| a.path < b.path));
    }

    #[test]
    fn hostile_entries_are_refused() {
        use EntryFault as F;
        let deep = vec!["d"; DEPTH_MAX + 1].join("/");
        let long = "x/".repeat(PATH_BYTES_MAX / 2) + "y";
        let with_mode = |mode, entry: Offered| Offered { mode, ..entry };
        for (entry, fault) in [
            (file("/etc/passwd", 2), F::Absolute),
            (file("a/../../x", 2), F::Step),
            (file("..", 2), F::Step),
            (file("a//x", 2), F::Step),
            (file("a/./x", 2), F::Step),
            (file("a/", 2), F::Step),
            (file("a/x\0y", 2), F::Nul),
            (file("n".repeat(NAME_BYTES_MAX + 1), 2), F::LongName),
            (file(long.as_str(), 2), F::LongPath),
            (file(deep.as_str(), 2), F::TooDeep),
            (file("", 2), F::TopIsNoDirectory),
            (link("", "a"), F::TopIsNoDirectory),
            (with_mode(0o4755, file("su", 2)), F::Mode(0o4755)),
            (with_mode(0o2755, directory("sg")), F::Mode(0o2755)),
            (with_mode(0o1777, directory("st")), F::Mode(0o1777)),
            (with_mode(0o10_0644, file("t", 2)), F::Mode(0o10_0644)),
            (with_mode(0o644, link("m", "a")), F::Mode(0o644)),
            (file("a/b/f", 1), F::Twice),
            (directory("a"), F::Twice),
            (file("a/b/f/under-a-file", 2), F::NoParent),
            (file("nowhere/x", 2), F::NoParent),
            (link("abs", "/etc/passwd"), F::Escapes("/etc/passwd".to_owned())),
            (link("up", ".."), F::Escapes("..".to_owned())),
            (link("a/b/up", "../../../x"), F::Escapes("../../../x".to_owned())),
            (link("wind", "a/../../x"), F::Winding("a/../../x".to_owned())),
            (link("inside", "a/../a"), F::Winding("a/../a".to_owned())),
            (link("empty", ""), F::EmptyTarget),
            (link("nul", "a\0b"), F::Nul),
            (link("long", "x".repeat(NAME_BYTES_MAX + 1)), F::LongName),
        ] {
            let told = tree(vec![entry.clone()]);
            assert!(
                matches!(&told, Err(OfferError::Entry { fault: found, .. }) if *found == fault),
                "{entry:?}: {told:?}"
            );
        }
        assert_eq!(offer(vec![directory("a")]), Err(OfferError::NoTop));
        assert_eq!(offer(Vec::new()), Err(OfferError::NoTop));
        assert_eq!(tree(vec![file("huge", BYTES_MAX)]), Err(OfferError::TooLarge));
        assert_eq!(tree(vec![file("huge", u64::MAX)]), Err(OfferError::TooLarge));
    }

    #[test]
    fn nothing_lies_below_a_link_and_no_content_has_two_sizes() {
        let below = tree(vec![link("l", "a"), file("l/x", 2)]).map_err(|error| error.to_string());
        assert_eq!(below.err().as_deref(), Some("`l/x` does not lie in a directory of the release"));
        let mut lie = file("lie", 1);
        if let OfferedKind::File(file) = &mut lie.kind {
            file.bytes = 2;
        }
        assert!(matches!(tree(vec![lie]), Err(OfferError::Entry { fault: EntryFault::TwoSizes, .. })));
    }

    #[test]
    fn long_paths_and_many_entries_are_bounded() {
        let mut builder = OfferBuilder::default();
        let added = (0..ENTRIES_MAX).try_for_each(|nth| builder.add(file(format!("{nth}"), 0)));
        assert_eq!((added, builder.len(), builder.is_empty()), (Ok(()), ENTRIES_MAX, false));
        assert_eq!(builder.add(file("more", 0)), Err(OfferError::TooMany));
        let mut builder = OfferBuilder::default();
        let long = "x/".repeat(40) + &"y".repeat(250) + "/";
        let stopped = (0..ENTRIES_MAX).find_map(|nth| builder.add(file(format!("{long}{nth}"), 0)).err());
        assert_eq!(stopped, Some(OfferError::LongPaths));
    }

    /// Follows a link as the kernel does; none when it leaves the release.
    fn stays(offer: &Offer, start: &Offered) -> bool {
        let kinds: HashMap<&[u8], &OfferedKind> =
            offer.entries().iter().map(|entry| (entry.path.as_slice(), &entry.kind)).collect();
        let OfferedKind::Link(target) = &start.kind else { return true };
        let mut at: Vec<Vec<u8>> = parent(&start.path).split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        at.retain(|part| !part.is_empty());
        let mut left: Vec<Vec<u8>> = target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
        for _ in 0..200 {
            let Some(part) = left.pop() else { return true };
            match part.as_slice() {
                b"" | b"." => {}
                b".." => {
                    if at.pop().is_none() {
                        return false;
                    }
                }
                _ => {
                    at.push(part);
                    if let Some(OfferedKind::Link(target)) = kinds.get(at.join(&b'/').as_slice()) {
                        at.pop();
                        left.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                    }
                }
            }
        }
        true
    }

    proptest! {
        #[test]
        fn no_link_of_an_accepted_offer_leaves_it(
            links in prop::collection::vec(("(a/|a/b/|a/b/c/)?[l-o]", "(\\.\\./|\\./|[abclmno]/){0,4}(\\.\\.|[abclmno])"), 1..6),
        ) {
            let mut entries = vec![directory(""), directory("a"), directory("a/b"), directory("a/b/c")];
            entries.extend(links.iter().map(|(path, target)| link(path, target.as_bytes())));
            if let Ok(offer) = offer(entries) {
                for entry in offer.entries() {
                    prop_assert!(stays(&offer, entry), "{entry:?} of {offer:?}");
                }
            }
        }

        #[test]
        fn any_path_is_accepted_or_refused_and_never_leads_outside(path in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut builder = OfferBuilder::default();
            if builder.add(file(path.clone(), 1)).is_ok() {
                prop_assert!(path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
                prop_assert!(!path.contains(&0));
            }
        }
    }
}
