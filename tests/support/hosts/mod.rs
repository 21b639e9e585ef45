//! Real systemd hosts on this machine, as many as a test wants, each in namespaces of its own.
//!
//! Every host has its own systemd as process 1, journald, D-Bus, address and disk. The disk is a
//! copy-on-write overlay of this machine's `/`, so a program built here is found in the host at
//! the same path. Shared by all, because the kernel has them only once, are its variables, its
//! modules and the wall clock; a host can change none of these.
//!
//! A unit that shall start at boot says `WantedBy=fleet.target`: the hosts boot no further.

mod disk;
mod host;
mod lease;
mod net;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

pub use host::Host;
use tempfile::TempDir;

use crate::run::{RunError, output, run};
use crate::wait::TimedOut;
use lease::Lease;
use net::Network;

/// How many hosts boot at a time; more only wait for each other's processor time.
const BOOTS_AT_A_TIME: usize = 8;

/// The last part of an address is one byte, and 254 is the switch.
const HOSTS_MAX: usize = 200;

/// Where disks lie unless the test says otherwise.
const DISKS: &str = "/var/tmp";

/// Says what a host or a fleet could not do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A tool of this machine failed.
    #[error("cannot {attempt} host {host}")]
    Run {
        /// What was attempted.
        attempt: &'static str,
        /// The host's name.
        host: String,
        /// The command and what it said.
        source: RunError,
    },
    /// A file of the harness could not be read or written.
    #[error("cannot {attempt} {path}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The host did not become what was asked in time.
    #[error("host {host} did not {attempt}{console}")]
    TimedOut {
        /// What was attempted.
        attempt: &'static str,
        /// The host's name.
        host: String,
        /// What its first process said.
        console: String,
        /// The limit.
        source: TimedOut,
    },
    /// The host is not up.
    #[error("host {0} is down")]
    Down(String),
    /// A unit has no main process.
    #[error("unit {unit} of host {host} has no main process")]
    NoProcess {
        /// The host's name.
        host: String,
        /// The unit.
        unit: String,
    },
    /// The host is up already.
    #[error("host {0} is up")]
    Up(String),
    /// The network could not be made or changed.
    #[error("cannot change the network of the fleet")]
    Net(#[source] RunError),
    /// What the hosts shall see could not be copied.
    #[error("cannot copy files to where hosts see them")]
    Stage(#[source] RunError),
    /// A request that no fleet can fulfil.
    #[error("a fleet has 1 to {HOSTS_MAX} hosts, not {0}")]
    Size(usize),
    /// What the journal said is not JSON.
    #[error("cannot read the journal of host {host}")]
    Journal {
        /// The host's name.
        host: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Some hosts on one switch. Dropping it ends and removes all of them.
///
/// Names, network and cgroups carry the process id, so any number of test processes may have
/// fleets. What a killed test process left behind is removed by the next `up`; a fleet in a `static`
/// is never dropped and counts as left behind.
#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: the hosts first, the lease that lets others tidy up last.
    hosts: Vec<Host>,
    network: Network,
    lease: Lease,
}

impl Fleet {
    /// Boots `count` hosts named `h1`, `h2`, … and waits until all of them are up.
    ///
    /// # Errors
    /// When one does not come up; then none is left.
    pub fn up(count: usize) -> Result<Self, HostError> {
        Self::start(Path::new(DISKS), count)
    }

    /// Boots hosts whose disks lie below `dir`, for example on an image that can lose its power.
    ///
    /// What a host has when it is up is synced, as on a machine that was installed long ago.
    /// `dir` may not itself lie on an overlay.
    ///
    /// # Errors
    /// When one does not come up; then none is left.
    pub fn up_in(dir: &Path, count: usize) -> Result<Self, HostError> {
        let fleet = Self::start(dir, count)?;
        disk::sync(dir)?;
        Ok(fleet)
    }

    fn start(dir: &Path, count: usize) -> Result<Self, HostError> {
        if count == 0 || count > HOSTS_MAX {
            return Err(HostError::Size(count));
        }
        lease::sweep();
        raise_kernel_limits()?;
        let lease = Lease::take(dir)?;
        let network = Network::create(lease.tag(), lease.number()).map_err(HostError::Net)?;
        let mut fleet = Self { hosts: Vec::new(), network, lease };
        for index in 1..=count {
            let host = Host::prepare(&fleet.lease, &fleet.network, index, count)?;
            fleet.hosts.push(host);
        }
        fleet.boot_all()?;
        Ok(fleet)
    }

    /// All hosts, in the order of their names.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host `h{number}`.
    ///
    /// # Panics
    /// When there is none.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// The address of this machine on the fleet's switch.
    pub fn address(&self) -> IpAddr {
        self.network.address(net::SWITCH)
    }

    /// Runs a command out here, on the fleet's switch.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub fn net(&self, words: &[&str]) -> Result<Output, HostError> {
        output(&self.network.on_switch(words)).map_err(HostError::Net)
    }

    /// Moves the calling thread onto the fleet's switch, so that its sockets reach the hosts.
    ///
    /// Threads that it starts from now on are there too.
    ///
    /// # Errors
    /// When the network is gone.
    pub fn enter_net(&self) -> Result<(), HostError> {
        self.network.enter()
    }

    fn boot_all(&self) -> Result<(), HostError> {
        let next = AtomicUsize::new(0);
        let worker = || -> Result<(), HostError> {
            while let Some(host) = self.hosts.get(next.fetch_add(1, Ordering::Relaxed)) {
                host.boot()?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..BOOTS_AT_A_TIME.min(self.hosts.len())).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}

/// Says why hosts cannot run on this machine, if they cannot.
///
/// # Errors
/// The reason, in words for `skipped`.
pub fn available() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    for path in [
        "/usr/lib/systemd/systemd",
        "/usr/bin/dbus-daemon",
        "/usr/bin/journalctl",
        "/usr/bin/nsenter",
        "/usr/bin/unshare",
    ] {
        if !Path::new(path).exists() {
            return Err(format!("needs `{path}`"));
        }
    }
    if output(&["ip", "-V"]).is_err() {
        return Err("needs `ip`".to_owned());
    }
    if lease::cgroup_tree().is_none() {
        return Err("needs a cgroup2 file system".to_owned());
    }
    let disks = rustix::fs::statfs(DISKS).map_err(|e| format!("cannot look at {DISKS}: {e}"))?;
    if disks.f_type == disk::OVERLAY_MAGIC {
        return Err(format!("{DISKS} lies on an overlay and cannot carry another"));
    }
    Ok(())
}

/// Copies files and folders to where hosts see them: their `/tmp` and `/run` are their own, and a checkout may lie there.
///
/// # Errors
/// When one of them cannot be copied.
pub fn stage(paths: &[&Path]) -> Result<TempDir, HostError> {
    let staged = tempfile::tempdir_in(DISKS).map_err(lease::io_error("make a directory in", Path::new(DISKS)))?;
    let mut words = vec!["cp".to_owned(), "-a".to_owned()];
    words.extend(paths.iter().copied().chain([staged.path()]).map(|path| path.display().to_string()));
    run(&words).map_err(HostError::Stage)?;
    Ok(staged)
}

/// Lets the kernel watch files for many systemds; each takes four inotify instances and the
/// default of 128 runs out at 32 hosts.
fn raise_kernel_limits() -> Result<(), HostError> {
    const INSTANCES_MIN: u64 = 8192;
    disk::raise("/proc/sys/fs/inotify/max_user_instances", INSTANCES_MIN)
}

/// The address with this last byte in the network number `number`.
fn address(number: u8, last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, number, last))
}
