//! One host: boot it, run things in it, crash it, take it off the network.
#![expect(clippy::disallowed_methods, reason = "a host is started as a process and watched through /proc")]

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::HostError;
use super::disk::{self, Identity};
use super::lease::{Lease, cgroup_tree, io_error};
use super::net::Network;
use crate::run::{RunError, check, command, output};
use crate::wait::wait_until;

/// How long a host may take to boot; on an idle machine it takes about a second.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// How long the processes of a crashed host may take to be gone.
const CRASH_LIMIT: Duration = Duration::from_secs(20);

/// Runs inside the new namespaces.
const INIT: &str = include_str!("init.sh");

/// Enters the host's cgroup, which must happen before its cgroup namespace is made, then the rest.
const ENTER: &str = r#"echo $$ >"$1/cgroup.procs"; ns=$2; shift 2
exec ip netns exec "$ns" unshare --pid --mount --uts --ipc --cgroup --fork sh -c "$@""#;

/// One host of a fleet.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: IpAddr,
    dir: PathBuf,
    network: Network,
    cgroup: PathBuf,
    up: Mutex<Option<Up>>,
}

/// A host that runs.
#[derive(Debug)]
struct Up {
    /// Made the namespaces and waits for `init`.
    outer: Child,
    /// The host's process 1, as a process id out here.
    init: Pid,
}

impl Host {
    /// Makes the disk and the network of the host number `index` of `count`.
    pub(super) fn prepare(lease: &Lease, network: &Network, index: usize, count: usize) -> Result<Self, HostError> {
        let last = |index: usize| u8::try_from(index).expect("`HOSTS_MAX` fits a byte");
        let neighbours: Vec<_> = (1..=count).map(|index| (format!("h{index}"), network.address(last(index)))).collect();
        let (name, address) = neighbours[index - 1].clone();
        let tree = cgroup_tree().ok_or_else(|| HostError::Down(name.clone()))?;
        let host = Self {
            address,
            dir: lease.dir().join(&name),
            network: network.clone(),
            cgroup: tree.join(network.namespace(&name)),
            up: Mutex::new(None),
            name,
        };
        disk::lay_out(
            &host.dir,
            &Identity {
                name: &host.name,
                machine_id: &uuid::Uuid::now_v7().simple().to_string(),
                neighbours: &neighbours,
            },
        )?;
        fs::create_dir_all(&host.cgroup).map_err(io_error("make", &host.cgroup))?;
        network.plug(&host.name, last(index)).map_err(HostError::Net)?;
        Ok(host)
    }

    /// The host's name, which is also its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address on the fleet's switch.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The process id out here of the host's process 1, to freeze it for example.
    ///
    /// # Errors
    /// When the host is down.
    pub fn init_pid(&self) -> Result<i32, HostError> {
        self.lock().as_ref().map(|up| up.init.as_raw()).ok_or_else(|| HostError::Down(self.name.clone()))
    }

    /// The process id out here of the main process of `unit`, to attach a tracer to for example.
    ///
    /// # Errors
    /// When the host is down or the unit has no main process.
    pub fn main_pid(&self, unit: &str) -> Result<i32, HostError> {
        let inside = self.sh(&format!("systemctl show --property=MainPID --value '{unit}'"))?;
        processes_with(&fs::read_link(format!("/proc/{}/ns/pid", self.init_pid()?)).ok())
            .find(|process| process.inside == inside.trim())
            .map(|process| process.outside)
            .ok_or_else(|| HostError::NoProcess { host: self.name.clone(), unit: unit.to_owned() })
    }

