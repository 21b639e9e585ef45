//! A real systemd host with the built agent installed, its components, and a client beside it.
#![expect(clippy::disallowed_methods, reason = "the lab copies what is installed and starts the client")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rbctl::fleet::connect::{Deadlines, Target, client, connect};
use rollback::wire::v1::{self, agent_client::AgentClient};
use rollback_tests::hosts::{Fleet, Host, available};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::figures::Fault;

/// The programs that are measured.
const PROGRAMS: [&str; 3] = ["rb-agent", "rbctl", "rb-demo-service"];

/// One component of the host: a small web service that says when it is ready, with two releases `r1` and `r2`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Component {
    /// Its name, which is its environment's as well, so that components do not wait for each other.
    pub(crate) name: &'static str,
    /// Where its service listens.
    pub(crate) port: u16,
    /// Files in each release beside the service's own.
    pub(crate) files: usize,
    /// Whether its page is asked for by a probe.
    pub(crate) probed: bool,
}

/// The host, what is installed on it, and a runtime for the bench's own calls.
pub(crate) struct Lab {
    // Dropped first: the host must be gone before what it sees is removed.
    fleet: Fleet,
    staged: tempfile::TempDir,
    operator: tempfile::TempDir,
    pub(crate) runtime: Runtime,
}

/// Finds a program that was built beside this one.
pub(crate) fn built(program: &str) -> Result<PathBuf, Fault> {
    let path = std::env::current_exe()?.with_file_name(program);
    if path.exists() { Ok(path) } else { Err(format!("{} is not built", path.display()).into()) }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

impl Lab {
    /// Boots a host, installs the agent, and starts it with these components.
    ///
    /// # Errors
    /// When hosts cannot be had here (the reason is what a reader is told), or one of the steps fails.
    pub(crate) fn up(components: &[Component]) -> Result<Self, Fault> {
        available()?;
        let lab = Self {
            staged: stage()?,
            operator: tempfile::tempdir()?,
            fleet: Fleet::up(1)?,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        };
        let staged = lab.staged.path().display().to_string();
        lab.host().sh(&format!("{staged}/systemd/install.sh --from {staged}"))?;
        lab.keys()?;
        for component in components {
            lab.lay_out(component)?;
        }
        lab.host().sh("systemctl daemon-reload; systemctl start rb-agent.service")?;
        Ok(lab)
    }

    pub(crate) fn host(&self) -> &Host {
        self.fleet.host(1)
    }

    /// Moves the calling thread onto the host's network.
    pub(crate) fn enter_net(&self) -> Result<(), Fault> {
        Ok(self.fleet.enter_net()?)
    }

    /// What the host's file `path` is called out here.
    pub(crate) fn outside(&self, path: &str) -> Result<PathBuf, Fault> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.host().init_pid()?)))
    }

    /// Makes the authority and the keys of the agent and of an operator, and installs the agent's.
    fn keys(&self) -> Result<(), Fault> {
        let name = self.host().name();
        self.pki(&["init", "--domain", "lab"])?;
        self.pki(&["issue", "agent", name])?;
        self.pki(&["issue", "operator", "alice", "--role", "operator", "--environment", "*"])?;
        let pki = self.operator.path().join("pki");
        for (from, to, mode) in [
            ("ca.crt".to_owned(), "ca.crt", 0o644),
            ("crl.pem".to_owned(), "crl.pem", 0o644),
            (format!("agents/{name}.crt"), "agent.crt", 0o644),
            (format!("agents/{name}.key"), "agent.key", 0o600),
        ] {
            self.host().write(&format!("/etc/rollback/pki/{to}"), std::fs::read(pki.join(from))?, mode)?;
        }
        let agent = format!("host = \"{name}\"\nlisten = \"0.0.0.0:7443\"\n[tls]\ndomain = \"lab\"\n");
        self.host().write("/etc/rollback/agent.toml", agent, 0o644)?;
        let client = format!(
            "current_context = \"lab\"\n[contexts.lab]\ndomain = \"lab\"\nauthority = \"pki/ca.crt\"\n\
             certificate = \"pki/operators/alice.crt\"\nkey = \"pki/operators/alice.key\"\n\
             [contexts.lab.hosts]\n{name} = \"{}\"\n",
            self.host().address()
        );
        Ok(std::fs::write(self.operator.path().join("rbctl.toml"), client)?)
    }

    fn pki(&self, arguments: &[&str]) -> Result<(), Fault> {
        let mut command = Command::new(built("rbctl")?);
        command.args(["pki", "--dir"]).arg(self.operator.path().join("pki")).args(arguments);
        run(command)
    }

    /// Writes a component's service, its releases and its file, and starts the service.
    fn lay_out(&self, component: &Component) -> Result<(), Fault> {
        let Component { name, port, files, probed } = component;
        let service = format!(
            "[Service]\nType=notify\nExecStart={}/rb-demo-service --listen 127.0.0.1:{port} --root /srv/{name}/current\n",
            self.staged.path().display()
        );
        let mut text = format!(
            "name = \"{name}\"\nenvironment = \"{name}\"\nroot = \"/srv/{name}\"\nunits = [\"{name}.service\"]\n\
             [timeouts]\nstability = \"0s\"\n[policy]\nexternal_deploys = \"note\"\n"
        );
        if *probed {
            write!(
                text,
                "[[probes]]\nname = \"page\"\nkind = \"http\"\nurl = \"http://127.0.0.1:{port}/healthz\"\n\
                 timeout = \"1s\"\ninterval = \"10ms\"\nfailures = 5\n"
            )?;
        }
        self.host().write(&format!("/etc/systemd/system/{name}.service"), service, 0o644)?;
        self.host().write(&format!("/etc/rollback/components.d/{name}.toml"), text, 0o644)?;
        self.host().sh(&format!("mkdir -p /srv/{name}/releases; ln -s releases/r2 /srv/{name}/current"))?;
        for release in ["r1", "r2"] {
            let directory = self.outside(&format!("/srv/{name}/releases/{release}"))?;
            small_files(&directory, *files, 64)?;
            std::fs::write(directory.join("VERSION"), format!("{release}\n"))?;
        }
        self.host().sh(&format!("systemctl daemon-reload; systemctl start {name}.service"))?;
        Ok(())
    }

    /// A command of the client on this host's network, as alice; the calling thread must have entered it.
    pub(crate) fn rbctl(&self, arguments: &[&str]) -> Result<Command, Fault> {
        let mut command = Command::new(built("rbctl")?);
        command.args(arguments).env("RBCTL_CONFIG", self.operator.path().join("rbctl.toml"));
        Ok(command)
    }

    /// Connects to the agent over its local socket.
    pub(crate) fn client(&self) -> Result<AgentClient<Channel>, Fault> {
        let target = Target::Local { socket: self.outside("/run/rollback/agent.sock")? };
        Ok(client(self.runtime.block_on(connect(&target, None, Deadlines::default()))?))
    }

    /// Goes back, and returns when the client is told that it is done and recorded.
    pub(crate) fn roll_back(&self, client: &mut AgentClient<Channel>, component: &str, to: &str) -> Result<(), Fault> {
        self.runtime.block_on(roll_back(client, component, to))
    }
}

