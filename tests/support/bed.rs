//! A component with three releases, and real agents that are started on it again and again from the same state.
//!
//! Its services are plain processes, so it needs neither root nor systemd.
#![expect(clippy::disallowed_methods, reason = "this module runs real agents on real disks")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test's bed is a failed test")]

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbctl::fleet::connect::{Deadlines, Target, client, connect};
use rollback::wire::v1::{self, agent_client::AgentClient};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::images::Image;
use crate::wait::{TimedOut, wait_until};

/// How long one operation, one death or one start may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);
/// What runs until somebody goes back.
pub const RUNS: &str = "r3";

/// Finds the agent beside the tests.
pub fn agent_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(2).map(|dir| dir.join("rb-agent")).find(|path| path.exists())
}

/// Where state and component lie.
#[derive(Debug)]
pub enum Places {
    /// In plain directories.
    Plain,
    /// The component on the first disk; the state there too, or on the second when there is one.
    Images(Image, Option<Image>),
}

/// The bed; what runs on it ends with it.
#[derive(Debug)]
pub struct Bed {
    dir: tempfile::TempDir,
    program: PathBuf,
    state: PathBuf,
    app: PathBuf,
    places: Places,
    runtime: tokio::runtime::Runtime,
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent(Child);

impl Agent {
    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.end_services();
    }
}

impl Bed {
    /// Lays out the component, lets a first agent adopt it, and keeps what that leaves as the state of every trial.
    pub fn new(program: PathBuf, places: Places) -> Self {
        Self::with(program, places, &["bin/service", "3600"], "stability = \"0s\"")
    }

