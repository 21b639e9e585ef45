//! Rules on real systemd hosts: releases that fail, get slow, log what they should not, or leak, are left by themselves.

use std::path::Path;

use rollback_tests::installed::{COMPONENT, Installed, real_hosts};
use rollback_tests::skip::skipped;
use serde_json::Value;

/// Short times: a rule is broken for two seconds.
const METRICS: &str = r#"
[[probes]]
name = "errors"
kind = "metric"
url = "http://127.0.0.1:8080/metrics"
errors = 'http_requests_total{code=~"5.."}'
total = "http_requests_total"
window = "3s"
interval = "500ms"
for = "2s"

[[probes]]
name = "latency"
kind = "metric"
url = "http://127.0.0.1:8080/metrics"
histogram = "http_request_duration_seconds"
window = "3s"
interval = "500ms"
for = "2s"
"#;

/// What users do all day; a page that takes long is asked for by many at a time.
const USERS: &str = "systemd-run --quiet --unit=users sh -c 'while :; do for n in 1 2 3 4 5; do \
    curl -s -o /dev/null http://127.0.0.1:8080/ & done; wait; sleep 0.05; done'";

/// Gives what an operator reads of the newest operation, once so many have ended.
fn report(world: &Installed, operations: usize) -> (Value, String) {
    let operation = world.ended(operations);
    let id = operation["operation"].as_str().expect("an operation");
    let report = String::from_utf8_lossy(&world.rbctl(&["show", id]).stdout).into_owned();
    (operation, report)
}

fn deploy(world: &Installed, version: &str, fault: &str) {
    world.lay_down(version, fault);
    let begun = world.rbctl(&["deploy", version, "--watch", "1m", "--yes", "--detach"]);
    assert_eq!(begun.status.code(), Some(0), "{}", String::from_utf8_lossy(&begun.stderr));
}

/// Deploys releases with their faults, and expects that each is left for its reason.
fn left_for(world: &Installed, faults: &[(&str, &str)]) {
    for (done, (fault, why)) in faults.iter().enumerate() {
        deploy(world, &(done + 2).to_string(), fault);
        let (operation, report) = report(world, done + 1);
        assert_eq!(operation["result"], "put_back", "{fault}: {report}");
        assert_eq!(world.current(), "releases/1", "{fault}");
        assert!(report.contains(why), "{fault}: {report}");
    }
}

#[test]
fn error_rates_and_latencies_take_a_release_back() {
    if !real_hosts("error_rates_and_latencies_take_a_release_back") {
        return;
    }
    let world = Installed::up(&format!("{COMPONENT}{METRICS}"));
    world.host().sh(USERS).expect("users come");
    left_for(
        &world,
        &[("errors 20", " s failed, 1 % is the limit, for 2s"), ("slow-page 300", " ms, 200 ms is the limit, for 2s")],
    );
    // And a good one stays to the end of its watch.
    world.lay_down("9", "");
    let good = world.rbctl(&["deploy", "9", "--watch", "6s", "--yes"]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stdout));
}

#[test]
fn critical_lines_and_leaks_take_a_release_back() {
    if !real_hosts("critical_lines_and_leaks_take_a_release_back") {
        return;
    }
    let rules = "[[probes]]\nname = \"journal\"\nkind = \"log\"\npatterns = [\"^FATAL\"]\n\
        [[probes]]\nname = \"leak\"\nkind = \"resource\"\nmax_memory_growth = \"100MiB\"\nwindow = \"4s\"\nfor = \"1s\"\n\
        [[probes]]\nname = \"memory\"\nkind = \"resource\"\nmax_memory = \"150MiB\"\nfor = \"0s\"\n";
    let world = Installed::up(&format!("{COMPONENT}{rules}"));
    // What the old release said is not the new one's doing.
    world
        .host()
        .sh("systemctl stop web; echo 'fatal 0' > /srv/web/releases/1/BROKEN; systemctl start web")
        .expect("told");
    world.wait_for("the line", || world.host().sh("journalctl -u web -o cat").is_ok_and(|log| log.contains("FATAL")));
    world.host().sh("rm /srv/web/releases/1/BROKEN; systemctl restart web").expect("mended");
    left_for(
        &world,
        &[
            ("fatal 1", "probe `journal` fails: it logged a critical line: FATAL the cache is inconsistent"),
            ("leak 8", "probe `leak` fails: memory grows by"),
            ("leak 200", " MiB of memory, 150.0 MiB is the limit"),
        ],
    );
}

