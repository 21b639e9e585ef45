//! Reads what is pushed, a directory or an archive, into an offer, and gives its contents.
//!
//! Nothing of an archive is ever unpacked: its contents go into one file without a name, its paths stay bytes.
#![expect(clippy::disallowed_methods, reason = "this module reads what is pushed")]

mod archive;
mod directory;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rollback::model::digest::Digest;
use rollback::model::offer::{Offer, OfferError};
use rollback::model::text::sanitize;

/// Longest path that is printed: the longest that the kernel takes.
const PATH_BYTES_MAX: usize = 4_096;
/// The one extended attribute that is left out without a word: labels of SELinux are the host's.
const LABEL: &str = "security.selinux";

/// What is pushed, read in full.
#[derive(Debug)]
pub struct Source {
    /// Every entry.
    pub offer: Offer,
    contents: HashMap<Digest, Place>,
    /// The contents of an archive, one behind the other.
    spool: Option<File>,
}

/// Where a content is.
#[derive(Debug)]
enum Place {
    /// In a file of the directory.
    File(PathBuf),
    /// In the spool, from here on.
    Spooled { offset: u64, bytes: u64 },
}

/// Says why something cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Reading failed.
    #[error("cannot {attempt} `{path}`")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry is neither file nor directory nor link, or has what a release cannot have.
    #[error("`{path}` {what}")]
    Entry {
        /// The entry.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The archive is larger than any that is meant.
    #[error("the archive unpacks to more than {0} bytes, {EXPANSION_MAX} times its size")]
    Bomb(u64),
    /// It is not fit for a release.
    #[error("it cannot be pushed")]
    Offer(#[from] OfferError),
}

/// How much larger than itself an archive may become: far above what programs and texts do.
pub const EXPANSION_MAX: u64 = 200;

impl SourceError {
    fn io(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { attempt, path: path.display().to_string(), source }
    }

    fn entry(path: &[u8], what: impl Into<String>) -> Self {
        Self::Entry { path: printable(path), what: what.into() }
    }
}

/// Reads a directory, or an archive: `tar`, `tar.gz` or `tar.zst`, told by its content. From the paths of an archive the
/// first `strip` parts are left out.
///
/// Blocks on the disk, and hashes on all cores.
///
/// # Errors
/// When it cannot be read, or has something that no release may have.
pub fn read(path: &Path, strip: usize) -> Result<Source, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|error| SourceError::io("read", path, error))?;
    if metadata.is_dir() { directory::read(path) } else { archive::read(path, strip) }
}

impl Source {
    /// Reads a content in pieces of at most `piece_bytes`; `take` gets each, and ends the reading by `false`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pieces(
        &self,
        content: &Digest,
        piece_bytes: usize,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<(), SourceError> {
        let place = self.contents.get(content).ok_or_else(|| {
            SourceError::entry(content.short().as_bytes(), "is asked for by the agent, and was not offered")
        })?;
        match (place, &self.spool) {
            (Place::File(path), _) => {
                let failed = |error| SourceError::io("read", path, error);
                let mut file = File::open(path).map_err(failed)?;
                loop {
                    let mut piece = Vec::new();
                    let limit = piece_bytes as u64;
                    if file.by_ref().take(limit).read_to_end(&mut piece).map_err(failed)? == 0 || !take(piece) {
                        return Ok(());
                    }
                }
            }
            (Place::Spooled { offset, bytes }, Some(spool)) => {
                let mut at = 0;
                while at < *bytes {
                    let count = usize::try_from(*bytes - at).unwrap_or(piece_bytes).min(piece_bytes);
                    let mut piece = vec![0; count];
                    spool
                        .read_exact_at(&mut piece, offset + at)
                        .map_err(|error| SourceError::io("read", Path::new("the unpacked archive"), error))?;
                    at += count as u64;
                    if !take(piece) {
                        break;
                    }
                }
                Ok(())
            }
            (Place::Spooled { .. }, None) => unreachable!("only archives have spooled contents, and they have a spool"),
        }
    }
}

fn printable(path: &[u8]) -> String {
    sanitize(path, PATH_BYTES_MAX).replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
