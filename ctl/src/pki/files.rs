//! Files of an authority: private directories, keys that nobody else can read, replaced as a whole or not at all.

#![expect(clippy::disallowed_methods, reason = "this module is the authority's disk")]

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// Largest file that is read: an index of some 10,000 certificates.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Mode of keys and of the index.
pub(crate) const SECRET: u32 = 0o600;
/// Mode of certificates and lists, which are copied to hosts.
pub(crate) const PUBLIC: u32 = 0o644;

/// Makes a directory and its parents that only its owner can enter; one that exists is left as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts bytes in place of a file, durably: afterwards, also after a crash, it holds all of them or what it held before.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(directory)?;
    // The umask has had its say about the mode above; this one is exact.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Reads a text.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    text(File::open(path)?)
}

/// Reads a key; refuses one that others can read.
pub(crate) fn read_key(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let why = format!("it has mode {mode:04o}: only its owner may read a key, `chmod 0600` it");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    text(file)
}

fn text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Takes the lock of a directory: none when another process has it. It is given back when the file is dropped.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
