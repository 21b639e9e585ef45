//! P8: a push over loopback of a release in which one file of a hundred has changed, against `rsync --link-dest`.
#![expect(clippy::disallowed_methods, reason = "releases are laid down, and rbctl and rsync are started on them")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rollback_tests::wait::wait_until;

use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{built, run, small_files};
use crate::local::LocalAgent;
use crate::options::Options;

/// Files of the release.
const FILES: usize = 20_000;
/// Files that change from release to release: one of a hundred.
const CHANGED: usize = FILES / 100;
/// How long the daemon of rsync may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    if Command::new("rsync").arg("--version").output().is_err() {
        report.skip("P8", "there is no rsync");
        return Ok(());
    }
    let directory = tempfile::tempdir_in(&options.work)?;
    let bytes = usize::try_from(options.mib * 1024 * 1024)? / FILES;
    let agent_port = free_port()?;
    let lines = keys(directory.path(), agent_port)?;
    // Links are what rsync is told to make too; on a file system with reflinks neither needs them.
    let further = directory.path().join("agent/etc/components.d/web.toml.d");
    fs::create_dir_all(&further)?;
    fs::write(further.join("links.toml"), "releases = { directory = \"releases\", hardlinks = true }\n")?;
    let agent =
        LocalAgent::start(&directory.path().join("agent"), &lines, &["r1"], |_, path| small_files(path, FILES, bytes))?;
    let push = Push { directory: directory.path(), agent_port, bytes };
    let rsync = Rsync::start(directory.path(), &agent.release("r1"))?;
    copy(&agent.release("r1"), &directory.path().join("dist"))?;
    let before = loopback_bytes()?;
    push.time(0)?;
    let sent = loopback_bytes()? - before;
    let (mut pushes, mut copies) = (0, 0);
    let [ours, floor] = in_turns(
        options.rounds.into(),
        [
            &mut || {
                pushes += 1;
                push.time(pushes)
            },
            &mut || {
                copies += 1;
                push.change(usize::from(options.rounds) + copies)?;
                rsync.time(&directory.path().join("dist"), copies)
            },
        ],
    )?;
    let what = format!("push of {} MiB in 20,000 files, 1 % of them changed", options.mib);
    let floor = Some(("rsync -a --link-dest".to_owned(), floor));
    report.rows.push(Row { figure: "P8", what, unit: "ms", ours, floor, goal: Goal::Ratio(1.0) });
    let megabytes = |bytes: u64| Ok::<_, Fault>(f64::from(u32::try_from(bytes / 1_000)?) / 1e3);
    let whole = Samples::one(megabytes(options.mib * 1024 * 1024)?);
    let what = "bytes over loopback of such a push".to_owned();
    let floor = Some(("the release's own bytes".to_owned(), whole));
    let ours = Samples::one(megabytes(sent)?);
    report.rows.push(Row { figure: "P8", what, unit: "MB", ours, floor, goal: Goal::Ratio(0.05) });
    Ok(())
}

/// What is pushed, and where to.
struct Push<'a> {
    directory: &'a Path,
    agent_port: u16,
    bytes: usize,
}

impl Push<'_> {
    /// Gives the files that change a content that no release has.
    fn change(&self, nth: usize) -> Result<(), Fault> {
        for file in 0..CHANGED {
            let mut content = vec![b'+'; self.bytes];
            let own = format!("{nth} {file} ");
            content.splice(..own.len().min(self.bytes), own.into_bytes());
            fs::write(self.directory.join(format!("dist/d{file}/f{}", file * 100)), content)?;
        }
        Ok(())
    }

    /// Changes some files and pushes; the time is that of the push alone.
    fn time(&self, nth: usize) -> Result<f64, Fault> {
        self.change(nth)?;
        let mut rbctl = Command::new(built("rbctl")?);
        rbctl.arg("--config").arg(self.directory.join("rbctl.toml"));
        rbctl.args(["--host", &format!("bench=127.0.0.1:{}", self.agent_port), "--timeout", "300", "push"]);
        rbctl.arg(self.directory.join("dist")).args(["--version", &format!("p{nth}")]);
        flush(self.directory)?;
        Ok(timed(|| run(rbctl))?.0)
    }
}

/// Makes an authority and keys; gives what `agent.toml` says.
fn keys(directory: &Path, port: u16) -> Result<String, Fault> {
    let pki = directory.join("pki");
    for arguments in [
        &["init", "--domain", "lab"][..],
        &["issue", "agent", "bench"],
        &["issue", "operator", "alice", "--role", "operator", "--environment", "*"],
    ] {
        let mut command = Command::new(built("rbctl")?);
        command.args(["pki", "--dir"]).arg(&pki).args(arguments);
        run(command)?;
    }
    let client = "current_context = \"lab\"\n[contexts.lab]\ndomain = \"lab\"\nauthority = \"pki/ca.crt\"\n\
         certificate = \"pki/operators/alice.crt\"\nkey = \"pki/operators/alice.key\"\n[contexts.lab.hosts]\n";
    fs::write(directory.join("rbctl.toml"), client)?;
    let path = |name: &str| pki.join(name).display().to_string();
    Ok(format!(
        "host = \"bench\"\nlisten = \"127.0.0.1:{port}\"\n[tls]\ndomain = \"lab\"\nauthority = {:?}\ncertificate = {:?}\n\
         key = {:?}\nrevocations = {:?}\n",
        path("ca.crt"),
        path("agents/bench.crt"),
        path("agents/bench.key"),
        path("crl.pem")
    ))
}

/// A daemon of rsync with a copy of the first release; ends when dropped.
struct Rsync {
    daemon: Child,
    port: u16,
}

impl Rsync {
    fn start(directory: &Path, release: &Path) -> Result<Self, Fault> {
        let module = directory.join("rsync");
        fs::create_dir(&module)?;
        copy(release, &module.join("r1"))?;
        let port = free_port()?;
        let user = nix::unistd::geteuid();
        let configuration = format!(
            "use chroot = no\nuid = {user}\ngid = {}\nport = {port}\naddress = 127.0.0.1\n[bench]\npath = {}\nread only = no\n",
            nix::unistd::getegid(),
            module.display()
        );
        let file = directory.join("rsyncd.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new("rsync");
        command
            .args(["--daemon", "--no-detach"])
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let daemon = Self { daemon: command.stdin(Stdio::null()).spawn()?, port };
        wait_until(START_LIMIT, "rsync to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(daemon)
    }

    fn time(&self, dist: &Path, nth: usize) -> Result<f64, Fault> {
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--link-dest=../r1"]).arg(format!("{}/", dist.display()));
        rsync.arg(format!("rsync://127.0.0.1:{}/bench/s{nth}/", self.port));
        flush(dist)?;
        Ok(timed(|| run(rsync))?.0)
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// Writes out what came before, so that it does not count: a push ends with a flush, `rsync` does not.
fn flush(directory: &Path) -> Result<(), Fault> {
    let mut sync = Command::new("sync");
    sync.arg("--file-system").arg(directory);
    run(sync)
}

fn copy(from: &Path, to: &PathBuf) -> Result<(), Fault> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run(command)
}

/// A port that nobody listens on; another program could take it first, which then fails the run by name.
fn free_port() -> Result<u16, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What the loopback device has received since the machine started.
fn loopback_bytes() -> Result<u64, Fault> {
    let table = fs::read_to_string("/proc/net/dev")?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).ok_or("there is no loopback device")?;
    Ok(line.split_whitespace().next().ok_or("the kernel counts nothing")?.parse()?)
}
