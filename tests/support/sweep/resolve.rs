//! Finds out which file a stopped process is about to change.
#![expect(clippy::disallowed_methods, reason = "a stopped process is read through /proc")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::unistd::Pid;

use super::table::{Counts, Mutating, Place};

/// Flags that make an `open` change the disk.
const MAKING: u64 = (libc::O_CREAT | libc::O_TRUNC) as u64;

/// The six arguments of a call.
pub(super) type Arguments = [u64; 6];

/// Returns the first of the call's files that lies below one of `dirs`.
///
/// Paths are joined and tidied but their links are not followed, because a process in another
/// mount namespace cannot be asked where they lead.
pub(super) fn file_below(dirs: &[PathBuf], tid: Pid, row: &Mutating, arguments: &Arguments) -> Option<PathBuf> {
    if !counts(tid, row.counts, arguments) {
        return None;
    }
    row.places
        .iter()
        .filter_map(|place| locate(tid, *place, arguments))
        .find(|path| dirs.iter().any(|dir| path.starts_with(dir)))
}

fn counts(tid: Pid, counts: Counts, arguments: &Arguments) -> bool {
    match counts {
        Counts::Always => true,
        Counts::IfFlagsMake(at) => makes(arguments[at]),
        // `struct open_how` begins with its flags.
        Counts::IfFlagsMakeBehind(at) => memory(tid, arguments[at], size_of::<u64>())
            .and_then(|bytes| bytes.try_into().ok())
            .is_some_and(|bytes| makes(u64::from_ne_bytes(bytes))),
    }
}

fn makes(flags: u64) -> bool {
    // `O_TMPFILE` shares a bit with `O_DIRECTORY`, so all of its bits must be there.
    let tmpfile = libc::O_TMPFILE as u64;
    flags & MAKING != 0 || flags & tmpfile == tmpfile
}

fn locate(tid: Pid, place: Place, arguments: &Arguments) -> Option<PathBuf> {
    match place {
        Place::Fd(at) => descriptor(tid, arguments[at]),
        Place::Path(at) => {
            let path = text(tid, arguments[at])?;
            Some(absolute(tid, &link(tid, "cwd")?, &path))
        }
        Place::At(directory, at) => {
            // A null path (`utimensat`) or an empty one (`AT_EMPTY_PATH`) means the descriptor.
            let path = text(tid, arguments[at]).unwrap_or_default();
            Some(absolute(tid, &descriptor(tid, arguments[directory])?, &path))
        }
    }
}

fn descriptor(tid: Pid, argument: u64) -> Option<PathBuf> {
    // The kernel reads 32 bits of it.
    let fd = argument as u32 as i32;
    if fd == libc::AT_FDCWD {
        return link(tid, "cwd");
    }
    link(tid, &format!("fd/{fd}"))
}

fn absolute(tid: Pid, base: &Path, path: &Path) -> PathBuf {
    // A process in a chroot names its files from there.
    match path.strip_prefix("/") {
        Ok(below) => tidy(&link(tid, "root").unwrap_or_else(|| "/".into()).join(below)),
        Err(_) => tidy(&base.join(path)),
    }
}

fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(tidied.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                tidied.push(component);
            }
        }
    }
    tidied
}

fn link(tid: Pid, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{tid}/{name}")).ok()
}

fn text(tid: Pid, address: u64) -> Option<PathBuf> {
    let mut bytes = memory(tid, address, libc::PATH_MAX as usize)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// Reads up to `length` bytes; fewer where the process has no memory beyond.
fn memory(tid: Pid, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let file = File::open(format!("/proc/{tid}/mem")).ok()?;
    let read = file.read_at(&mut bytes, address).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{makes, tidy};
    use nix::libc;
    use std::path::Path;

    #[test]
    fn only_opens_that_make_or_truncate_count() {
        assert!(makes((libc::O_WRONLY | libc::O_CREAT) as u64));
        assert!(makes((libc::O_RDWR | libc::O_TRUNC) as u64));
        assert!(makes((libc::O_RDWR | libc::O_TMPFILE) as u64));
        assert!(!makes((libc::O_RDONLY | libc::O_DIRECTORY) as u64));
        assert!(!makes(libc::O_WRONLY as u64));
    }

    #[test]
    fn dots_are_taken_out_of_a_path() {
        assert_eq!(tidy(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }
}
