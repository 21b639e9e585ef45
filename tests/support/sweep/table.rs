//! Which system calls change a disk, and where their arguments name what they change.

use nix::libc;

/// Where a call names a file that it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The argument is a file descriptor.
    Fd(usize),
    /// The argument is a path, relative to the working directory.
    Path(usize),
    /// The first argument is a directory's descriptor, the second a path relative to it.
    At(usize, usize),
}

/// When a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Always.
    Always,
    /// Only if the flags in this argument make or truncate a file.
    IfFlagsMake(usize),
    /// As `IfFlagsMake`, with the flags in the memory that the argument points to (`openat2`).
    IfFlagsMakeBehind(usize),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mutating {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) places: &'static [Place],
    pub(super) counts: Counts,
}

const fn row(number: i64, name: &'static str, places: &'static [Place]) -> Mutating {
    Mutating { number, name, places, counts: Counts::Always }
}

const fn open(number: i64, name: &'static str, place: &'static [Place], when: Counts) -> Mutating {
    Mutating { number, name, places: place, counts: when }
}

const FD: &[Place] = &[Place::Fd(0)];
const PATH: &[Place] = &[Place::Path(0)];
const AT: &[Place] = &[Place::At(0, 1)];

/// Returns the row of a system call, if it changes a disk.
pub(super) fn mutating(number: u64) -> Option<&'static Mutating> {
    TABLE.iter().find(|row| u64::try_from(row.number) == Ok(number))
}

/// Every call that changes what a disk holds, or orders what reaches it.
///
/// Three ways to change a file are not seen: a shared memory mapping (SQLite's `-shm` file, which
/// carries no promise across a crash), io_uring, and the `ioctl` that clones a file.
const TABLE: &[Mutating] = &[
    // Making and removing names.
    open(libc::SYS_open, "open", PATH, Counts::IfFlagsMake(1)),
    open(libc::SYS_openat, "openat", AT, Counts::IfFlagsMake(2)),
    open(libc::SYS_openat2, "openat2", AT, Counts::IfFlagsMakeBehind(2)),
    row(libc::SYS_creat, "creat", PATH),
    row(libc::SYS_mkdir, "mkdir", PATH),
    row(libc::SYS_mkdirat, "mkdirat", AT),
    row(libc::SYS_mknod, "mknod", PATH),
    row(libc::SYS_mknodat, "mknodat", AT),
    row(libc::SYS_rmdir, "rmdir", PATH),
    row(libc::SYS_unlink, "unlink", PATH),
    row(libc::SYS_unlinkat, "unlinkat", AT),
    row(libc::SYS_symlink, "symlink", &[Place::Path(1)]),
    row(libc::SYS_symlinkat, "symlinkat", &[Place::At(1, 2)]),
    row(libc::SYS_link, "link", &[Place::Path(1), Place::Path(0)]),
    row(libc::SYS_linkat, "linkat", &[Place::At(2, 3), Place::At(0, 1)]),
    row(libc::SYS_rename, "rename", &[Place::Path(1), Place::Path(0)]),
    row(libc::SYS_renameat, "renameat", &[Place::At(2, 3), Place::At(0, 1)]),
    row(libc::SYS_renameat2, "renameat2", &[Place::At(2, 3), Place::At(0, 1)]),
    // Bytes.
    row(libc::SYS_write, "write", FD),
    row(libc::SYS_pwrite64, "pwrite64", FD),
    row(libc::SYS_writev, "writev", FD),
    row(libc::SYS_pwritev, "pwritev", FD),
    row(libc::SYS_pwritev2, "pwritev2", FD),
    row(libc::SYS_sendfile, "sendfile", FD),
    row(libc::SYS_splice, "splice", &[Place::Fd(2)]),
    row(libc::SYS_copy_file_range, "copy_file_range", &[Place::Fd(2)]),
    row(libc::SYS_truncate, "truncate", PATH),
    row(libc::SYS_ftruncate, "ftruncate", FD),
    row(libc::SYS_fallocate, "fallocate", FD),
    // Order.
    row(libc::SYS_fsync, "fsync", FD),
    row(libc::SYS_fdatasync, "fdatasync", FD),
    row(libc::SYS_sync_file_range, "sync_file_range", FD),
    row(libc::SYS_syncfs, "syncfs", FD),
    // What is known of a file.
    row(libc::SYS_chmod, "chmod", PATH),
    row(libc::SYS_fchmod, "fchmod", FD),
    row(libc::SYS_fchmodat, "fchmodat", AT),
    row(libc::SYS_fchmodat2, "fchmodat2", AT),
    row(libc::SYS_chown, "chown", PATH),
    row(libc::SYS_lchown, "lchown", PATH),
    row(libc::SYS_fchown, "fchown", FD),
    row(libc::SYS_fchownat, "fchownat", AT),
    row(libc::SYS_utime, "utime", PATH),
    row(libc::SYS_utimes, "utimes", PATH),
    row(libc::SYS_futimesat, "futimesat", AT),
    row(libc::SYS_utimensat, "utimensat", AT),
    row(libc::SYS_setxattr, "setxattr", PATH),
    row(libc::SYS_lsetxattr, "lsetxattr", PATH),
    row(libc::SYS_fsetxattr, "fsetxattr", FD),
    row(libc::SYS_removexattr, "removexattr", PATH),
    row(libc::SYS_lremovexattr, "lremovexattr", PATH),
    row(libc::SYS_fremovexattr, "fremovexattr", FD),
];

#[cfg(test)]
mod tests {
    use super::TABLE;
    use std::collections::HashSet;

    #[test]
    fn every_call_has_one_row() {
        let numbers: HashSet<i64> = TABLE.iter().map(|row| row.number).collect();
        assert_eq!(numbers.len(), TABLE.len());
        assert!(TABLE.iter().all(|row| !row.places.is_empty()));
    }
}
