//! The name under which a fleet exists, and the removal of fleets whose test process is dead.
#![expect(
    clippy::disallowed_methods,
    reason = "leases are locked files, and what a dead process left is removed from the disk"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::HostError;
use crate::run::output;
use crate::wait::wait_until;

/// Holds one locked file per living fleet, with the place of its disks in it.
const LEASES: &str = "/run/rollback-tests";

/// How long the kernel may take to empty a killed cgroup; it needs milliseconds.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);

/// Tells the fleets of this process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fleet's claim on its names. The lock on the file ends with the process, however it ends.
#[derive(Debug)]
pub(super) struct Lease {
    tag: String,
    number: u8,
    dir: PathBuf,
    _locked: File,
}

impl Lease {
    /// Takes a new name, with a directory of that name below `disks`.
    pub(super) fn take(disks: &Path) -> Result<Self, HostError> {
        let sequence = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = process::id();
        let tag = format!("rb-{pid}-{sequence}");
        let dir = disks.join(format!("rollback-hosts-{pid}-{sequence}"));
        // The networks of two fleets never meet; different numbers only make logs readable.
        let number = u8::try_from((pid + sequence) % 250).unwrap_or_default();

        let file = Path::new(LEASES).join(&tag);
        let locked = (|| {
            fs::create_dir_all(LEASES)?;
            // It gets its name only once it is locked, or another `up` would take it for dead.
            let unnamed = Path::new(LEASES).join(format!(".{tag}"));
            fs::write(&unnamed, dir.to_string_lossy().as_bytes())?;
            let locked = File::open(&unnamed)?;
            locked.lock()?;
            fs::rename(&unnamed, &file)?;
            Ok(locked)
        })()
        .map_err(io_error("lease", &file))?;
        fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
        Ok(Self { tag, number, dir, _locked: locked })
    }

    /// Begins the name of everything that belongs to the fleet.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// The number of the fleet's network.
    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The directory of the fleet's disks.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        remove(&self.tag, &self.dir);
    }
}

/// Removes every fleet whose process is dead.
pub(super) fn sweep() {
    for entry in fs::read_dir(LEASES).into_iter().flatten().flatten() {
        let tag = entry.file_name().to_string_lossy().into_owned();
        if tag.starts_with('.') {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if file.try_lock().is_ok()
            && let Ok(dir) = fs::read_to_string(entry.path())
        {
            remove(&tag, Path::new(&dir));
        }
    }
}

/// Ends and removes whatever there is under `tag`. Does what it can: the next sweep does the rest.
fn remove(tag: &str, dir: &Path) {
    let prefix = format!("{tag}-");
    if let Some(tree) = cgroup_tree() {
        for cgroup in entries(tree, &prefix) {
            drop(fs::write(cgroup.join("cgroup.kill"), "1"));
            drop(wait_until(EMPTY_LIMIT, "a cgroup to go", || {
                remove_cgroup(&cgroup);
                !cgroup.exists()
            }));
        }
    }
    for namespace in entries(Path::new("/run/netns"), &prefix) {
        let name = namespace.file_name().unwrap_or_default().to_string_lossy();
        drop(output(&["ip", "netns", "del", &name]));
    }
    drop(fs::remove_dir_all(dir));
    if !dir.exists() {
        drop(fs::remove_file(Path::new(LEASES).join(tag)));
    }
}

/// The machine's cgroup2 tree, where hosts get their part of it.
pub(super) fn cgroup_tree() -> Option<&'static Path> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(Path::new)
        .into_iter()
        .find(|tree| tree.join("cgroup.procs").exists())
}

fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    drop(fs::remove_dir(cgroup));
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Turns an `io::Error` into one that names the file.
pub(super) fn io_error(attempt: &'static str, path: &Path) -> impl Fn(std::io::Error) -> HostError + use<> {
    let path = path.to_owned();
    move |source| HostError::Io { attempt, path: path.clone(), source }
}