    /// As `new`, with a command of its own for the service and lines of its own for `[timeouts]`.
    ///
    /// Every release has `sh` as `bin/sh` and `sleep` as `bin/service`. A link that leads elsewhere than the history says is
    /// only noted: an agent that watched it would heal what a trial has broken on purpose, before it is judged.
    pub fn with(program: PathBuf, places: Places, command: &[&str], timeouts: &str) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (state, app) = match &places {
            Places::Plain => (dir.path().join("live/state"), dir.path().join("live/app")),
            Places::Images(first, second) => {
                (second.as_ref().unwrap_or(first).path().join("state"), first.path().join("app"))
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bed = Self { dir, program, state, app, places, runtime };
        bed.lay_out();
        bed.configure(command, timeouts);
        let agent = bed.start();
        assert_eq!(bed.unit().map(|_| ()), Ok(()), "{}", bed.log());
        drop(agent);
        bed.end_services();
        let seed = bed.dir.path().join("seed");
        fs::create_dir(&seed).unwrap();
        copy(&bed.state, &seed.join("state"));
        copy(&bed.app, &seed.join("app"));
        bed
    }

    fn lay_out(&self) {
        let etc = self.dir.path().join("etc");
        for dir in [etc.join("components.d"), self.app.join("releases")] {
            fs::create_dir_all(dir).unwrap();
        }
        for dir in [&self.state, &self.dir.path().join("run")] {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(dir).unwrap();
        }
        for (release, age) in [("r1", 9), ("r2", 5), ("r3", 1)] {
            let path = self.app.join("releases").join(release);
            fs::create_dir_all(path.join("bin")).unwrap();
            fs::copy("/bin/sleep", path.join("bin/service")).unwrap();
            fs::copy("/bin/sh", path.join("bin/sh")).unwrap();
            fs::write(path.join("VERSION"), format!("{release}\n")).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_secs(age * 24 * 3_600);
            File::open(&path).unwrap().set_modified(then).unwrap();
        }
        symlink("releases/r3", self.app.join("current")).unwrap();
        fs::write(etc.join("agent.toml"), "host = \"bed\"\n").unwrap();
    }

    fn configure(&self, command: &[&str], timeouts: &str) {
        let component = format!(
            "name = \"web\"\nenvironment = \"test\"\nroot = \"{}\"\nbackend = \"process\"\nunits = [\"web.service\"]\n\
             [commands]\n\"web.service\" = {command:?}\n[[probes]]\nname = \"unit\"\nkind = \"unit\"\n\
             timeout = \"1s\"\ninterval = \"100ms\"\nfailures = 1\n[timeouts]\n{timeouts}\n\
             [policy]\nexternal_deploys = \"note\"\n",
            self.app.display()
        );
        fs::write(self.dir.path().join("etc/components.d/web.toml"), component).unwrap();
    }

    /// Puts the first state back, safely on the disks.
    pub fn reset(&self) {
        self.end_services();
        let seed = self.dir.path().join("seed");
        for (from, to) in [(seed.join("state"), &self.state), (seed.join("app"), &self.app)] {
            fs::remove_dir_all(to).unwrap();
            copy(&from, to);
        }
        for mount in self.mounts() {
            rustix::fs::syncfs(File::open(mount).unwrap()).unwrap();
        }
        fs::remove_file(self.dir.path().join("log")).ok();
    }

    /// The directory that has `current` and the releases.
    pub fn app(&self) -> &Path {
        &self.app
    }

    /// The agent's state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What the sweep counts: the state and the component.
    pub fn dirs(&self) -> [PathBuf; 2] {
        [self.state.clone(), self.app.clone()]
    }

    fn images(&self) -> impl Iterator<Item = &Image> {
        match &self.places {
            Places::Plain => [None, None],
            Places::Images(first, second) => [Some(first), second.as_ref()],
        }
        .into_iter()
        .flatten()
    }

    /// Whether there are disks whose power can be cut.
    pub fn has_images(&self) -> bool {
        self.images().next().is_some()
    }

    /// Where the disks are mounted.
    pub fn mounts(&self) -> Vec<PathBuf> {
        self.images().map(|image| image.path().to_owned()).collect()
    }

    /// Takes the power of all disks away.
    pub fn cut_power(&self) {
        self.images().for_each(|image| image.cut_power().unwrap());
    }

    /// Gives it back.
    pub fn remount(&self) {
        self.images().for_each(|image| image.remount().unwrap());
    }

    /// Starts an agent and waits until it serves.
    pub fn start(&self) -> Agent {
        self.try_start().unwrap()
    }

    /// As `start`; says why it does not serve.
    pub fn try_start(&self) -> Result<Agent, String> {
        fs::remove_file(self.socket()).ok();
        let mut agent = self.launch();
        let mut ended = None;
        wait_until(LIMIT, "the agent to serve", || {
            ended = agent.0.try_wait().unwrap();
            ended.is_some() || self.client().is_ok()
        })
        .map_err(|error| error.to_string())?;
        ended.map_or(Ok(agent), |status| Err(format!("it ended with {status}")))
    }

    /// Starts an agent that shall end by itself, and gives what was said until then.
    pub fn start_another(&self) -> Result<String, String> {
        let mut agent = self.launch();
        wait_until(LIMIT, "the agent to end", || agent.0.try_wait().unwrap().is_some())
            .map_err(|error| error.to_string())?;
        Ok(self.log())
    }

    /// Starts an agent and waits for nothing.
    pub fn launch(&self) -> Agent {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let [etc, run] = ["etc", "run"].map(|name| self.dir.path().join(name));
        let child = Command::new(&self.program)
            .arg("run")
            .args(["--configuration".as_ref(), etc.as_os_str()])
            .args(["--state".as_ref(), self.state.as_os_str()])
            .args(["--runtime".as_ref(), run.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Agent(child.unwrap())
    }

    /// Whether an agent answers.
    pub fn serves(&self) -> bool {
        self.client().is_ok()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    /// How the agent is reached.
    pub fn target(&self) -> Target {
        Target::Local { socket: self.socket() }
    }

    /// A place for what a test makes, on the disk of the component when that is a plain directory.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Adds to the component's file, which the next agent reads.
    pub fn configure_further(&self, lines: &str) {
        let path = self.dir.path().join("etc/components.d/web.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{lines}\n{text}")).unwrap();
    }

    /// Runs the client on this agent.
    pub fn rbctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.program.with_file_name("rbctl"));
        command.arg("--local").arg("--socket").arg(self.socket()).args(arguments);
        command.env_remove("RBCTL_CONTEXT").stdin(Stdio::null()).output().unwrap()
    }

    fn client(&self) -> Result<AgentClient<Channel>, String> {
        let target = self.target();
        let connecting = connect(&target, None, Deadlines::default());
        self.runtime.block_on(connecting).map(client).map_err(|error| error.to_string())
    }

    /// What the agents since the last reset have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Rolls back and follows to the end; an error when the agent breaks off, refuses or does not end.
    pub fn roll_back(&self, request: &v1::Request) -> Result<v1::ResultWord, String> {
        let client = self.client()?;
        self.runtime.block_on(follow(client, request))
    }

    /// Sends two requests at once and follows both to their ends.
    pub fn roll_back_both(&self, requests: [&v1::Request; 2]) -> Result<[Result<v1::ResultWord, String>; 2], String> {
        let (first, second) = (self.client()?, self.client()?);
        let both = async { tokio::join!(follow(first, requests[0]), follow(second, requests[1])) };
        Ok(self.runtime.block_on(both).into())
    }

    /// The release that `current` leads to.
    pub fn current(&self) -> Result<String, String> {
        let target = fs::read_link(self.app.join("current")).map_err(|error| format!("`current`: {error}"))?;
        let path = self.app.join(&target);
        match path.strip_prefix(self.app.join("releases")) {
            Ok(release) if path.is_dir() => Ok(release.display().to_string()),
            Ok(_) | Err(_) => Err(format!("`current` leads to {}", target.display())),
        }
    }

    /// The results of all lines of the history that are about an operation.
    pub fn history(&self, operation: &str) -> Result<Vec<v1::ResultWord>, String> {
        let mut client = self.client()?;
        let request = v1::HistoryRequest { limit: 100, ..v1::HistoryRequest::default() };
        let reply = self.runtime.block_on(client.history(request)).map_err(|status| status.to_string())?;
        let lines = reply.into_inner().lines.into_iter().filter(|line| line.operation == operation);
        Ok(lines.map(|line| line.result()).collect())
    }

    /// One operation with its steps.
    pub fn show(&self, operation: &str) -> Result<v1::Operation, String> {
        let mut client = self.client()?;
        let request = v1::ShowRequest { operation: operation.to_owned() };
        let reply = self.runtime.block_on(client.show(request)).map_err(|status| status.to_string())?;
        reply.into_inner().operation.ok_or_else(|| "the agent sent no operation".to_owned())
    }

    /// Whether the chain of the history stands.
    pub fn audit(&self) -> Result<bool, String> {
        let mut client = self.client()?;
        let reply = self.runtime.block_on(client.audit(v1::AuditRequest {})).map_err(|status| status.to_string())?;
        Ok(reply.into_inner().broken_at == 0)
    }

    /// What the agent tells of itself and the component.
    pub fn status(&self) -> Result<v1::StatusReply, String> {
        let mut client = self.client()?;
        let reply = self.runtime.block_on(client.status(v1::StatusRequest::default()));
        reply.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// The process and the start of the unit, which has to run from where `current` leads.
    pub fn unit(&self) -> Result<(u32, String), String> {
        let reply = self.status()?;
        let health = reply.components.first().and_then(|component| component.health.as_ref());
        let unit = health.and_then(|health| health.units.first()).ok_or("the status has no unit")?;
        if unit.active() != v1::UnitActive::Active {
            return Err(format!("the unit does not run: {unit:?}"));
        }
        let program = fs::read_link(format!("/proc/{}/exe", unit.main_pid)).map_err(|error| error.to_string())?;
        let expected = self.app.join("releases").join(self.current()?);
        if !program.starts_with(&expected) {
            return Err(format!("{} runs, `current` leads to {}", program.display(), expected.display()));
        }
        Ok((unit.main_pid, unit.invocation.clone()))
    }

    /// Kills the services that agents have started, and waits until they are gone.
    pub fn end_services(&self) {
        end_services(&self.app).unwrap();
    }
}

/// Kills every process whose program lies below a component's directory, and waits until they are gone.
///
/// # Errors
/// When one does not go.
pub fn end_services(app: &Path) -> Result<(), TimedOut> {
    wait_until(LIMIT, "the services to be gone", || {
        let services = services(app);
        for pid in &services {
            // One that has ended already is no error.
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        services.is_empty()
    })
}

fn services(app: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            fs::read_link(entry.path().join("exe")).ok()?.starts_with(app).then_some(pid)
        })
        .collect()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--sparse=always", "-T"]).args([from, to]).status().unwrap();
    assert!(status.success(), "cannot copy {}", from.display());
}

async fn follow(mut client: AgentClient<Channel>, request: &v1::Request) -> Result<v1::ResultWord, String> {
    let what = Some(v1::rollback_request::What::Request(request.clone()));
    let following = async move {
        let mut events = client.rollback(v1::RollbackRequest { what }).await?.into_inner();
        while let Some(event) = events.next().await {
            if let Some(word) = event?.operation.and_then(|operation| ended(&operation)) {
                return Ok(word);
            }
        }
        Err(tonic::Status::aborted("the stream ended before the operation"))
    };
    let limited = tokio::time::timeout(LIMIT, following).await;
    limited.map_err(|_| "the operation does not end".to_owned())?.map_err(|status| status.to_string())
}

/// The result of an operation, when it is over.
fn ended(operation: &v1::Operation) -> Option<v1::ResultWord> {
    use v1::outcome::Outcome;
    let Some(v1::phase::Phase::Ended(outcome)) = operation.phase.as_ref()?.phase.as_ref() else { return None };
    Some(match outcome.outcome.as_ref()? {
        Outcome::Done(_) => v1::ResultWord::Done,
        Outcome::Unverified(_) => v1::ResultWord::Unverified,
        Outcome::PutBack(_) => v1::ResultWord::PutBack,
        Outcome::NeedsOperator(_) => v1::ResultWord::NeedsOperator,
        Outcome::Superseded(_) => v1::ResultWord::Superseded,
    })
}
