//! Deploys on real systemd hosts: by the agent, and by other hands, watched and taken back.

#![expect(clippy::disallowed_methods, reason = "this suite installs files and starts programs")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rollback_tests::hosts::{Fleet, Host, available};
use rollback_tests::skip::skipped;
use rollback_tests::wait::wait_until;
use serde_json::Value;

/// How long anything on a host may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const UNIT: &str = "[Unit]\nDescription=A service that can be told to fail\n[Service]\nType=notify\n\
    ExecStart=/srv/web/current/rb-demo-service --listen 127.0.0.1:8080 --root /srv/web/current\n";

const COMPONENT: &str = r#"
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
"#;

/// What people had before: a copy, a link, a restart. The agent is not mentioned in it.
const SCRIPT: &str = "#!/bin/sh\nset -eu\ncp -a /srv/build /srv/web/releases/$1\n\
    ln -sfn releases/$1 /srv/web/current\nsystemctl restart web.service || true\n";

/// One host with an agent, a service that runs its first release, and somebody's deploy script.
struct World {
    fleet: Fleet,
    // The hosts see it until they are gone.
    _staged: tempfile::TempDir,
}

fn built() -> PathBuf {
    let own = std::env::current_exe().expect("this test has a path");
    own.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_owned()
}

/// Says whether real hosts can be had, and which test is skipped when not.
fn real_hosts(test: &str) -> bool {
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
fn stage() -> tempfile::TempDir {
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

impl World {
    fn up(component: &str) -> Self {
        let staged = stage();
        let world = Self { fleet: Fleet::up(1).expect("a host"), _staged: staged };
        let (host, staged) = (world.host(), world._staged.path().display());
        host.sh(&format!("{staged}/systemd/install.sh --from {staged}")).expect("the installer works");
        host.write("/etc/rollback/agent.toml", "host = \"h1\"\n", 0o644).expect("written");
        host.write("/etc/rollback/components.d/web.toml", component, 0o644).expect("written");
        host.write("/etc/systemd/system/web.service", UNIT, 0o644).expect("written");
        host.write("/usr/local/bin/deploy", SCRIPT, 0o755).expect("written");
        host.sh(&format!(
            "mkdir -p /srv/web/releases /srv/build; cp {staged}/rb-demo-service /srv/build/; echo 1 > /srv/build/VERSION
             cp -a /srv/build /srv/web/releases/1; ln -s releases/1 /srv/web/current
             systemctl daemon-reload; systemctl start web.service rb-agent.service"
        ))
        .expect("service and agent start");
        world
    }

    fn host(&self) -> &Host {
        self.fleet.host(1)
    }

    /// Puts the next version into the build directory; `fault` is what its service is told to do wrong.
    fn build(&self, version: &str, fault: &str) {
        let broken = if fault.is_empty() { "rm -f BROKEN".to_owned() } else { format!("echo '{fault}' > BROKEN") };
        self.host().sh(&format!("cd /srv/build; echo {version} > VERSION; {broken}")).expect("built");
    }

    /// Builds a version and lays it down in the releases directory, as rsync would.
    fn lay_down(&self, version: &str, fault: &str) {
        self.build(version, fault);
        self.host().sh(&format!("cp -a /srv/build /srv/web/releases/{version}")).expect("laid down");
    }

    fn rbctl(&self, args: &[&str]) -> Output {
        self.host().exec(&[&["rbctl", "--local"], args].concat()).expect("rbctl starts")
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.rbctl(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("rbctl {args:?}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        })
    }

    fn current(&self) -> String {
        self.host().sh("readlink /srv/web/current").expect("a link").trim().to_owned()
    }

    fn invocation(&self) -> String {
        self.host().sh("systemctl show -P InvocationID web.service").expect("systemctl").trim().to_owned()
    }

    /// The operations that have ended, newest first.
    fn history(&self) -> Vec<Value> {
        self.json(&["history"])["hosts"][0]["operations"].as_array().cloned().unwrap_or_default()
    }

    /// The phase of the operation that runs.
    fn phase(&self) -> Option<String> {
        let status = self.json(&["status"]);
        let phase = &status["hosts"][0]["components"][0]["operation"]["phase"];
        phase["phase"].as_str().map(str::to_owned)
    }

    fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        if let Err(error) = wait_until(LIMIT, what, condition) {
            let log = self.host().sh("journalctl -u rb-agent -u web --no-pager -o cat | tail -40").unwrap_or_default();
            panic!("{error}\n{log}");
        }
    }

    /// Waits until so many operations have ended, and gives the newest.
    fn ended(&self, operations: usize) -> Value {
        self.wait_for("the operation to end", || self.history().len() == operations && self.phase().is_none());
        self.history()[0].clone()
    }
}

#[test]
fn a_bad_release_of_an_unchanged_script_is_taken_back_by_itself() {
    if !real_hosts("a_bad_release_of_an_unchanged_script_is_taken_back_by_itself") {
        return;
    }
    let world = World::up(COMPONENT);
    let mut version = 1;
    for fault in ["unhealthy", "crash", "crash-after 1", "hang", "slow 2000"] {
        version += 1;
        world.build(&version.to_string(), fault);
        world.host().sh(&format!("deploy {version}")).expect("the script does not know");
        let operation = world.ended(version - 1);
        assert_eq!(world.current(), "releases/1", "{fault}: {operation}");
        assert_eq!(operation["result"], "put_back", "{fault}: {operation}");
        assert_eq!((&operation["trigger"], &operation["operation_type"]), (&"external".into(), &"deploy".into()));
        let id = operation["operation"].as_str().expect("an operation");
        let report = String::from_utf8_lossy(&world.rbctl(&["show", id]).stdout).into_owned();
        assert!(report.contains("another hand") && report.contains("failed and put back"), "{fault}: {report}");
    }
    // And a good one stays.
    world.build("99", "");
    world.host().sh("deploy 99").expect("the script works");
    world.wait_for("the watch to begin", || world.phase().as_deref() == Some("watching"));
    assert_eq!(world.current(), "releases/99");
}

#[test]
fn a_deploy_is_watched_confirmed_and_taken_back() {
    if !real_hosts("a_deploy_is_watched_confirmed_and_taken_back") {
        return;
    }
    let world = World::up(COMPONENT);
    world.lay_down("2", "");
    let done = world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(world.current(), "releases/2");
    world.lay_down("3", "crash-after 2");
    let failed = world.rbctl(&["deploy", "3", "--watch", "1m", "--yes"]);
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stdout));
    assert_eq!(world.current(), "releases/2");
    world.lay_down("4", "");
    let unconfirmed = world.rbctl(&["deploy", "4", "--watch", "1s", "--confirm", "2s", "--yes"]);
    assert_eq!(unconfirmed.status.code(), Some(1), "{}", String::from_utf8_lossy(&unconfirmed.stdout));
    assert!(String::from_utf8_lossy(&unconfirmed.stdout).contains("nobody confirmed it"));
    assert_eq!(world.current(), "releases/2");
    world.lay_down("5", "");
    let begun = world.rbctl(&["deploy", "5", "--watch", "1s", "--confirm", "1h", "--yes", "--detach"]);
    assert_eq!(begun.status.code(), Some(0), "{}", String::from_utf8_lossy(&begun.stderr));
    world.wait_for("the word that is missing", || world.phase().as_deref() == Some("confirming"));
    let status = world.json(&["status"]);
    let id = status["hosts"][0]["components"][0]["operation"]["id"].as_str().expect("it runs").to_owned();
    assert_eq!(world.rbctl(&["confirm", &id]).status.code(), Some(0));
    assert_eq!(world.ended(4)["result"], "done");
    assert_eq!(world.current(), "releases/5");
    let states: Vec<(String, bool)> = world.json(&["releases"])["hosts"][0]["components"][0]["releases"]
        .as_array()
        .expect("releases")
        .iter()
        .map(|release| {
            (release["manifest"]["id"].as_str().unwrap_or_default().to_owned(), !release["good_since"].is_null())
        })
        .collect();
    let good: Vec<&str> = states.iter().filter(|(_, good)| *good).map(|(id, _)| id.as_str()).collect();
    assert_eq!(good, ["5", "2"], "only what has survived its watch is good: {states:?}");
}

#[test]
fn a_watch_goes_on_over_restarts_and_gives_way_to_an_operator() {
    if !real_hosts("a_watch_goes_on_over_restarts_and_gives_way_to_an_operator") {
        return;
    }
    let world = World::up(COMPONENT);
    world.lay_down("2", "");
    world.rbctl(&["deploy", "2", "--watch", "1h", "--yes", "--detach"]);
    world.wait_for("the watch", || world.phase().as_deref() == Some("watching"));
    let (before, began) = (world.invocation(), began(&world));
    for signal in ["KILL", "TERM"] {
        let old = world.host().main_pid("rb-agent.service").expect("the agent runs");
        world.host().sh(&format!("systemctl kill -s {signal} rb-agent.service")).expect("signalled");
        world.wait_for("the next agent to watch", || {
            world.host().main_pid("rb-agent.service").is_ok_and(|pid| pid != old)
                && world.rbctl(&["status"]).status.success()
                && world.phase().as_deref() == Some("watching")
        });
        assert_eq!(world.invocation(), before, "a watch that goes on restarts nothing");
        assert_eq!(self::began(&world), began, "and its time goes on");
    }
    let back = world.rbctl(&["rollback", "--yes", "--reason", "users complain"]);
    assert_eq!(back.status.code(), Some(0), "{}", String::from_utf8_lossy(&back.stderr));
    assert_eq!(world.current(), "releases/1");
    let results: Vec<Value> = world.history().into_iter().map(|line| line["result"].clone()).collect();
    assert!(results.contains(&"superseded".into()) && results.contains(&"done".into()), "{results:?}");
}

fn began(world: &World) -> Value {
    world.json(&["status"])["hosts"][0]["components"][0]["operation"]["watched"]["began"].clone()
}

#[test]
fn what_failed_before_is_not_the_releases_fault() {
    if !real_hosts("what_failed_before_is_not_the_releases_fault") {
        return;
    }
    let dependency = "[[probes]]\nname = \"database\"\nkind = \"exec\"\ncommand = [\"/bin/test\", \"-e\", \"/srv/database\"]\n\
        timeout = \"1s\"\ninterval = \"100ms\"\nfailures = 1\n";
    let world = World::up(&format!("{COMPONENT}\n{dependency}"));
    world.lay_down("2", "");
    let output = world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(world.current(), "releases/2", "nothing is gained by going back");
}

#[test]
fn two_bad_releases_are_one_step_back_and_a_call_for_a_person() {
    if !real_hosts("two_bad_releases_are_one_step_back_and_a_call_for_a_person") {
        return;
    }
    let world = World::up(COMPONENT);
    // What runs is well, and would not be after a restart: its directory is another hand's by now.
    world.host().sh("echo crash > /srv/web/releases/1/BROKEN").expect("broken");
    world.lay_down("2", "unhealthy");
    let output = world.rbctl(&["deploy", "2", "--watch", "1m", "--yes"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("manual intervention required"), "{report}");
    assert_eq!(world.history().len(), 1);
    assert_eq!(world.phase(), None, "it does not go to and fro");
}

#[test]
fn a_release_that_was_still_being_copied_is_taken_when_it_is_whole() {
    if !real_hosts("a_release_that_was_still_being_copied_is_taken_when_it_is_whole") {
        return;
    }
    let world = World::up(COMPONENT);
    world.host().sh("mkdir /srv/web/releases/2; cp /srv/build/VERSION /srv/web/releases/2/").expect("half of it");
    // A dry run of a deploy looks for new directories, and records this one as it is.
    world.rbctl(&["deploy", "2", "--dry-run"]);
    world.host().sh("cp -a /srv/build/. /srv/web/releases/2/").expect("the rest");
    let output = world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.current(), "releases/2");
}
