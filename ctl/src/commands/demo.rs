//! `rbctl demo`: shows the main job on this machine, with no root and no systemd.
//!
//! It starts other programs as processes (three agents, `rbctl` itself), never as libraries: what it shows is what a
//! user types.

#![expect(clippy::disallowed_methods, reason = "the demo makes directories and starts programs")]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use rollback::model::identity::{Role, Scope};
use rollback::model::ids::HostName;

use super::Session;
use crate::error::{CommandError, EXIT_DONE, EXIT_INTERRUPTED, ErrorKind};
use crate::pki::store::{Order, Pki};
use crate::pki::{AUTHORITY_DAYS, REVOCATION_LIST_DAYS};

/// How many hosts the demo has.
const HOSTS: usize = 3;
/// How long an agent may take to answer before the demo gives up: a debug build on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `rbctl demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl demo
  rbctl demo --keep --dir /tmp/rollback-demo
  rbctl demo --stop --dir /tmp/rollback-demo")]
pub struct DemoArgs {
    /// Leaves the agents running to play with.
    #[arg(long)]
    pub keep: bool,
    /// Ends the agents of a demo that was kept, and removes its directory.
    #[arg(long, requires = "dir", conflicts_with = "keep")]
    pub stop: bool,
    /// Where the demo lives; a new temporary directory by default.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A running demo; what it started ends with it unless it is kept.
struct Demo {
    root: PathBuf,
    agents: Vec<Child>,
    keep: bool,
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for agent in &mut self.agents {
            let pid = nix::unistd::Pid::from_raw(agent.id().cast_signed());
            // An agent that has ended already is no error.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
            agent.wait().ok();
        }
        end_services(&self.root);
        drop(std::fs::remove_dir_all(&self.root));
    }
}

fn failed(attempt: &str) -> impl Fn(std::io::Error) -> CommandError {
    move |error| CommandError::new(ErrorKind::Failed, format!("{attempt}: {error}"))
}

/// Runs the command.
///
/// # Errors
/// When something cannot be started; everything is cleaned up then.
pub async fn run(session: &Session, args: DemoArgs) -> Result<u8, CommandError> {
    if args.stop {
        return stop(session, args.dir.as_deref().unwrap_or(Path::new("")));
    }
    let root = match args.dir {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("rollback-demo-{}", std::process::id())),
    };
    if root.exists() {
        return Err(CommandError::usage(
            format!("`{}` exists already", root.display()),
            "choose another directory, or end that demo: `rbctl demo --stop --dir DIR`",
        ));
    }
    make(&root)?;
    let root = root.canonicalize().map_err(failed("cannot find the demo's directory"))?;
    let mut demo = Demo { root, agents: Vec::new(), keep: false };
    let shown = tokio::select! {
        shown = show(session, &mut demo) => shown,
        _ = tokio::signal::ctrl_c() => return Ok(EXIT_INTERRUPTED),
    };
    shown?;
    if args.keep {
        demo.keep = true;
        session.printer.say(&format!(
            "\nThe agents go on. Try:\n  export RBCTL_CONFIG={0}/rbctl.toml\n  rbctl releases\n  rbctl rollback --host host1 --to 2.3.9 --force --reason 'just trying'\n  rbctl audit\nEnd it with:\n  rbctl demo --stop --dir {0}",
            demo.root.display()
        ));
    } else {
        session.printer.say("\nThat was it; everything is cleaned up. `rbctl demo --keep` leaves it running to play with.\nOn a real host: docs/operations/install.md");
    }
    Ok(EXIT_DONE)
}

fn make(path: &Path) -> Result<(), CommandError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("cannot make a directory"))
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    std::fs::write(path, text).map_err(failed("cannot write a file of the demo"))
}

async fn show(session: &Session, demo: &mut Demo) -> Result<(), CommandError> {
    let say = |text: &str| session.printer.say(&format!("\n── {text}"));
    say("Making an authority and starting three agents, each with a small HTTP service at 127.0.0.1");
    let hosts = set_up(session, demo)?;
    wait_for_agents(demo, &hosts).await?;
    say("Release 2.4.1 was put in place by a deploy script, and it is bad: its health check fails");
    rbctl(demo, &["status"])?;
    say("These releases are on the hosts");
    rbctl(demo, &["releases", "--host", "host1"])?;
    say("A dry run shows what going back would do");
    rbctl(demo, &["rollback", "--host", "host1", "--dry-run"])?;
    say("rbctl rollback --all");
    rbctl(demo, &["rollback", "--all", "--yes", "--reason", "2.4.1 fails its health check"])?;
    say("The same question again");
    rbctl(demo, &["status"])?;
    say("And what the history remembers");
    rbctl(demo, &["history"])?;
    Ok(())
}

