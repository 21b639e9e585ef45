//! The dead-man's switch on real systemd hosts: the agent killed, masked, stopped, and the host crashed inside the watch.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rollback_tests::installed::{COMPONENT, Installed, LIMIT, real_hosts};
use rollback_tests::skip::note;
use rollback_tests::wait::wait_until;
use serde_json::Value;

/// A host that runs release 2 in its watch, which lasts as long.
fn watched(watch: &str) -> (Installed, String) {
    let world = Installed::up(COMPONENT);
    // At boot the service comes back by itself.
    world
        .host()
        .sh("mkdir -p /etc/systemd/system/fleet.target.wants
        ln -s /usr/lib/systemd/system/web.service /etc/systemd/system/fleet.target.wants/")
        .expect("enabled");
    world.lay_down("2", "");
    let begun = world.rbctl(&["deploy", "2", "--watch", watch, "--yes", "--detach"]);
    assert_eq!(begun.status.code(), Some(0), "{}", String::from_utf8_lossy(&begun.stderr));
    world.wait_for("the watch", || world.phase().as_deref() == Some("watching"));
    let status = world.json(&["status"]);
    let id = status["hosts"][0]["components"][0]["operation"]["id"].as_str().expect("it runs").to_owned();
    world.wait_for("the deadline of the watch", || timers(&world).matches(&id).count() == 2);
    (world, id)
}

fn timers(world: &Installed) -> String {
    world.host().sh("systemctl list-units --no-legend --plain 'rb-revert@*.timer' | cut -d' ' -f1").expect("systemctl")
}

fn switches(world: &Installed) -> String {
    world.host().sh("ls /var/lib/rollback/dead-man 2>/dev/null || true").expect("ls")
}

/// The deadline and the time now, in milliseconds since the boot.
fn deadline(world: &Installed, id: &str) -> (u64, u64) {
    let text = world.host().sh(&format!("cat /var/lib/rollback/dead-man/{id}.armed")).expect("it is armed");
    let armed: Value = serde_json::from_str(&text).expect("JSON");
    let number = |value: &Value| value.as_u64().expect("a number");
    (number(&armed["since"]["since_boot_ms"]) + number(&armed["lasts_ms"]), since_boot_ms(world))
}

fn since_boot_ms(world: &Installed) -> u64 {
    let uptime = world.host().sh("cut -d' ' -f1 /proc/uptime").expect("uptime");
    let (seconds, hundredths) = uptime.trim().split_once('.').expect("a fraction");
    seconds.parse::<u64>().expect("seconds") * 1_000 + hundredths.parse::<u64>().expect("hundredths") * 10
}

fn served(world: &Installed) -> String {
    world
        .host()
        .sh("python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/healthz').read().decode().split()[1])\"")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Waits until release 1 serves again, with no agent.
fn back(world: &Installed, what: &str, deadline: u64) {
    world.wait_for("the dead-man's switch", || world.current() == "releases/1" && served(world) == "1");
    note(&format!(
        "{what}: release 1 serves again {} ms after the deadline",
        since_boot_ms(world).saturating_sub(deadline)
    ));
}

/// Starts the agent again, which records what the switch has done.
fn recorded(world: &Installed, id: &str) {
    let before = world.invocation();
    world.host().sh("systemctl unmask rb-agent.service; systemctl start rb-agent.service").expect("it starts");
    let operation = world.ended(1);
    assert_eq!((&operation["operation"], &operation["result"]), (&id.into(), &"put_back".into()));
    let report = String::from_utf8_lossy(&world.rbctl(&["show", id]).stdout).into_owned();
    assert!(report.contains("the dead-man's switch went back"), "{report}");
    assert_eq!(world.invocation(), before, "what the switch has started is left alone");
    assert_eq!((switches(world).as_str(), timers(world).as_str()), ("", ""), "nothing is left armed");
    let releases = world.json(&["releases"]);
    let quarantined = releases.to_string().contains("\"quarantine\":{");
    assert!(!quarantined, "that the agent was dead proves nothing against the release: {releases}");
}

#[test]
fn an_agent_that_is_killed_and_masked_is_not_needed() {
    if !real_hosts("an_agent_that_is_killed_and_masked_is_not_needed") {
        return;
    }
    let (world, id) = watched("3s");
    let (deadline, _) = deadline(&world, &id);
    world
        .host()
        .sh("systemctl mask --now rb-agent.service 2>/dev/null; systemctl kill -s KILL rb-agent.service || true")
        .expect("gone");
    back(&world, "killed and masked", deadline);
    let journal = world.host().journal(&["SYSLOG_IDENTIFIER=rb-agent"]).expect("the journal");
    assert!(
        journal.iter().any(|entry| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("going back to `1`")))
    );
    recorded(&world, &id);
}

#[test]
fn an_agent_that_hangs_is_not_needed_and_believes_it_when_it_wakes() {
    if !real_hosts("an_agent_that_hangs_is_not_needed_and_believes_it_when_it_wakes") {
        return;
    }
    let (world, id) = watched("3s");
    let (deadline, _) = deadline(&world, &id);
    world.host().sh("systemctl kill -s STOP rb-agent.service").expect("stopped");
    back(&world, "stopped", deadline);
    world.host().sh("systemctl kill -s CONT rb-agent.service").expect("it goes on");
    recorded(&world, &id);
}

#[test]
fn a_host_that_crashes_in_the_watch_is_back_before_its_service_starts() {
    if !real_hosts("a_host_that_crashes_in_the_watch_is_back_before_its_service_starts") {
        return;
    }
    let (world, id) = watched("3s");
    let (deadline, _) = deadline(&world, &id);
    world.host().sh("systemctl mask rb-agent.service; sync").expect("masked");
    world.host().crash().expect("it crashes");
    // Hosts share the kernel of this machine, and so its time since the boot.
    wait_until(LIMIT, "the deadline to pass", || {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock");
        Duration::from(now).as_millis() > u128::from(deadline)
    })
    .expect("time passes");
    world.host().boot().expect("it boots");
    world.wait_for("the service", || served(&world) == "1");
    assert_eq!(world.current(), "releases/1");
    let starts =
        world.host().sh("journalctl -u web.service -o cat | grep -c 'version 2 listens'").expect("the journal");
    assert_eq!(starts.trim(), "1", "release 2 was never started again");
    recorded(&world, &id);
}

#[test]
fn a_host_that_is_back_before_the_deadline_keeps_what_is_left_of_it() {
    if !real_hosts("a_host_that_is_back_before_the_deadline_keeps_what_is_left_of_it") {
        return;
    }
    let (world, id) = watched("15s");
    let (deadline, _) = deadline(&world, &id);
    world.host().sh("systemctl mask rb-agent.service; sync").expect("masked");
    world.host().crash().expect("it crashes");
    world.host().boot().expect("it boots");
    assert!(timers(&world).contains(&id), "{}", timers(&world));
    back(&world, "crashed and booted", deadline);
    recorded(&world, &id);
}

#[test]
fn what_has_ended_leaves_nothing_armed() {
    if !real_hosts("what_has_ended_leaves_nothing_armed") {
        return;
    }
    let world = Installed::up(COMPONENT);
    let (mut version, mut ended) = (1, 0);
    for (fault, arguments, result) in [
        ("", &["--watch", "1s"][..], "done"),
        ("crash", &["--watch", "1s"], "put_back"),
        ("unhealthy", &["--watch", "1s"], "put_back"),
        ("", &["--watch", "1s", "--confirm", "1s"], "put_back"),
    ] {
        (version, ended) = (version + 1, ended + 1);
        world.lay_down(&version.to_string(), fault);
        world.rbctl(&[&["deploy", &version.to_string(), "--yes"], arguments].concat());
        let operation = world.ended(ended);
        assert_eq!(operation["result"], result, "{fault}: {operation}");
        assert_eq!((switches(&world).as_str(), timers(&world).as_str()), ("", ""), "{fault}");
    }
    // Without its unit nothing could go back, so nothing is begun.
    world.host().sh("rm /usr/lib/systemd/system/rb-revert@.service; systemctl daemon-reload").expect("removed");
    let before = world.invocation();
    world.lay_down("9", "");
    let refused = world.rbctl(&["deploy", "9", "--yes"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stdout));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("arming the dead-man's switch"));
    assert_eq!(world.invocation(), before, "the service was not touched");
}

