//! The product on real systemd hosts: installed from the built files, driven by `rbctl` over mutual TLS.

#![expect(clippy::disallowed_methods, reason = "this suite installs files and starts programs")]

#[path = "hosts/killed.rs"]
mod killed;

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use rollback_tests::hosts::{Fleet, Host};
use rollback_tests::installed::{built, real_hosts, stage};
use rollback_tests::wait::wait_until;
use serde_json::Value;

/// How long anything on a host may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The service: a web server of the distribution that serves what `current` leads to.
const UNIT: &str = "[Unit]\nDescription=A web server of the distribution\n[Service]\nExecStart=/usr/bin/python3 -m http.server 8080 --directory /srv/web/current\nWorkingDirectory=/\n[Install]\nWantedBy=fleet.target\n";

const COMPONENT: &str = r#"
name = "web"
environment = "prod"
root = "/srv/web"
releases = { directory = "backups/prod", pattern = "backup_*" }
units = ["web.service"]

[[probes]]
name = "page"
kind = "http"
url = "http://127.0.0.1:8080/health.txt"
timeout = "1s"
interval = "100ms"
failures = 5

[timeouts]
stability = "300ms"
"#;

/// Hosts with agents, and the operator's files.
struct World {
    fleet: Fleet,
    operator: tempfile::TempDir,
    staged: tempfile::TempDir,
}

impl World {
    fn up(hosts: usize) -> Self {
        let staged = stage();
        let operator = tempfile::tempdir().expect("a directory");
        let world = Self { fleet: Fleet::up(hosts).expect("hosts"), operator, staged };
        world.pki(&["init", "--domain", "lab"]);
        world.pki(&["issue", "operator", "alice", "--role", "operator", "--environment", "prod"]);
        world.pki(&["issue", "operator", "vera", "--role", "viewer", "--environment", "prod"]);
        let mut addresses = String::new();
        for host in world.fleet.hosts() {
            world.pki(&["issue", "agent", host.name()]);
            addresses.push_str(&format_address(host));
            world.install(host);
        }
        for (context, name) in [("alice", "alice"), ("vera", "vera")] {
            let text = format!(
                "current_context = \"{context}\"\n[contexts.{context}]\ndomain = \"lab\"\nauthority = \"pki/ca.crt\"\ncertificate = \"pki/operators/{name}.crt\"\nkey = \"pki/operators/{name}.key\"\n[contexts.{context}.hosts]\n{addresses}"
            );
            std::fs::write(world.operator.path().join(format!("{context}.toml")), text).expect("a written file");
        }
        world
    }