/// Runs `rbctl` as a user would, with its answers on this terminal.
fn rbctl(demo: &Demo, args: &[&str]) -> Result<(), CommandError> {
    let status = client(demo, args)?.status().map_err(failed("cannot start rbctl"))?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::new(ErrorKind::Failed, format!("`rbctl {}` ended with {status}", args.join(" "))))
}

fn client(demo: &Demo, args: &[&str]) -> Result<Command, CommandError> {
    let own = std::env::current_exe().map_err(failed("cannot find rbctl itself"))?;
    let mut command = Command::new(own);
    command.args(args).env("RBCTL_CONFIG", demo.root.join("rbctl.toml")).env_remove("RBCTL_CONTEXT");
    Ok(command)
}

/// Finds a program beside this one.
fn beside(name: &str) -> Result<PathBuf, CommandError> {
    let own = std::env::current_exe().map_err(failed("cannot find rbctl itself"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(CommandError::usage(
        format!("`{name}` is not beside `{}`", own.display()),
        "`cargo build` builds all programs; the demo needs `rb-agent` and `rb-demo-service`",
    ))
}

fn set_up(session: &Session, demo: &mut Demo) -> Result<Vec<String>, CommandError> {
    let agent = beside("rb-agent")?;
    let now = session.now();
    let pki_root = demo.root.join("pki");
    let domain: HostName = "demo".parse().map_err(|error| CommandError::failed(&error))?;
    let list_days = REVOCATION_LIST_DAYS;
    let bad = |error: crate::pki::store::PkiError| CommandError::failed(&error);
    let mut pki = Pki::init(&pki_root, &domain, AUTHORITY_DAYS, list_days, now).map_err(bad)?;
    let name: HostName = "you".parse().map_err(|error| CommandError::failed(&error))?;
    let operator = Order::Operator { name, roles: BTreeSet::from([Role::Operator, Role::Admin]), scope: Scope::All };
    pki.issue(operator, None, None, now).map_err(bad)?;
    let mut config = "current_context = \"demo\"\n\n[contexts.demo]\ndomain = \"demo\"\nauthority = \"pki/ca.crt\"\ncertificate = \"pki/operators/you.crt\"\nkey = \"pki/operators/you.key\"\n\n[contexts.demo.hosts]\n".to_owned();
    let mut names = Vec::new();
    for number in 1..=HOSTS {
        let name = format!("host{number}");
        let host: HostName = name.parse().map_err(|error| CommandError::failed(&error))?;
        pki.issue(Order::Agent { host, addresses: Vec::new() }, None, None, now).map_err(bad)?;
        let port = set_up_host(demo, &name, &agent)?;
        config.push_str(&format_host(&name, port));
        names.push(name);
    }
    write(&demo.root.join("rbctl.toml"), &config)?;
    Ok(names)
}

fn format_host(name: &str, port: u16) -> String {
    format!("{name} = \"127.0.0.1:{port}\"\n")
}

fn free_port() -> Result<u16, CommandError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed("cannot find a free port"))?;
    Ok(listener.local_addr().map_err(failed("cannot find a free port"))?.port())
}

