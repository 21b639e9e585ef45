//! What is on a host's disk before it boots for the first time.
#![expect(clippy::disallowed_methods, reason = "a host's disk is written before the host is there to do it")]

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{FsWord, XattrFlags, setxattr};

use super::HostError;
use super::lease::io_error;

/// How `statfs` names an overlay.
pub(super) const OVERLAY_MAGIC: FsWord = 0x794c_7630;

/// Where a host boots to: D-Bus, the journal, and what the test adds.
const FLEET_TARGET: &str = "[Unit]
Description=Everything a host of the test fleet needs
Requires=basic.target dbus.service
After=basic.target dbus.service
AllowIsolate=yes
";

/// Units that would set what all hosts share, or wait for hardware that none has.
const MASKED: &[&str] = &[
    "systemd-modules-load.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-udevd.service",
];

/// What this machine has installed or logged must not be seen in a new host.
const HIDDEN: &[&str] = &["etc/systemd/system", "var/log/journal"];

/// Who a host is.
pub(super) struct Identity<'a> {
    pub(super) name: &'a str,
    pub(super) machine_id: &'a str,
    /// Name and address of every host of the fleet.
    pub(super) neighbours: &'a [(String, IpAddr)],
}

/// Lays out the directories of a host below `dir`: its disk, and what the overlay needs beside it.
pub(super) fn lay_out(dir: &Path, identity: &Identity<'_>) -> Result<(), HostError> {
    fill(dir, identity).map_err(io_error("lay out the disk in", dir))
}

fn fill(dir: &Path, identity: &Identity<'_>) -> std::io::Result<()> {
    let disk = dir.join("disk");
    for directory in ["disk", "root"] {
        fs::create_dir_all(dir.join(directory))?;
    }
    for hidden in HIDDEN {
        let hidden = disk.join(hidden);
        fs::create_dir_all(&hidden)?;
        setxattr(&hidden, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for (name, address) in identity.neighbours {
        writeln!(hosts, "{address} {name}").map_err(std::io::Error::other)?;
    }
    let etc = disk.join("etc");
    fs::write(etc.join("hosts"), hosts)?;
    fs::write(etc.join("hostname"), format!("{}\n", identity.name))?;
    fs::write(etc.join("machine-id"), format!("{}\n", identity.machine_id))?;
    let units = etc.join("systemd/system");
    fs::write(units.join("fleet.target"), FLEET_TARGET)?;
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    Ok(())
}

/// Empties the overlay's scratch directory, which must not survive a crash.
pub(super) fn clear_work(dir: &Path) -> Result<(), HostError> {
    let work = dir.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(io_error("remove", &work))?;
    }
    fs::create_dir(&work).map_err(io_error("make", &work))
}

/// Writes out everything on the file system of `dir`.
pub(super) fn sync(dir: &Path) -> Result<(), HostError> {
    let failed = io_error("sync", dir);
    let dir = fs::File::open(dir).map_err(&failed)?;
    rustix::fs::syncfs(dir).map_err(|errno| failed(errno.into()))
}

/// Raises a variable of the kernel to `minimum`, if it is lower.
pub(super) fn raise(variable: &str, minimum: u64) -> Result<(), HostError> {
    let path = Path::new(variable);
    let now = fs::read_to_string(path).map_err(io_error("read", path))?;
    if now.trim().parse().is_ok_and(|now: u64| now >= minimum) {
        return Ok(());
    }
    fs::write(path, minimum.to_string()).map_err(io_error("raise", path))
}
