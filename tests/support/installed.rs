//! One real systemd host with the agent installed on it, a service that can be told to fail, and somebody's deploy script.
#![expect(clippy::disallowed_methods, reason = "this module stages built files for hosts")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test's bed is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::hosts::{Fleet, Host, available};
use crate::skip::skipped;
use crate::wait::wait_until;

/// How long anything on a host may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The service: the project's own, told by a file of its release how to fail.
const UNIT: &str = "[Unit]\nDescription=A service that can be told to fail\n[Service]\nType=notify\n\
    ExecStart=/srv/web/current/rb-demo-service --listen 127.0.0.1:8080 --root /srv/web/current\n";

/// Its component; more tables may follow.
pub const COMPONENT: &str = r#"
name = "web"
environment = "prod"
root = "/srv/web"
units = ["web.service"]

[[probes]]
name = "health"
kind = "http"
url = "http://127.0.0.1:8080/healthz"
timeout = "500ms"
interval = "100ms"
failures = 3

[timeouts]
stability = "300ms"

[policy]
watch = "5m"
automatic_rollbacks = 100
"#;

/// What people had before: a copy, a link, a restart. The agent is not mentioned in it.
const SCRIPT: &str = "#!/bin/sh\nset -eu\ncp -a /srv/build /srv/web/releases/$1\n\
    ln -sfn releases/$1 /srv/web/current\nsystemctl restart web.service || true\n";

/// One host with an agent, a service that runs its first release, and somebody's deploy script.
#[derive(Debug)]
pub struct Installed {
    fleet: Fleet,
    /// What is installed; the host sees it until it is gone.
    staged: tempfile::TempDir,
}

/// Where this build's programs are.
pub fn built() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_owned()
}

/// Joins what a command said on both of its outputs.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Says whether real hosts can be had, and which test is skipped when not.
pub fn real_hosts(test: &str) -> bool {
    match available() {
        Ok(()) if built().join("rb-agent").exists() && built().join("rbctl").exists() => true,
        Ok(()) => {
            skipped(test, "rb-agent and rbctl are not built: `cargo build --workspace`");
            false
        }
        Err(reason) => {
            skipped(test, &reason);
            false
        }
    }
}

/// Copies what is installed to where the hosts see it.
pub fn stage() -> tempfile::TempDir {
    let staged = tempfile::tempdir_in("/var/tmp").expect("a directory that the hosts see");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args(["systemd", "docs"].map(|folder| repository.join(folder)))
        .args(["rb-agent", "rbctl", "rb-demo-service"].map(|name| built().join(name)))
        .arg(staged.path())
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy what is installed");
    staged
}

impl Installed {
    /// Boots the host, installs, and starts service and agent with this component.
    pub fn up(component: &str) -> Self {
        let staged = stage();
        let world = Self { fleet: Fleet::up(1).expect("a host"), staged };
        let (host, staged) = (world.host(), world.staged.path().display());
        host.sh(&format!("{staged}/systemd/install.sh --from {staged}")).expect("the installer works");
        host.write("/etc/rollback/agent.toml", "host = \"h1\"\n", 0o644).expect("written");
        host.write("/etc/rollback/components.d/web.toml", component, 0o644).expect("written");
        host.write("/usr/lib/systemd/system/web.service", UNIT, 0o644).expect("written");
        host.write("/usr/local/bin/deploy", SCRIPT, 0o755).expect("written");
        host.sh(&format!(
            "mkdir -p /srv/web/releases /srv/build; cp {staged}/rb-demo-service /srv/build/; echo 1 > /srv/build/VERSION
             cp -a /srv/build /srv/web/releases/1; ln -s releases/1 /srv/web/current
             systemctl daemon-reload; systemctl start web.service rb-agent.service"
        ))
        .expect("service and agent start");
        world
    }

    /// The host's network.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The host.
    pub fn host(&self) -> &Host {
        self.fleet.host(1)
    }

    /// Puts the next version into the build directory; `fault` is what its service is told to do wrong.
    pub fn build(&self, version: &str, fault: &str) {
        let broken = if fault.is_empty() { "rm -f BROKEN".to_owned() } else { format!("echo '{fault}' > BROKEN") };
        self.host().sh(&format!("cd /srv/build; echo {version} > VERSION; {broken}")).expect("built");
    }

    /// Builds a version and lays it down in the releases directory, as rsync would.
    pub fn lay_down(&self, version: &str, fault: &str) {
        self.build(version, fault);
        self.host().sh(&format!("cp -a /srv/build /srv/web/releases/{version}")).expect("laid down");
    }

    /// Runs `rbctl` on the host, over the local socket.
    pub fn rbctl(&self, args: &[&str]) -> Output {
        self.host().exec(&[&["rbctl", "--local"], args].concat()).expect("rbctl starts")
    }

    /// Runs a command and reads its answer.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.rbctl(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("rbctl {args:?}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Where `current` leads.
    pub fn current(&self) -> String {
        self.host().sh("readlink /srv/web/current").expect("a link").trim().to_owned()
    }

    /// The service's own start.
    pub fn invocation(&self) -> String {
        self.host().sh("systemctl show -P InvocationID web.service").expect("systemctl").trim().to_owned()
    }

    /// The operations that have ended, newest first.
    pub fn history(&self) -> Vec<Value> {
        self.json(&["history"])["hosts"][0]["operations"].as_array().cloned().unwrap_or_default()
    }

    /// The phase of the operation that runs.
    pub fn phase(&self) -> Option<String> {
        let status = self.json(&["status"]);
        let phase = &status["hosts"][0]["components"][0]["operation"]["phase"];
        phase["phase"].as_str().map(str::to_owned)
    }

    /// Waits, and says what agent and service have logged when it was in vain.
    pub fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        if let Err(error) = wait_until(LIMIT, what, condition) {
            let log = self.host().sh("journalctl -u rb-agent -u web --no-pager -o cat | tail -40").unwrap_or_default();
            panic!("{error}\n{log}");
        }
    }

    /// Waits until so many operations have ended, and gives the newest.
    pub fn ended(&self, operations: usize) -> Value {
        self.wait_for("the operation to end", || self.history().len() == operations && self.phase().is_none());
        self.history()[0].clone()
    }
}
