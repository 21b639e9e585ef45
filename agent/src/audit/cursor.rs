//! The cursor of the audit: the last record that journald took, in a small file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rollback::model::digest::Digest;

use crate::ports::PortError;

/// The last record that was forwarded; sequence 0 when none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// Its digest, which tells whether the history still has it.
    pub(crate) digest: Digest,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { sequence: 0, digest: Digest::from_bytes([0; 32]) }
    }
}

/// Reads a cursor; one that is missing or cannot be read is the beginning, since sending twice is better than not.
pub(crate) fn read(path: &Path) -> Cursor {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot read the audit's cursor, all records are sent again");
            }
            return Cursor::default();
        }
    };
    let parsed = text
        .trim_end()
        .split_once(' ')
        .and_then(|(sequence, digest)| Some(Cursor { sequence: sequence.parse().ok()?, digest: digest.parse().ok()? }));
    parsed.unwrap_or_else(|| {
        tracing::warn!(path = %path.display(), "the audit's cursor is not one, all records are sent again");
        Cursor::default()
    })
}

/// Writes a cursor durably: after a crash the file holds either this one or the one before.
///
/// # Errors
/// When the file cannot be written or flushed.
pub(crate) fn write(path: &Path, cursor: &Cursor) -> Result<(), PortError> {
    let new = path.with_extension("cursor.new");
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(file, "{} {}", cursor.sequence, cursor.digest)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    written().map_err(|error| PortError::failed(format!("cannot write the audit's cursor {}", path.display()), error))
}
