//! A real agent on this machine itself, without root or systemd: its service is a plain process.
#![expect(clippy::disallowed_methods, reason = "the agent is started as a process, on files made for it")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rbctl::fleet::connect::{Deadlines, Target, client, connect};
use rollback::wire::v1::agent_client::AgentClient;
use rollback_tests::bed::end_services;
use rollback_tests::wait::wait_until;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::figures::Fault;
use crate::lab::built;

/// How long the agent may take to adopt and serve: it reads every release once.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The agent; ends when dropped, with its services.
pub(crate) struct LocalAgent {
    child: Child,
    directory: PathBuf,
    pub(crate) runtime: Runtime,
}

impl LocalAgent {
    /// Lays out one component below a directory, whose releases `fill` makes, and starts the agent on it.
    ///
    /// `agent` is what `agent.toml` says. Each release needs a program `service`, which is put there.
    pub(crate) fn start(
        directory: &Path,
        agent: &str,
        releases: &[&str],
        fill: impl Fn(&str, &Path) -> Result<(), Fault>,
    ) -> Result<Self, Fault> {
        let app = directory.join("app");
        for release in releases {
            let path = app.join("releases").join(release);
            fs::create_dir_all(&path)?;
            fill(release, &path)?;
            fs::copy("/bin/sleep", path.join("service"))?;
        }
        symlink(format!("releases/{}", releases[0]), app.join("current"))?;
        fs::create_dir_all(directory.join("etc/components.d"))?;
        for private in ["state", "run"] {
            fs::DirBuilder::new().mode(0o700).create(directory.join(private))?;
        }
        fs::write(directory.join("etc/agent.toml"), agent)?;
        let component = format!(
            "name = \"web\"\nenvironment = \"bench\"\nroot = \"{}\"\nbackend = \"process\"\nunits = [\"web.service\"]\n\
             [commands]\n\"web.service\" = [\"service\", \"3600\"]\n",
            app.display()
        );
        fs::write(directory.join("etc/components.d/web.toml"), component)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut agent = Self { child: spawn(directory)?, directory: directory.to_owned(), runtime };
        let mut ended = None;
        wait_until(START_LIMIT, "the agent to serve", || {
            ended = agent.child.try_wait().ok().flatten();
            ended.is_some() || agent.client().is_ok()
        })?;
        match ended {
            None => Ok(agent),
            Some(status) => Err(format!("the agent ended with {status}: {}", agent.log()).into()),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where a release is.
    pub(crate) fn release(&self, release: &str) -> PathBuf {
        self.directory.join("app/releases").join(release)
    }

    /// Connects over the local socket.
    pub(crate) fn client(&self) -> Result<AgentClient<Channel>, Fault> {
        self.runtime.block_on(self.connect())
    }

    /// As [`LocalAgent::client`], for who is in the runtime already.
    pub(crate) async fn connect(&self) -> Result<AgentClient<Channel>, Fault> {
        let target = Target::Local { socket: self.directory.join("run/agent.sock") };
        Ok(client(connect(&target, None, Deadlines::default()).await?))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for LocalAgent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        // Services outlive their agent.
        drop(end_services(&self.directory.join("app")));
    }
}

fn spawn(directory: &Path) -> Result<Child, Fault> {
    let log = fs::File::create(directory.join("log"))?;
    let mut command = Command::new(built("rb-agent")?);
    command.arg("run");
    for (option, name) in [("--configuration", "etc"), ("--state", "state"), ("--runtime", "run")] {
        command.arg(option).arg(directory.join(name));
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command.spawn()?)
}