/// Sends an order to a named release and follows it to its end.
async fn roll_back(client: &mut AgentClient<Channel>, component: &str, to: &str) -> Result<(), Fault> {
    let request = v1::Request {
        operation: uuid::Uuid::now_v7().to_string(),
        selector: Some(v1::ComponentSelector { component: component.to_owned(), environment: component.to_owned() }),
        to: to.to_owned(),
        force: true,
        reason: "it is measured".to_owned(),
        ..v1::Request::default()
    };
    let what = Some(v1::rollback_request::What::Request(request));
    let mut events = client.rollback(v1::RollbackRequest { what }).await?.into_inner();
    while let Some(event) = events.next().await {
        let phase = event?.operation.and_then(|operation| operation.phase?.phase);
        if let Some(v1::phase::Phase::Ended(outcome)) = phase {
            return match outcome.outcome {
                Some(v1::outcome::Outcome::Done(_)) => Ok(()),
                other => Err(format!("the rollback ended as {other:?}").into()),
            };
        }
    }
    Err("the agent broke off".into())
}

/// Makes a directory with so many small files, a hundred in each directory.
pub(crate) fn small_files(directory: &Path, files: usize, bytes: usize) -> Result<(), Fault> {
    std::fs::create_dir_all(directory)?;
    for hundred in 0..files.div_ceil(100) {
        let below = directory.join(format!("d{hundred}"));
        std::fs::create_dir(&below)?;
        for file in hundred * 100..files.min((hundred + 1) * 100) {
            // Each file has content of its own.
            let mut content = vec![b'.'; bytes];
            content.splice(..8.min(bytes), file.to_le_bytes());
            std::fs::write(below.join(format!("f{file}")), content)?;
        }
    }
    Ok(())
}

/// Runs a program to its end, in silence.
pub(crate) fn run(mut command: Command) -> Result<(), Fault> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Copies what is installed to where the host sees it: its `/tmp` and `/run` are its own.
fn stage() -> Result<tempfile::TempDir, Fault> {
    let staged = tempfile::tempdir_in("/var/tmp")?;
    let mut copy = Command::new("cp");
    copy.arg("-a").args(["systemd", "docs"].map(|folder| repository().join(folder)));
    for program in PROGRAMS {
        copy.arg(built(program)?);
    }
    copy.arg(staged.path());
    run(copy)?;
    Ok(staged)
}