    fn pki(&self, args: &[&str]) {
        let output = std::process::Command::new(built().join("rbctl"))
            .args(["pki", "--dir"])
            .arg(self.operator.path().join("pki"))
            .args(args)
            .output()
            .expect("rbctl starts");
        assert!(output.status.success(), "pki {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn install(&self, host: &Host) {
        let staged = self.staged.path().display();
        host.sh(&format!("{staged}/systemd/install.sh --from {staged}")).expect("the installer works");
        let pki = self.operator.path().join("pki");
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("a readable file");
        host.write("/etc/rollback/pki/ca.crt", read(pki.join("ca.crt")), 0o644).expect("written");
        host.write("/etc/rollback/pki/crl.pem", read(pki.join("crl.pem")), 0o644).expect("written");
        let (certificate, key) = (format!("agents/{}.crt", host.name()), format!("agents/{}.key", host.name()));
        host.write("/etc/rollback/pki/agent.crt", read(pki.join(certificate)), 0o644).expect("written");
        host.write("/etc/rollback/pki/agent.key", read(pki.join(key)), 0o600).expect("written");
        let agent = format!("host = \"{}\"\nlisten = \"0.0.0.0:7443\"\n[tls]\ndomain = \"lab\"\n", host.name());
        host.write("/etc/rollback/agent.toml", agent, 0o644).expect("written");
        host.write("/etc/rollback/components.d/web.toml", COMPONENT, 0o644).expect("written");
        host.write("/etc/systemd/system/web.service", UNIT, 0o644).expect("written");
        host.sh("mkdir -p /srv/web/backups/prod; cd /srv/web/backups/prod
             for stamp in 20241110_120000 20241111_120000 20241112_153045; do
               mkdir backup_$stamp; echo $stamp > backup_$stamp/index.html; echo ok > backup_$stamp/health.txt
             done
             rm backup_20241112_153045/health.txt
             ln -s backups/prod/backup_20241112_153045 /srv/web/current
             systemctl daemon-reload; systemctl start web.service; systemctl start rb-agent.service")
            .expect("service and agent start");
    }

    /// Runs `rbctl` on the hosts' network, as alice.
    fn rbctl(&self, args: &[&str]) -> Output {
        self.rbctl_as("alice", args)
    }

    fn rbctl_as(&self, who: &str, args: &[&str]) -> Output {
        let config = format!("RBCTL_CONFIG={}", self.operator.path().join(format!("{who}.toml")).display());
        let program = built().join("rbctl").display().to_string();
        let mut command = vec!["env", &config, &program];
        command.extend(args);
        self.fleet.net(&command).expect("rbctl starts")
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.rbctl(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "rbctl {args:?} ended with {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["-o", "json"]].concat())).expect("JSON")
    }
}

fn format_address(host: &Host) -> String {
    format!("{} = \"{}\"\n", host.name(), host.address())
}

fn current(host: &Host) -> String {
    host.sh("readlink /srv/web/current").expect("a link").trim().to_owned()
}

fn served(host: &Host) -> String {
    let page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/index.html').read().decode())";
    host.sh(&format!("python3 -c \"{page}\"")).expect("the service answers").trim().to_owned()
}

#[test]
fn three_hosts_go_back_over_mutual_tls_and_remember_it() {
    if !real_hosts("three_hosts_go_back_over_mutual_tls_and_remember_it") {
        return;
    }
    let world = World::up(3);
    let releases = world.json(&["releases", "--host", "h1"]);
    assert_eq!(releases["hosts"][0]["components"][0]["releases"].as_array().map(Vec::len), Some(3));
    world.done(&["verify", "--host", "h1", "backup_20241111_120000"]);
    let plan = world.operator.path().join("plan.json").display().to_string();
    world.done(&["plan", "--host", "h1", "-o", &plan]);
    assert_eq!(current(world.fleet.host(1)), "backups/prod/backup_20241112_153045", "a plan changes nothing");
    world.done(&["apply", &plan, "--host", "h1"]);
    assert_eq!(current(world.fleet.host(1)), "backups/prod/backup_20241111_120000");
    assert_eq!(served(world.fleet.host(1)), "20241111_120000");
    let shown = world.done(&["plan", "--host", "h1"]);
    assert!(shown.contains("to run it: "), "who only looks is told what will be missing: {shown}");
    let again = world.rbctl(&["rollback", "--host", "h1", "--yes"]);
    assert_eq!(again.status.code(), Some(1), "leaving a healthy release needs a reason");
    assert!(String::from_utf8_lossy(&again.stderr).contains("REASON_NEEDED"));
    world.done(&["rollback", "--host", "h2,h3", "--yes", "--reason", "the page is missing"]);
    for number in [2, 3] {
        assert_eq!(served(world.fleet.host(number)), "20241111_120000");
    }
    world.done(&[
        "rollback",
        "--host",
        "h2",
        "--to",
        "backup_20241110_120000",
        "--reason",
        "older",
        "--force",
        "--yes",
    ]);
    assert_eq!(served(world.fleet.host(2)), "20241110_120000");
    world.done(&["rollback", "--host", "h3", "--emergency", "--yes"]);
    world.done(&["audit"]);
    world.done(&["stats"]);
    let history = world.json(&["history", "--host", "h2"]);
    let id = history["hosts"][0]["operations"][0]["operation"].as_str().expect("an operation").to_owned();
    world.done(&["show", "--host", "h2", &id]);
    wait_until(LIMIT, "what the release that was left had logged", || {
        let shown = world.json(&["show", "--host", "h2", &id]);
        shown["hosts"][0]["evidence"][0]["journal"].as_array().is_some_and(|lines| !lines.is_empty())
    })
    .expect("it is kept");
    let field = format!("ROLLBACK_OPERATION={id}");
    wait_until(LIMIT, "the journal has the operation", || {
        world.fleet.host(2).journal(&[&field]).is_ok_and(|entries| entries.len() >= 2)
    })
    .expect("the audit reaches journald");
    let local = world.fleet.host(1).sh("rbctl --local status").expect("the local socket serves root");
    assert!(local.contains("backup_20241111_120000"), "{local}");
}

#[test]
fn a_viewer_may_look_and_not_change() {
    if !real_hosts("a_viewer_may_look_and_not_change") {
        return;
    }
    let world = World::up(1);
    assert!(world.rbctl_as("vera", &["status", "--host", "h1"]).status.success());
    let denied = world.rbctl_as("vera", &["rollback", "--host", "h1", "--yes", "--reason", "no right"]);
    assert_eq!(denied.status.code(), Some(8), "{}", String::from_utf8_lossy(&denied.stderr));
    assert_eq!(current(world.fleet.host(1)), "backups/prod/backup_20241112_153045");
}

#[test]
fn an_agent_killed_in_the_middle_finishes_by_itself() {
    if !real_hosts("an_agent_killed_in_the_middle_finishes_by_itself") {
        return;
    }
    let world = World::up(1);
    let host = world.fleet.host(1);
    // The unit takes a second to stop, so that the kill comes in the middle.
    host.write("/etc/systemd/system/web.service.d/slow.conf", "[Service]\nExecStop=/bin/sleep 1\n", 0o644)
        .expect("written");
    host.sh("systemctl daemon-reload").expect("reloaded");
    let killer = host
        .spawn(&["sh", "-c", "while [ $(systemctl show -P ActiveState web.service) = active ]; do :; done; systemctl kill -s KILL rb-agent.service"])
        .expect("a killer");
    world.done(&["rollback", "--host", "h1", "--yes", "--reason", "the page is missing"]);
    drop(killer.wait_with_output());
    assert_eq!(served(host), "20241111_120000");
    let history = world.json(&["history", "--host", "h1"]);
    let operations = history["hosts"][0]["operations"].as_array().expect("operations").clone();
    assert_eq!(operations.len(), 1, "one operation, whatever died: {operations:?}");
    assert_eq!(operations[0]["result"], "done");
    let id = operations[0]["operation"].as_str().expect("an operation");
    let shown = world.json(&["show", "--host", "h1", id]);
    assert_eq!(shown["hosts"][0]["operation"]["recoveries"], 1, "{shown}");
}

#[test]
fn a_changed_file_is_taken_and_a_bad_one_is_refused_and_told() {
    if !real_hosts("a_changed_file_is_taken_and_a_bad_one_is_refused_and_told") {
        return;
    }
    let world = World::up(1);
    let host = world.fleet.host(1);
    let old = host.main_pid("rb-agent.service").expect("the agent runs");
    let shown = || {
        let output = world.rbctl(&["status", "--host", "h1"]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    host.write("/etc/rollback/components.d/web.toml", format!("unit = 3\n{COMPONENT}"), 0o644).expect("written");
    wait_until(LIMIT, "the refusal", || shown().contains("unknown key `unit`")).expect("it is told");
    assert!(shown().contains("backup_20241112_153045"), "the old one stays in force");
    host.write("/etc/rollback/components.d/web.toml", COMPONENT.replace("\"web\"", "\"shop\""), 0o644)
        .expect("written");
    wait_until(LIMIT, "the new configuration", || shown().contains("shop")).expect("it is in force");
    assert!(!shown().contains("unknown key"), "the problem is gone");
    // And by hand.
    host.write("/etc/rollback/components.d/web.toml", COMPONENT, 0o644).expect("written");
    host.sh("systemctl reload rb-agent.service").expect("reloaded");
    wait_until(LIMIT, "the old name", || !shown().contains("shop")).expect("it is in force");
    assert_eq!(host.main_pid("rb-agent.service").expect("it runs"), old, "nothing was restarted");
    let modes = host.sh("stat -c %a /var/lib/rollback /run/rollback /run/rollback/agent.sock").expect("stat");
    assert_eq!(modes.split_whitespace().collect::<Vec<_>>(), ["700", "700", "600"]);
    host.sh("chmod 644 /etc/rollback/pki/agent.key; systemctl restart rb-agent.service || true").expect("asked");
    wait_until(LIMIT, "the reason in the log", || {
        host.sh("journalctl -u rb-agent.service -o cat").is_ok_and(|log| log.contains("agent.key"))
    })
    .expect("it refuses a key that others can read, by its name");
}
