//! Units, bus and journal that misbehave under a real agent on a real systemd; each by its number in the failure model.

#![expect(clippy::disallowed_methods, reason = "this suite makes keys and configuration files, and reads the clock")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use rbctl::pki::store::{Order, Pki};
use rollback::model::identity::{Role, Scope};
use rollback_tests::installed::{COMPONENT, Installed, built, real_hosts, said};
use serde_json::Value;

/// journald, and what would start it again.
const JOURNALD: &str = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service";

/// A host on which release 2 runs and is good, and release 1 ran before.
fn two_releases(component: &str, service: &str) -> Installed {
    let host = Installed::up(component);
    if !service.is_empty() {
        host.host()
            .write("/etc/systemd/system/web.service.d/test.conf", format!("[Service]\n{service}\n"), 0o644)
            .expect("written");
        host.host().sh("systemctl daemon-reload; systemctl restart web.service").expect("restarted");
    }
    host.lay_down("2", "");
    let deployed = host.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(deployed.status.code(), Some(0), "{}", said(&deployed));
    host
}

fn with_timeouts(lines: &str) -> String {
    COMPONENT.replace("stability = \"300ms\"", lines)
}

fn go_back(host: &Installed) -> Output {
    host.rbctl(&["rollback", "--yes", "--reason", "the test asks for it"])
}

/// The report of the newest operation.
fn newest(host: &Installed) -> Value {
    let history = host.history();
    let id = history.first().and_then(|line| line["operation"].as_str()).expect("an operation").to_owned();
    host.json(&["show", &id])["hosts"][0]["operation"].clone()
}

fn step_ms(operation: &Value, effect: &str) -> u64 {
    let steps = operation["steps"].as_array().expect("steps");
    let step = steps.iter().find(|step| step["effect"]["effect"] == effect).expect("the step was made");
    step["duration_us"].as_u64().expect("a duration") / 1_000
}

#[test]
fn f33_a_unit_that_ignores_sigterm_is_killed_at_our_deadline() {
    if !real_hosts("f33_a_unit_that_ignores_sigterm_is_killed_at_our_deadline") {
        return;
    }
    let stubborn = "ExecStart=\nExecStart=/bin/sh -c 'trap \"\" TERM; exec /srv/web/current/rb-demo-service --listen \
        127.0.0.1:8080 --root /srv/web/current'\nTimeoutStopSec=1h";
    let host = two_releases(&with_timeouts("stability = \"300ms\"\nstop = \"700ms\""), stubborn);
    let output = go_back(&host);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(host.current(), "releases/1");
    assert!(step_ms(&newest(&host), "units_stopped") >= 700, "it had its time to stop");
}