#[test]
fn a_rule_that_was_broken_before_is_not_the_releases_fault() {
    if !real_hosts("a_rule_that_was_broken_before_is_not_the_releases_fault") {
        return;
    }
    let world = Installed::up(&format!("{COMPONENT}{METRICS}"));
    // Every release fails as often: something behind them is broken.
    world.host().sh("echo 'errors 20' > /srv/web/releases/1/BROKEN; systemctl restart web").expect("broken");
    world.host().sh(USERS).expect("users come");
    world.wait_for("the rule to be broken", || {
        let health = world.json(&["status"])["hosts"][0]["components"][0]["health"].clone();
        let probes = health["probes"].as_array().cloned().unwrap_or_default();
        probes.iter().any(|probe| probe["name"] == "errors" && probe["passed"] == false)
    });
    world.lay_down("2", "errors 20");
    let output = world.rbctl(&["deploy", "2", "--watch", "8s", "--yes"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{report}");
    assert_eq!(world.current(), "releases/2", "nothing is gained by going back: {report}");
    assert!(report.contains("failed before as well") && report.contains("probe `errors` fails: "), "{report}");
}

#[test]
fn a_rule_without_data_leaves_a_release_where_it_is() {
    if !real_hosts("a_rule_without_data_leaves_a_release_where_it_is") {
        return;
    }
    let world = Installed::up(&format!("{COMPONENT}{METRICS}"));
    world.lay_down("2", "");
    let output = world.rbctl(&["deploy", "2", "--watch", "2s", "--yes"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{report}");
    assert!(report.contains("probe `errors` cannot tell: 0 requests in"), "{report}");
    assert_eq!(world.current(), "releases/2");
    // A rollback has no watch in which rules could tell, and is verified by what can.
    let back = world.rbctl(&["rollback", "--to", "1", "--yes", "--reason", "a test"]);
    assert_eq!(back.status.code(), Some(0), "{}", String::from_utf8_lossy(&back.stdout));
}

#[test]
fn a_broken_rule_goes_on_with_the_time_that_was_left() {
    if !real_hosts("a_broken_rule_goes_on_with_the_time_that_was_left") {
        return;
    }
    let slow = METRICS.replace("for = \"2s\"", "for = \"20s\"");
    let world = Installed::up(&format!("{COMPONENT}{slow}"));
    world.host().sh(USERS).expect("users come");
    deploy(&world, "2", "errors 50");
    world.wait_for("the rule to be broken", || since(&world).is_some());
    let began = since(&world);
    let old = world.host().main_pid("rb-agent.service").expect("the agent runs");
    world.host().sh("systemctl kill -s KILL rb-agent.service").expect("killed");
    let watches = || {
        world.host().main_pid("rb-agent.service").is_ok_and(|pid| pid != old)
            && world.rbctl(&["status"]).status.success()
            && world.phase().as_deref() == Some("watching")
    };
    world.wait_for("the next agent to watch", watches);
    assert_eq!(since(&world), began, "the agent was killed");
    world.host().crash().expect("it crashes");
    world.host().boot().expect("it boots");
    world.host().sh(&format!("systemctl start web.service rb-agent.service; {USERS}")).expect("all start");
    world.wait_for("the agent to watch after the reboot", watches);
    assert_eq!(since(&world), began, "the host was rebooted");
    let (operation, report) = report(&world, 1);
    assert_eq!(operation["result"], "put_back", "{report}");
    assert!(report.contains(" s failed, 1 % is the limit, for 2"), "{report}");
}

/// Since when the error rate of the running watch is too high.
fn since(world: &Installed) -> Option<Value> {
    let status = world.json(&["status"]);
    let failing = status["hosts"][0]["components"][0]["operation"]["watched"]["failing"].get("errors").cloned();
    failing.filter(Value::is_object)
}

#[test]
fn a_prometheus_server_takes_a_release_back() {
    const NAME: &str = "a_prometheus_server_takes_a_release_back";
    if !real_hosts(NAME) {
        return;
    }
    if !Path::new("/usr/bin/prometheus").exists() {
        return skipped(NAME, "needs the package `prometheus`");
    }
    let rule = "[[probes]]\nname = \"slo\"\nkind = \"metric\"\nserver = \"http://127.0.0.1:9090\"\nmax = 0.01\n\
        promql = 'sum(rate(http_requests_total{code=\"500\"}[5s])) / sum(rate(http_requests_total[5s]))'\n\
        interval = \"500ms\"\nfor = \"2s\"\n";
    let world = Installed::up(&format!("{COMPONENT}{rule}"));
    let scrapes = "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: web\n  static_configs:\n  - targets: ['127.0.0.1:8080']\n";
    world.host().write("/etc/prometheus/test.yml", scrapes, 0o644).expect("written");
    world.host().sh(USERS).expect("users come");
    let server = "systemd-run --quiet --unit=metrics prometheus --config.file=/etc/prometheus/test.yml \
        --storage.tsdb.path=/var/tmp/metrics --web.listen-address=127.0.0.1:9090";
    world.host().sh(server).expect("the server starts");
    world.wait_for("its first answer", || {
        let query = "http://127.0.0.1:9090/api/v1/query?query=rate(http_requests_total[5s])";
        world
            .host()
            .exec(&["curl", "-sg", query])
            .is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("value"))
    });
    left_for(&world, &[("errors 20", "probe `slo` fails: the query gives 0.")]);
}

#[test]
fn f47_an_endpoint_that_hangs_streams_lies_or_flaps_harms_nobody() {
    if !real_hosts("f47_an_endpoint_that_hangs_streams_lies_or_flaps_harms_nobody") {
        return;
    }
    let world = Installed::up(&format!("{COMPONENT}{METRICS}"));
    for (done, (answer, result)) in [
        // Hangs and streams: the probe's own limit, and not the time of the watch.
        ("import time; time.sleep(600)", "put_back"),
        ("while True: out.write(b'x' * 65536)", "put_back"),
        // Somebody else says that it is well.
        ("say('302 Found\\r\\nlocation: http://127.0.0.1:8081/', '')", "put_back"),
        // It says that it is well, and is gone: what the manager sees counts.
        ("say('200 OK', 'ok'); os.kill(os.getppid(), 9)", "put_back"),
        // Two of three in a row fail: that is not three.
        ("say('200 OK' if n % 3 == 0 else '503 No', 'up 1')", "done"),
    ]
    .into_iter()
    .enumerate()
    {
        let version = (done + 2).to_string();
        world.build(&version, "");
        world.host().write("/srv/build/rb-demo-service", liar(answer), 0o755).expect("written");
        world.host().sh(&format!("cp -a /srv/build /srv/web/releases/{version}")).expect("laid down");
        world.rbctl(&["deploy", &version, "--watch", "4s", "--yes"]);
        let (operation, report) = report(&world, done + 1);
        let expected = if result == "done" { "unverified" } else { result };
        assert_eq!(operation["result"], expected, "{answer}: {report}");
    }
}

/// A service that is ready and answers whatever it is told to.
fn liar(answer: &str) -> String {
    format!(
        "#!/usr/bin/python3\nimport os, socket\nn = 0\nlistener = socket.create_server(('127.0.0.1', 8080))\n\
         if os.fork() == 0:\n    while True:\n        peer, _ = listener.accept()\n        out = peer.makefile('wb')\n        \
         n += b'healthz' in peer.recv(4096)\n        \
         say = lambda status, body: out.write(f'HTTP/1.1 {{status}}\\r\\ncontent-length: {{len(body)}}\\r\\n\\r\\n{{body}}'.encode())\n        \
         try:\n            {answer}\n            out.flush()\n        except OSError: pass\n        peer.close()\n\
         ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nready.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n\
         os.wait()\n"
    )
}

#[test]
fn f70_f71_a_check_that_hangs_forks_away_floods_or_fails_is_killed_and_told() {
    if !real_hosts("f70_f71_a_check_that_hangs_forks_away_floods_or_fails_is_killed_and_told") {
        return;
    }
    let check = "[[probes]]\nname = \"check\"\nkind = \"exec\"\ncommand = [\"/usr/local/bin/check\"]\ntimeout = \"1s\"\n\
        interval = \"100ms\"\nfailures = 1\n";
    let world = Installed::up(COMPONENT);
    world
        .host()
        .write(
            "/usr/local/bin/check",
            "#!/bin/sh\ncase $(cat /srv/web/current/VERSION) in\n\
        2) setsid sh -c 'trap \"\" TERM; while :; do sleep 700; done' & exec sleep 700;;\n\
        3) exec yes flood;;\n4) echo no database >&2; exit 1;;\n5) setsid sleep 700 & exit 0;;\nesac\n",
            0o755,
        )
        .expect("written");
    let component = format!("{COMPONENT}{check}");
    world.host().write("/etc/rollback/components.d/web.toml", component, 0o644).expect("written");
    world.host().sh("systemctl restart rb-agent").expect("restarted");
    for (done, (version, result, why)) in [
        ("2", "put_back", "probe `check` fails: no answer within 1000 ms, killed"),
        ("3", "put_back", "no answer within 1000 ms, killed: flood"),
        ("4", "put_back", "probe `check` fails: exit status: 1: no database"),
        ("5", "done", ""),
    ]
    .into_iter()
    .enumerate()
    {
        world.lay_down(version, "");
        world.rbctl(&["deploy", version, "--watch", "1s", "--yes"]);
        let (operation, report) = report(&world, done + 1);
        assert_eq!(operation["result"], result, "{version}: {report}");
        assert!(report.contains(why), "{version}: {report}");
        assert!(report.len() < 64 * 1024, "{version}: the output is cut");
        // A process that is dead may not be reaped yet.
        world.wait_for("nobody to be left", || {
            world
                .host()
                .sh("ps -eo stat,args | grep -v '^Z' | grep -c '[s]leep 700' || true")
                .is_ok_and(|n| n.trim() == "0")
        });
    }
}
