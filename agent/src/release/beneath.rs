//! Opens what lies below a directory without ever following a link out of it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// Opens a directory by its path. Links in the path are followed: the configuration vouches for them.
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory at `path` below `root`; an empty path is `root` itself. No part of the path may be a link.
pub(super) fn directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Makes the file at `path` below `root`, which must not be there, for its owner alone. No part of the path may be a link.
pub(super) fn create(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let (parent, name) = split(path);
    create_in(directory(root, parent)?.as_fd(), name)
}

/// Makes the file `name` in a directory, as [`create`] does.
pub(super) fn create_in(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?)
}

/// Ensures that `path` below `root` is a directory that its owner may write, and opens it. No part may be a link.
pub(super) fn make_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let (parent, name) = split(path);
    let parent = directory(root, parent)?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = directory(parent.as_fd(), name)?;
    rustix::fs::fchmod(&made, Mode::RWXU)?;
    Ok(made)
}

/// Removes `name` with all that lies below it; links are removed and never followed. What is not there is removed.
///
/// # Errors
/// When something stays, or directories are nested deeper than `depth_max`.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &[u8], depth_max: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) if depth_max > 0 => {}
        Err(error) => return Err(error.into()),
    }
    let opened = directory(parent, name)?;
    rustix::fs::fchmod(&opened, Mode::RWXU)?;
    for below in names(opened.as_fd(), usize::MAX)? {
        remove(opened.as_fd(), &below, depth_max - 1)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Splits a path into that of its directory and its name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Opens the file at `path` below `root` for reading. No part of the path may be a link; a FIFO does not block.
pub(super) fn file(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6 have no such call, and old seccomp profiles refuse it with one of these two.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(root, path, flags),
        opened => Ok(opened?),
    }
}

/// Does what `openat2` does, one directory at a time.
fn open_by_steps(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(root, ".", step, Mode::empty())?;
    let mut parts = path.split(|byte| *byte == b'/').filter(|part| *part != b".").peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part == b".." {
            return Err(Errno::XDEV.into());
        }
        if parts.peek().is_none() {
            return Ok(rustix::fs::openat(&at, part, flags, Mode::empty())?);
        }
        at = rustix::fs::openat(&at, part, step, Mode::empty())?;
    }
    Ok(rustix::fs::openat(&at, ".", flags, Mode::empty())?)
}

/// Reads a regular file below `root` of at most `bytes_max` bytes.
///
/// # Errors
/// When it is no regular file, is larger, or cannot be read.
pub(super) fn read(root: BorrowedFd<'_>, path: &[u8], bytes_max: u64) -> io::Result<Vec<u8>> {
    read_regular(file(root, path)?, bytes_max)
}

/// Reads an open file of at most `bytes_max` bytes.
///
/// # Errors
/// When it is no regular file, is larger, or cannot be read.
pub(super) fn read_regular(file: OwnedFd, bytes_max: u64) -> io::Result<Vec<u8>> {
    if kind(&stat_open(file.as_fd())?) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Gives the names in a directory, without `.` and `..`, in no particular order.
///
/// # Errors
/// When the directory cannot be read or has more than `names_max` names.
pub(super) fn names(directory: BorrowedFd<'_>, names_max: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() == names_max {
            return Err(io::Error::other(format!("more than {names_max} entries")));
        }
        names.push(name.to_vec());
    }
    Ok(names)
}

/// Reads a link's target; none when `name` is no link.
pub(super) fn link_target(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match rustix::fs::readlinkat(directory, name, Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the metadata of `name` in a directory; a link is not followed.
pub(super) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// Reads the metadata of `path` seen from a directory; links are followed.
pub(super) fn stat_following(directory: BorrowedFd<'_>, path: &Path) -> Result<Statx, Errno> {
    rustix::fs::statx(directory, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
}

/// Reads the metadata of an open file.
pub(super) fn stat_open(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// Tells the type that metadata names.
pub(super) fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Takes bytes as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_opening_refuse_links_and_escapes() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("tree/sub")).unwrap();
        std::fs::write(home.path().join("tree/sub/file"), "in").unwrap();
        std::fs::write(home.path().join("secret"), "out").unwrap();
        std::os::unix::fs::symlink("../secret", home.path().join("tree/link")).unwrap();
        std::os::unix::fs::symlink("sub", home.path().join("tree/inner")).unwrap();
        let root = open_directory(&home.path().join("tree")).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for path in ["link", "../secret", "inner/file", "/etc/hostname", "sub/../../secret"] {
            assert!(file(root.as_fd(), path.as_bytes()).is_err(), "{path}");
            assert!(open_by_steps(root.as_fd(), path.as_bytes(), flags).is_err(), "{path}");
        }
        for opened in [file(root.as_fd(), b"sub/file"), open_by_steps(root.as_fd(), b"sub/file", flags)] {
            assert_eq!(read_regular(opened.unwrap(), 10).unwrap(), b"in");
        }
        assert!(open_by_steps(root.as_fd(), b".", flags | OFlags::DIRECTORY).is_ok());
        assert!(read(root.as_fd(), b"sub/file", 1).is_err());
    }

    #[test]
    fn what_is_made_or_removed_lies_below_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("tree/sub/deep")).unwrap();
        std::fs::create_dir(home.path().join("kept")).unwrap();
        std::fs::write(home.path().join("kept/file"), "kept").unwrap();
        std::os::unix::fs::symlink("../kept", home.path().join("tree/out")).unwrap();
        std::os::unix::fs::symlink("../../kept", home.path().join("tree/sub/out")).unwrap();
        let root = open_directory(&home.path().join("tree")).unwrap();
        assert!(create(root.as_fd(), b"out/new").is_err() && create(root.as_fd(), b"../new").is_err());
        assert!(make_directory(root.as_fd(), b"out").is_err() && make_directory(root.as_fd(), b"out/new").is_err());
        assert!(create(root.as_fd(), b"sub/new").is_ok() && create(root.as_fd(), b"sub/new").is_err());
        assert!(make_directory(root.as_fd(), b"sub/made").is_ok() && make_directory(root.as_fd(), b"sub/made").is_ok());
        assert!(remove(root.as_fd(), b"sub", 1).is_err(), "it is nested deeper than that");
        remove(root.as_fd(), b"sub", 2).unwrap();
        remove(root.as_fd(), b"sub", 2).unwrap();
        remove(root.as_fd(), b"out", 2).unwrap();
        assert_eq!(names(root.as_fd(), 10).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(std::fs::read(home.path().join("kept/file")).unwrap(), b"kept");
    }
}