#[test]
fn f35_a_unit_at_its_start_limit_is_started_all_the_same() {
    if !real_hosts("f35_a_unit_at_its_start_limit_is_started_all_the_same") {
        return;
    }
    let host = two_releases(
        &COMPONENT.replace("[policy]", "[policy]\nexternal_deploys = \"note\""),
        "Restart=always\nRestartSec=10ms\n[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=1h",
    );
    host.build("3", "crash");
    host.host().sh("deploy 3").expect("the script works");
    host.wait_for("the start limit", || {
        let refused = "journalctl -u web.service -o cat --no-pager | grep -q 'repeated too quickly'";
        host.host().sh(refused).is_ok()
    });
    let output = host.rbctl(&["rollback", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(host.current(), "releases/2");
}

#[test]
fn f36_a_masked_unit_is_refused_before_anything_is_stopped() {
    if !real_hosts("f36_a_masked_unit_is_refused_before_anything_is_stopped") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    host.host().sh("systemctl mask web.service").expect("masked");
    let before = host.invocation();
    for args in [&["rollback", "--yes", "--reason", "a test"][..], &["rollback", "--yes", "--emergency"]] {
        let output = host.rbctl(args);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("UNIT_UNUSABLE") && said(&output).contains("systemctl unmask"),
            "{}",
            said(&output)
        );
    }
    assert_eq!((host.current(), host.invocation()), ("releases/2".to_owned(), before), "nothing was touched");
}

#[test]
fn f37_a_unit_that_is_never_ready_is_given_up_at_our_deadline() {
    if !real_hosts("f37_a_unit_that_is_never_ready_is_given_up_at_our_deadline") {
        return;
    }
    let host = two_releases(&with_timeouts("stability = \"300ms\"\nstart = \"1s\""), "TimeoutStartSec=1h");
    host.lay_down("3", "never-ready");
    let output = host.rbctl(&["deploy", "3", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("took longer than 1000 ms"), "{}", said(&output));
    assert_eq!(host.current(), "releases/2");
    let jobs = host.host().sh("systemctl list-jobs --no-legend web.service").expect("systemctl");
    assert_eq!(jobs.trim(), "", "no job is left behind");
}

#[test]
fn f38_a_unit_that_dies_a_second_after_it_was_active_has_failed() {
    if !real_hosts("f38_a_unit_that_dies_a_second_after_it_was_active_has_failed") {
        return;
    }
    let host = two_releases(&with_timeouts("stability = \"5s\""), "Restart=always\nRestartSec=10ms");
    host.lay_down("3", "crash-after 1");
    let output = host.rbctl(&["deploy", "3", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("failed and put back: `2` runs again: verifying `3`: unit"), "{}", said(&output));
    assert_eq!(host.current(), "releases/2");
}

#[test]
fn f42_without_a_bus_the_agent_goes_back_all_the_same() {
    if !real_hosts("f42_without_a_bus_the_agent_goes_back_all_the_same") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    host.host().sh("systemctl stop dbus.socket dbus.service").expect("the bus is gone");
    let output = go_back(&host);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(host.current(), "releases/1");
    host.host().sh("systemctl start dbus.socket dbus.service").expect("the bus is back");
    let output = host.rbctl(&["rollback", "--to", "2", "--yes", "--reason", "with a bus again"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// Goes back while the journal does not take messages, and sees every record of it arrive, once, when it does again.
fn without_journal(host: &Installed, gone: &str, back: impl FnOnce()) {
    let head = |host: &Installed| host.json(&["status"])["hosts"][0]["history_sequence"].as_u64().expect("a head");
    let before = head(host);
    host.host().sh(gone).expect("the journal is gone");
    // More than the socket of a journald that hangs takes, of the log as well as of the audit.
    for _ in 0..20 {
        let refused = host.rbctl(&["rollback", "--yes"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    }
    let output = go_back(host);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(host.current(), "releases/1");
    let operation = newest(host);
    let stopped = step_ms(&operation, "units_stopped") + step_ms(&operation, "units_started");
    assert!(stopped < 5_000, "the journal is in the way: {stopped} ms");
    back();
    let after = head(host);
    assert!(after >= before + 2, "a start and an end were recorded");
    let arrived = || -> Vec<String> {
        let entries = host.host().journal(&["SYSLOG_IDENTIFIER=rb-agent"]).unwrap_or_default();
        entries.iter().filter_map(|entry| entry["ROLLBACK_SEQUENCE"].as_str().map(str::to_owned)).collect()
    };
    let expected: Vec<String> = (before + 1..=after).map(|sequence| sequence.to_string()).collect();
    host.wait_for("every record to arrive", || {
        let arrived = arrived();
        expected.iter().all(|sequence| arrived.contains(sequence))
    });
    let arrived = arrived();
    for sequence in &expected {
        assert_eq!(arrived.iter().filter(|other| *other == sequence).count(), 1, "{sequence} came once: {arrived:?}");
    }
}

#[test]
fn f44_without_journald_nothing_waits_and_nothing_is_lost() {
    if !real_hosts("f44_without_journald_nothing_waits_and_nothing_is_lost") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    without_journal(&host, &format!("systemctl stop {JOURNALD}"), || {
        let lag = host.json(&["status"])["hosts"][0]["audit_lag"].as_u64();
        assert!(lag.is_some_and(|lag| lag > 0), "what was not taken is kept: {lag:?}");
        host.host().sh(&format!("systemctl start {JOURNALD}")).expect("the journal is back");
    });
}

#[test]
fn f45_a_hung_journald_holds_nobody_up() {
    if !real_hosts("f45_a_hung_journald_holds_nobody_up") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    without_journal(&host, "systemctl kill -s STOP systemd-journald.service", || {
        host.host().sh("systemctl kill -s CONT systemd-journald.service").expect("the journal goes on");
    });
}

#[test]
fn f62_with_certificates_that_have_expired_root_on_the_host_goes_back() {
    if !real_hosts("f62_with_certificates_that_have_expired_root_on_the_host_goes_back") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    let keys = tempfile::tempdir().expect("a directory");
    serve_the_network(&host, keys.path(), 3);
    host.wait_for("the certificate to be loaded", || host.rbctl(&["status"]).status.success());
    let warned = said(&host.rbctl(&["status"]));
    assert!(warned.contains("the agent's certificate ends"), "{warned}");
    let address = format!("h1={}:7443", host.host().address());
    let config = format!("RBCTL_CONFIG={}", keys.path().join("rbctl.toml").display());
    let program = built().join("rbctl").display().to_string();
    let remote = |args: &[&str]| {
        let words = [&["env", &config, &program, "--host", &address], args].concat();
        host.fleet().net(&words).expect("rbctl starts")
    };
    assert_eq!(remote(&["status"]).status.code(), Some(0), "{}", said(&remote(&["status"])));
    serve_the_network(&host, keys.path(), -3);
    let refused = remote(&["rollback", "--yes", "--reason", "a test"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("the certificate of `h1`"), "{}", said(&refused));
    assert_eq!(host.current(), "releases/2");
    let output = go_back(&host);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(host.current(), "releases/1");
}

/// Gives the agent a certificate that ends in so many days, and starts it anew; an operator's files lie in `keys`.
fn serve_the_network(host: &Installed, keys: &Path, ends_in_days: i64) {
    const DAYS: i64 = 100;
    let now = jiff::Timestamp::now();
    let then = now - jiff::SignedDuration::from_hours(24 * (DAYS - ends_in_days));
    let root = keys.join(format!("pki{ends_in_days}"));
    let mut pki = Pki::init(&root, &"lab".parse().expect("a name"), 3_650, 3_650, then).expect("an authority");
    let agent = Order::Agent { host: "h1".parse().expect("a name"), addresses: Vec::new() };
    pki.issue(agent, Some(u32::try_from(DAYS).expect("small")), None, then).expect("a certificate");
    let roles = BTreeSet::from([Role::Operator]);
    let alice = Order::Operator { name: "alice".parse().expect("a name"), roles, scope: Scope::All };
    pki.issue(alice, None, None, now).expect("a certificate");
    let read = |name: &str| std::fs::read(root.join(name)).expect("a readable file");
    host.host().sh("mkdir -p /etc/rollback/pki").expect("made");
    for (from, to, mode) in
        [("ca.crt", "ca.crt", 0o644), ("agents/h1.crt", "agent.crt", 0o644), ("agents/h1.key", "agent.key", 0o600)]
    {
        host.host().write(&format!("/etc/rollback/pki/{to}"), read(from), mode).expect("written");
    }
    let agent = "host = \"h1\"\nlisten = \"0.0.0.0:7443\"\n[tls]\ndomain = \"lab\"\n";
    host.host().write("/etc/rollback/agent.toml", agent, 0o644).expect("written");
    let name = root.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let context = format!(
        "current_context = \"lab\"\n[contexts.lab]\ndomain = \"lab\"\nauthority = \"{name}/ca.crt\"\n\
         certificate = \"{name}/operators/alice.crt\"\nkey = \"{name}/operators/alice.key\"\n"
    );
    std::fs::write(keys.join("rbctl.toml"), context).expect("written");
    host.host().sh("systemctl restart rb-agent.service").expect("restarted");
}

#[test]
fn f30_a_log_of_another_database_is_reported() {
    if !real_hosts("f30_a_log_of_another_database_is_reported") {
        return;
    }
    let host = two_releases(COMPONENT, "");
    host.wait_for("the audit to be forwarded", || host.json(&["status"])["hosts"][0]["audit_lag"].as_u64() == Some(0));
    // A database of the same kind that another agent has begun.
    host.host()
        .sh("systemctl stop rb-agent.service; cd /var/lib/rollback; mkdir /root/kept; mv ./* /root/kept/
             systemctl start rb-agent.service; systemctl kill -s KILL rb-agent.service; systemctl stop rb-agent.service
             cp history.db-wal /root/other-wal; rm -rf ./*; mv /root/kept/* .
             cp /root/other-wal history.db-wal; rm -f history.db-shm; systemctl start rb-agent.service")
        .expect("the logs are exchanged");
    host.wait_for("the report", || said(&host.rbctl(&["status"])).contains("was forwarded to the journal as"));
    let output = go_back(&host);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