    /// What the tracer calls the host's file `path`, for an `Aim` at a process in the host.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.dir.join("root").join(path.trim_start_matches('/'))
    }

    /// Runs a command in the host, with a clean environment and no input.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub fn exec(&self, words: &[&str]) -> Result<Output, HostError> {
        output(&self.inside(words)?).map_err(self.run_error("run a command in"))
    }

    /// Runs a shell script in the host and returns what it wrote to its standard output.
    ///
    /// # Errors
    /// When any of its commands fails, with all that it wrote.
    pub fn sh(&self, script: &str) -> Result<String, HostError> {
        let words = ["sh", "-euc", script];
        let stdout = check(&words, self.exec(&words)?).map_err(self.run_error("run a script in"))?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Starts a command in the host, with its output in pipes, and does not wait for it.
    ///
    /// Killing the returned child kills only the door into the host; the command itself ends
    /// with the host, or by a command inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Result<Child, HostError> {
        command(&self.inside(words)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error("start a command in", &self.dir))
    }

    /// Writes a file in the host, with its directories.
    ///
    /// # Errors
    /// When the host is down or refuses.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<(), HostError> {
        let mode = format!("{mode:o}");
        let words = ["install", "-D", "-m", &mode, "/dev/stdin", path];
        let failed = io_error("write", &self.outside(path));
        let mut child = command(&self.inside(&words)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(&failed)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(content.as_ref()).map_err(&failed)?;
        }
        let done = child.wait_with_output().map_err(&failed)?;
        check(&words, done).map(drop).map_err(self.run_error("write a file in"))
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// When the host is down or the file cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, HostError> {
        let words = ["cat", path];
        check(&words, self.exec(&words)?).map_err(self.run_error("read a file of"))
    }

    /// Returns the journal's entries that `arguments` of `journalctl` select, oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn journal(&self, arguments: &[&str]) -> Result<Vec<serde_json::Value>, HostError> {
        let mut words = vec!["journalctl", "--quiet", "--no-pager", "--all", "-o", "json"];
        words.extend(arguments);
        let stdout = check(&words, self.exec(&words)?).map_err(self.run_error("read the journal of"))?;
        serde_json::Deserializer::from_slice(&stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|source| HostError::Journal { host: self.name.clone(), source })
    }

    /// Boots the host, on the disk it has, and waits until systemd says that it is up.
    ///
    /// # Errors
    /// When it is up already, or does not come up.
    pub fn boot(&self) -> Result<(), HostError> {
        {
            let mut up = self.lock();
            if up.is_some() {
                return Err(HostError::Up(self.name.clone()));
            }
            disk::clear_work(&self.dir)?;
            *up = Some(self.start()?);
        }
        wait_until(BOOT_LIMIT, "the end of its boot", || self.is_running()).map_err(|source| HostError::TimedOut {
            attempt: "boot",
            host: self.name.clone(),
            console: self.console(),
            source,
        })
    }

    /// Kills everything in the host at once. Its disk stays as it is.
    ///
    /// What its programs had written is on the disk, synced or not: the machine below lives on.
    /// To lose what was not synced, put the disk on an image and cut the image's power first.
    ///
    /// # Errors
    /// When it is down already, or does not die.
    pub fn crash(&self) -> Result<(), HostError> {
        let Some(mut up) = self.lock().take() else {
            return Err(HostError::Down(self.name.clone()));
        };
        // Fails only for one that is dead, and a namespace dies with its first process.
        let _ = kill(up.init, Signal::SIGKILL);
        up.outer.wait().map_err(io_error("end", &self.dir))?;
        wait_until(CRASH_LIMIT, "the last process to be gone", || {
            fs::read_to_string(self.cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
        })
        .map_err(|source| HostError::TimedOut {
            attempt: "crash",
            host: self.name.clone(),
            console: String::new(),
            source,
        })
    }

    /// Pulls the host's cable: nobody reaches it, and it reaches nobody.
    ///
    /// # Errors
    /// When the network is gone.
    pub fn cut(&self) -> Result<(), HostError> {
        self.network.set_cable(&self.name, "down").map_err(HostError::Net)
    }

    /// Plugs the host's cable in again.
    ///
    /// # Errors
    /// When the network is gone.
    pub fn join(&self) -> Result<(), HostError> {
        self.network.set_cable(&self.name, "up").map_err(HostError::Net)
    }

    fn start(&self) -> Result<Up, HostError> {
        let failed = io_error("boot", &self.dir);
        let console = File::create(self.dir.join("console")).map_err(&failed)?;
        let mut outer = Command::new("sh")
            .args(["-euc", ENTER, "enter"])
            .arg(&self.cgroup)
            .arg(self.network.namespace(&self.name))
            .args([INIT, "init", &self.name])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(console.try_clone().map_err(&failed)?)
            .stderr(console)
            .spawn()
            .map_err(&failed)?;
        let mut init = None;
        let waited = wait_until(BOOT_LIMIT, "its first process", || {
            init = only_child(outer.id());
            init.is_some() || !matches!(outer.try_wait(), Ok(None))
        });
        if let (Ok(()), Some(init)) = (&waited, init) {
            return Ok(Up { outer, init });
        }
        drop(outer.kill());
        outer.wait().map_err(&failed)?;
        Err(HostError::Run {
            attempt: "boot",
            host: self.name.clone(),
            source: RunError::saying("init.sh", &self.console()),
        })
    }

    /// A host with a failed unit is up as well: which units work is the test's affair.
    fn is_running(&self) -> bool {
        // Until process 1 has become systemd, `nsenter` would end up beside this machine's own.
        let comm = self.init_pid().ok().and_then(|init| fs::read_to_string(format!("/proc/{init}/comm")).ok());
        if comm.as_deref() != Some("systemd\n") {
            return false;
        }
        // `--wait` comes back with the end of the boot; before D-Bus is there it fails at once.
        self.exec(&["systemctl", "is-system-running", "--wait"])
            .is_ok_and(|done| matches!(done.stdout.trim_ascii(), b"running" | b"degraded"))
    }

    fn inside(&self, words: &[&str]) -> Result<Vec<String>, HostError> {
        let init = self.init_pid()?.to_string();
        let door = [
            "nsenter",
            "-t",
            &init,
            "-a",
            "-r",
            "-w",
            "--",
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ];
        Ok(door.iter().chain(words).map(|&word| word.to_owned()).collect())
    }

    fn console(&self) -> String {
        let said = fs::read_to_string(self.dir.join("console")).unwrap_or_default();
        format!("; its console says: {said}")
    }

    fn run_error(&self, attempt: &'static str) -> impl Fn(RunError) -> HostError + use<> {
        let host = self.name.clone();
        move |source| HostError::Run { attempt, host: host.clone(), source }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Up>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A host that is down has nothing to end; the lease removes the rest.
        drop(self.crash());
    }
}

/// The child of a process that has one, or will have.
fn only_child(pid: u32) -> Option<Pid> {
    let children = fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children")));
    children.ok()?.trim().parse().ok().map(Pid::from_raw)
}

/// A process by the two ids it has.
struct Process {
    outside: i32,
    inside: String,
}

/// Every process of the pid namespace that this link of `/proc` names.
fn processes_with(namespace: &Option<PathBuf>) -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let outside = entry.file_name().to_str()?.parse().ok()?;
        if fs::read_link(entry.path().join("ns/pid")).ok() != *namespace {
            return None;
        }
        // Its ids from the outermost namespace to its own.
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let inside = ids.split_whitespace().last()?.to_owned();
        Some(Process { outside, inside })
    })
}
