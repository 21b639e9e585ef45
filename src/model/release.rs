//! A release: one immutable directory of a component, described by a manifest that lies outside of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::ids::{ReleaseId, Version};
use super::text::Text;

/// How a directory became a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was found on the host and taken as it was.
    Adopted,
    /// The agent laid it down.
    Pushed,
}

/// What is known of a release besides its files: written once, when the release is laid down or adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name of the directory.
    pub id: ReleaseId,
    /// What people call it.
    pub version: Option<Version>,
    /// The commit that it was built from, 7 to 64 hexadecimal digits.
    pub git_sha: Option<String>,
    /// When the release was made, as far as its directory tells.
    pub created_at: Timestamp,
    /// Who made it: an identity, or the owner of the directory.
    pub created_by: String,
    /// When the manifest was written.
    pub recorded_at: Timestamp,
    /// How it got here.
    pub origin: Origin,
    /// The bytes of all regular files.
    pub bytes: u64,
    /// The number of entries: files, links and directories.
    pub entries: u64,
    /// The digest over paths, types, modes, link targets and contents.
    pub tree: Digest,
    /// The digest of the frozen configuration, when the component has one.
    pub configuration: Option<Digest>,
    /// What its maker says of it.
    pub notes: Option<Text>,
}

/// Tells whether a text names a commit: 7 to 64 hexadecimal digits.
#[must_use]
pub fn is_git_sha(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The kind of an entry of a release's tree, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file with the digest of its content.
    File(Digest),
    /// A symbolic link with its target, byte for byte.
    Link(Vec<u8>),
}

/// One entry of a release's tree, as the tree digest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path below the release's directory, byte for byte, without a leading slash; empty for the directory itself.
    pub path: Vec<u8>,
    /// The permission bits (`mode & 0o7777`).
    pub mode: u32,
    /// The kind.
    pub kind: EntryKind,
}

/// Names the layout that [`tree_digest`] hashes; another layout gets another name.
const TREE_CONTEXT: &str = "rollback 2026-11 release tree v1";

/// Digests a tree over the paths, types, modes, link targets and contents of its entries.
///
/// Takes the entries in any order; they are hashed in the order of their paths' bytes. Every part is preceded by its
/// length, so that no two different trees have the same input. Times and owners do not count: a copy is the same
/// release.
#[must_use]
pub fn tree_digest(entries: &[Entry]) -> Digest {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut hasher = blake3::Hasher::new_derive_key(TREE_CONTEXT);
    let part = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for entry in sorted {
        part(&mut hasher, &entry.path);
        hasher.update(&entry.mode.to_le_bytes());
        match &entry.kind {
            EntryKind::Directory => part(&mut hasher, b"d"),
            EntryKind::File(content) => {
                part(&mut hasher, b"f");
                part(&mut hasher, content.as_bytes());
            }
            EntryKind::Link(target) => {
                part(&mut hasher, b"l");
                part(&mut hasher, target);
            }
        }
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Whether the files of a release are still those that were laid down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Integrity {
    /// The tree digest stands; the reading that says so was made then.
    Intact {
        /// When all contents were last read.
        read_at: Timestamp,
    },
    /// Something differs; at most [`DIFFERENCES_MAX`] are named.
    Damaged {
        /// What differs, by file.
        differences: Vec<Difference>,
        /// How many more differ than are named.
        more: u64,
    },
    /// The release cannot be judged: its manifest or index is missing or unreadable.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Differences named at most: enough to see a pattern, small enough for a reply.
pub const DIFFERENCES_MAX: usize = 50;

/// One entry of a release that is not as it was laid down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The path below the release, made safe to print.
    pub path: String,
    /// What differs.
    pub what: DifferenceKind,
}

/// What differs at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// It is gone.
    Missing,
    /// It was not there.
    Added,
    /// Its content differs.
    Content,
    /// Its permission bits differ.
    Mode,
    /// Its type differs.
    Type,
    /// Its link target differs.
    Target,
}

/// A digest that may not be activated again, until someone lifts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Why.
    pub reason: Text,
    /// By whom: an identity, or `agent`.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32, content: &str) -> Entry {
        Entry { path: path.into(), mode, kind: EntryKind::File(Digest::of(content.as_bytes())) }
    }

    #[test]
    fn tree_digest_ignores_order_and_sees_every_part() {
        let base = vec![file("a", 0o644, "1"), file("b", 0o644, "2")];
        let digest = tree_digest(&base);
        assert_eq!(digest, tree_digest(&[base[1].clone(), base[0].clone()]));
        let link = |target: &str| Entry { path: "b".into(), mode: 0o777, kind: EntryKind::Link(target.into()) };
        for other in [
            vec![file("a", 0o644, "1")],
            vec![file("a", 0o755, "1"), file("b", 0o644, "2")],
            vec![file("a", 0o644, "2"), file("b", 0o644, "1")],
            vec![file("a", 0o644, "1"), file("c", 0o644, "2")],
            vec![file("a", 0o644, "1"), link("x")],
            vec![file("a", 0o644, "1"), link("y")],
        ] {
            assert_ne!(digest, tree_digest(&other), "{other:?}");
        }
    }
}
