//! Files of the state directory, written so that a crash leaves the old one or the new one.

#![expect(clippy::disallowed_methods, reason = "this module writes files of the state directory")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::ports::PortError;

/// Writes a file of the state directory: temporary file, fsync, rename, fsync of the directory.
///
/// The temporary name is fixed, so a crash leaves at most one, which the next write takes over.
pub(crate) fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), PortError> {
    let path = directory.join(name);
    let attempt = || format!("cannot write `{}`", path.display());
    let temporary = directory.join(format!(".{name}.tmp"));
    make_directory(directory)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&temporary)
        .map_err(|error| PortError::failed(attempt(), error))?;
    file.write_all(bytes).map_err(|error| PortError::failed(attempt(), error))?;
    file.sync_all().map_err(|source| PortError::Durability { attempt: attempt(), source })?;
    std::fs::rename(&temporary, &path).map_err(|error| PortError::failed(attempt(), error))?;
    sync_directory(directory, attempt)
}

/// Makes a directory of the state directory, and those above it, for the agent's eyes only.
pub(crate) fn make_directory(directory: &Path) -> Result<(), PortError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| PortError::failed(format!("cannot make directory `{}`", directory.display()), error))
}

/// Flushes a directory.
pub(crate) fn sync_directory(directory: &Path, attempt: impl Fn() -> String) -> Result<(), PortError> {
    let opened = File::open(directory).map_err(|error| PortError::failed(attempt(), error))?;
    opened.sync_all().map_err(|source| PortError::Durability { attempt: attempt(), source })
}