#[test]
fn what_another_hand_has_gone_on_to_is_left_alone() {
    if !real_hosts("what_another_hand_has_gone_on_to_is_left_alone") {
        return;
    }
    let (world, id) = watched("3s");
    world
        .host()
        .sh("systemctl mask --now rb-agent.service 2>/dev/null; systemctl kill -s KILL rb-agent.service || true")
        .expect("gone");
    world.build("3", "");
    world.host().sh("deploy 3").expect("the script works");
    world.wait_for("the dead-man's switch", || switches(&world).contains(".fired"));
    world.wait_for("its report", || {
        world
            .host()
            .sh(&format!("cat /var/lib/rollback/dead-man/{id}.fired"))
            .is_ok_and(|text| text.contains("\"steps\":[]"))
    });
    assert_eq!((world.current().as_str(), served(&world).as_str()), ("releases/3", "3"));
    let before = world.invocation();
    world.host().sh("systemctl unmask rb-agent.service; systemctl start rb-agent.service").expect("it starts");
    world.wait_for("the end of the watch of 2", || world.history().iter().any(|line| line["operation"] == id.as_str()));
    assert_eq!(
        world.history().iter().find(|line| line["operation"] == id.as_str()).map(|line| line["result"].clone()),
        Some("unverified".into())
    );
    assert_eq!((world.current().as_str(), world.invocation()), ("releases/3", before), "nor does the agent touch it");
    world.wait_for("the report to be forgotten", || !switches(&world).contains(&id));
}