fn set_up_host(demo: &mut Demo, name: &str, agent: &Path) -> Result<u16, CommandError> {
    let root = demo.root.join(name);
    let (configuration, app) = (root.join("etc"), root.join("web"));
    for directory in [&configuration.join("components.d"), &configuration.join("pki"), &app.join("releases")] {
        make(directory)?;
    }
    for directory in [root.join("state"), root.join("run")] {
        std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(failed("cannot make a directory"))?;
    }
    for (version, age, broken) in [("2.3.9", 9, false), ("2.4.0", 5, false), ("2.4.1", 0, true)] {
        lay_down(&app.join("releases").join(version), version, age, broken)?;
    }
    symlink("releases/2.4.1", app.join("current")).map_err(failed("cannot link `current`"))?;
    let pki = demo.root.join("pki");
    let (port, service) = (free_port()?, free_port()?);
    write(
        &configuration.join("agent.toml"),
        &format!(
            "host = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n\n[tls]\ndomain = \"demo\"\nauthority = \"{pki}/ca.crt\"\ncertificate = \"{pki}/agents/{name}.crt\"\nkey = \"{pki}/agents/{name}.key\"\nrevocations = \"{pki}/crl.pem\"\n",
            pki = pki.display()
        ),
    )?;
    write(
        &configuration.join("components.d/web.toml"),
        &format!(
            "name = \"web\"\nenvironment = \"demo\"\nroot = \"{}\"\nreleases = \"releases\"\nbackend = \"process\"\nunits = [\"web.service\"]\n\n[commands]\n\"web.service\" = [\"bin/rb-demo-service\", \"--listen\", \"127.0.0.1:{service}\", \"--root\", \".\"]\n\n[[probes]]\nname = \"health\"\nkind = \"http\"\nurl = \"http://127.0.0.1:{service}/healthz\"\ntimeout = \"1s\"\ninterval = \"100ms\"\nfailures = 3\n\n[timeouts]\nstability = \"500ms\"\n",
            app.display()
        ),
    )?;
    let log = std::fs::File::create(root.join("agent.log")).map_err(failed("cannot make the agent's log"))?;
    let also = log.try_clone().map_err(failed("cannot make the agent's log"))?;
    let child = Command::new(agent)
        .arg("run")
        .args(["--configuration".as_ref(), configuration.as_os_str()])
        .args(["--state".as_ref(), root.join("state").as_os_str()])
        .args(["--runtime".as_ref(), root.join("run").as_os_str()])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(also)
        .spawn()
        .map_err(failed("cannot start rb-agent"))?;
    write(&root.join("agent.pid"), &child.id().to_string())?;
    demo.agents.push(child);
    Ok(port)
}

/// Lays a release down as a deploy script would, `age` days ago.
fn lay_down(path: &Path, version: &str, age: u64, broken: bool) -> Result<(), CommandError> {
    make(&path.join("bin"))?;
    let program = path.join("bin/rb-demo-service");
    std::fs::copy(beside("rb-demo-service")?, &program).map_err(failed("cannot copy the service"))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).map_err(failed("cannot make the service executable"))?;
    write(&path.join("VERSION"), &format!("{version}\n"))?;
    if broken {
        write(&path.join("BROKEN"), "unhealthy\n")?;
    }
    let then = std::time::SystemTime::now() - Duration::from_secs(age * 24 * 3600);
    let directory = std::fs::File::open(path).map_err(failed("cannot open a release"))?;
    directory.set_modified(then).map_err(failed("cannot set the age of a release"))
}

async fn wait_for_agents(demo: &mut Demo, hosts: &[String]) -> Result<(), CommandError> {
    let asking = async {
        loop {
            for (agent, host) in demo.agents.iter_mut().zip(hosts) {
                if let Ok(Some(status)) = agent.try_wait() {
                    let log = std::fs::read_to_string(demo.root.join(host).join("agent.log")).unwrap_or_default();
                    return Err(CommandError::new(
                        ErrorKind::Failed,
                        format!("the agent of {host} ended with {status}:\n{log}"),
                    ));
                }
            }
            let answered = client(demo, &["status"])?.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if answered.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    };
    tokio::time::timeout(START_LIMIT, asking)
        .await
        .unwrap_or_else(|_| Err(CommandError::new(ErrorKind::Failed, "the agents do not answer")))
}

/// Ends the services that the agents had started.
fn end_services(root: &Path) {
    let services = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let program = std::fs::read_link(entry.path().join("exe")).ok()?;
        (program.starts_with(root) && program.ends_with("rb-demo-service")).then_some(pid)
    });
    for pid in services {
        // One that has ended already is no error.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).ok();
    }
}

fn stop(session: &Session, root: &Path) -> Result<u8, CommandError> {
    let root = root.canonicalize().map_err(failed("cannot find the demo"))?;
    if !root.join("rbctl.toml").exists() || !root.join("host1/agent.pid").exists() {
        return Err(CommandError::usage(format!("`{}` is no demo", root.display()), "`--dir` names the kept demo"));
    }
    for number in 1..=HOSTS {
        let pid = std::fs::read_to_string(root.join(format!("host{number}/agent.pid"))).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<i32>() else { continue };
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // The number may belong to somebody else by now.
        if program.ends_with("rb-agent") {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).ok();
        }
    }
    end_services(&root);
    std::fs::remove_dir_all(&root).map_err(failed("cannot remove the demo"))?;
    session.printer.say("the demo is ended and removed");
    Ok(EXIT_DONE)
}
