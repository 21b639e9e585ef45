//! Disks in a file, ext4 or XFS, that can lose their power at any moment.
//!
//! A file system that another mount namespace of the machine still holds stays alive after its
//! power was cut, and the test then judges a disk that never died. So tests with images run
//! under [`privately`].
#![expect(clippy::disallowed_methods, reason = "this module makes disks")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::run::{RunError, output, run};
use crate::wait::wait_until;

/// How long an unmount is tried again while killed processes let go of their files.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// Which file system lies in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Forgives much: it hides a missing fsync before a rename.
    Ext4,
    /// Forgives little.
    Xfs,
}

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct ImageSpec {
    /// The file system.
    pub file_system: FileSystem,
    /// Size of the (sparse) image file.
    pub size_mib: u64,
    /// Number of inodes of an ext4 image, to run out of them.
    pub inodes: Option<u32>,
}

impl ImageSpec {
    /// An ext4 of 64 MiB.
    pub const EXT4: Self = Self { file_system: FileSystem::Ext4, size_mib: 64, inodes: None };
    /// The smallest XFS that `mkfs.xfs` agrees to make.
    pub const XFS: Self = Self { file_system: FileSystem::Xfs, size_mib: 300, inodes: None };
}

/// Says what could not be done to an image.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} image {image}")]
pub struct ImageError {
    attempt: &'static str,
    image: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// One mounted image; unmounted and removed when dropped.
#[derive(Debug)]
pub struct Image {
    file: PathBuf,
    mount_point: PathBuf,
}

impl Image {
    /// Makes and mounts an image; both its file and its mount point lie in `dir`.
    ///
    /// # Errors
    /// When a tool is missing, the caller is not root, or no loop device is free.
    pub fn create(dir: &Path, name: &str, spec: ImageSpec) -> Result<Self, ImageError> {
        let image = Self { file: dir.join(format!("{name}.img")), mount_point: dir.join(name) };
        image.lay_out(spec).map_err(|source| image.error("make", source))?;
        image.mount()?;
        Ok(image)
    }

    /// The directory where the image is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Takes the power away: what was not yet on the disk is lost, and every later call fails.
    ///
    /// # Errors
    /// When the file system refuses to shut down.
    pub fn cut_power(&self) -> Result<(), ImageError> {
        cut_power(&self.mount_point).map_err(|source| self.error("cut the power of", source))
    }

    /// Mounts the image anew, as a machine does that gets its power back.
    ///
    /// # Errors
    /// When something still uses the image, or its file system cannot be recovered.
    pub fn remount(&self) -> Result<(), ImageError> {
        self.unmount()?;
        self.mount()
    }

    fn lay_out(&self, spec: ImageSpec) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        fs::create_dir_all(&self.mount_point)?;
        File::create(&self.file)?.set_len(spec.size_mib << 20)?;
        let file = self.file.to_string_lossy().into_owned();
        let inodes = spec.inodes.map(|n| n.to_string());
        let mut words = match spec.file_system {
            FileSystem::Ext4 => vec!["mkfs.ext4", "-q", "-F"],
            FileSystem::Xfs => vec!["mkfs.xfs", "-q", "-f"],
        };
        if let Some(inodes) = &inodes {
            words.extend(["-N", inodes]);
        }
        words.push(&file);
        run(&words)?;
        Ok(())
    }

    fn mount(&self) -> Result<(), ImageError> {
        let (file, point) = (self.file.to_string_lossy(), self.mount_point.to_string_lossy());
        run(&["mount", "-o", "loop", &file, &point]).map(drop).map_err(|source| self.error("mount", source))
    }

    fn unmount(&self) -> Result<(), ImageError> {
        let point = self.mount_point.to_string_lossy();
        wait_until(UNMOUNT_LIMIT, "everything to let go of the image", || {
            output(&["umount", &point]).is_ok_and(|done| done.status.success())
        })
        .map_err(|source| self.error("unmount", source))
    }

    fn error(&self, attempt: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImageError {
        ImageError { attempt, image: self.file.clone(), source: source.into() }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left a process in it, and must not hang here.
        drop(output(&["umount", "-l", &self.mount_point.to_string_lossy()]));
        drop(fs::remove_file(&self.file));
        drop(fs::remove_dir(&self.mount_point));
    }
}

/// Shuts down the file system mounted at `mount_point` without flushing its log.
///
/// This is what the tracer calls too. ext4 and XFS obey; btrfs and overlays refuse.
pub(crate) fn cut_power(mount_point: &Path) -> Result<(), RunError> {
    run(&["xfs_io", "-x", "-c", "shutdown", &mount_point.to_string_lossy()]).map(drop)
}

/// Says why images cannot be made on this machine, if they cannot.
///
/// # Errors
/// The reason, in words for `skipped`.
pub fn available() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    for tool in ["mkfs.ext4", "mkfs.xfs", "xfs_io", "mount"] {
        if output(&[tool, "-V"]).is_err() {
            return Err(format!("needs `{tool}`"));
        }
    }
    Ok(())
}

/// Gives the calling thread a mount namespace of its own.
///
/// Threads and processes that it starts from now on share it; the rest of this process does
/// not. There is no way back for the thread, so prefer [`privately`].
///
/// # Errors
/// When the caller is not root.
pub fn enter_private_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// Runs `test` on a thread of its own with mounts of its own, which end with it.
///
/// # Panics
/// When `test` does, or when the caller is not root.
pub fn privately<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let run = || {
        enter_private_mounts().expect("`available` has said that this is root");
        test()
    };
    match thread::scope(|scope| scope.spawn(run).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
