//! Deploys on real systemd hosts: by the agent, and by other hands, watched and taken back.

use rollback_tests::installed::{COMPONENT, Installed, real_hosts};
use serde_json::Value;

#[test]
fn a_bad_release_of_an_unchanged_script_is_taken_back_by_itself() {
    if !real_hosts("a_bad_release_of_an_unchanged_script_is_taken_back_by_itself") {
        return;
    }
    let world = Installed::up(COMPONENT);
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
    let world = Installed::up(COMPONENT);
    world.lay_down("2", "");
    let done = world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(world.current(), "releases/2");
    world.lay_down("3", "crash-after 2");
    let failed = world.rbctl(&["deploy", "3", "--watch", "1m", "--yes"]);
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stdout));
    assert_eq!(world.current(), "releases/2");
    // What has failed its watch is not taken again, under another name neither, until somebody lifts that.
    world.host().sh("cp -a /srv/web/releases/3 /srv/web/releases/3-again").expect("copied");
    for name in ["3", "3-again"] {
        let again = world.rbctl(&["deploy", name, "--yes"]);
        assert_eq!(again.status.code(), Some(1), "{}", String::from_utf8_lossy(&again.stdout));
        assert!(String::from_utf8_lossy(&again.stderr).contains("is quarantined"));
    }
    assert_eq!(world.rbctl(&["quarantine", "lift", "3", "--reason", "a test"]).status.code(), Some(0));
    assert_eq!(world.rbctl(&["deploy", "3-again", "--dry-run"]).status.code(), Some(0));
    assert_eq!(world.rbctl(&["quarantine", "add", "3", "--reason", "a test"]).status.code(), Some(0));
    assert_eq!(world.rbctl(&["deploy", "3-again", "--dry-run"]).status.code(), Some(1));
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
    assert_eq!(world.ended(6)["result"], "done");
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
    let world = Installed::up(COMPONENT);
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

fn began(world: &Installed) -> Value {
    world.json(&["status"])["hosts"][0]["components"][0]["operation"]["watched"]["began"].clone()
}

#[test]
fn what_failed_before_is_not_the_releases_fault() {
    if !real_hosts("what_failed_before_is_not_the_releases_fault") {
        return;
    }
    let dependency = "[[probes]]\nname = \"database\"\nkind = \"exec\"\ncommand = [\"/bin/test\", \"-e\", \"/srv/database\"]\n\
        timeout = \"1s\"\ninterval = \"100ms\"\nfailures = 1\n";
    let world = Installed::up(&format!("{COMPONENT}\n{dependency}"));
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
    let world = Installed::up(COMPONENT);
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
    let world = Installed::up(COMPONENT);
    world.host().sh("mkdir /srv/web/releases/2; cp /srv/build/VERSION /srv/web/releases/2/").expect("half of it");
    // A dry run of a deploy looks for new directories, and records this one as it is.
    world.rbctl(&["deploy", "2", "--dry-run"]);
    world.host().sh("cp -a /srv/build/. /srv/web/releases/2/").expect("the rest");
    let output = world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.current(), "releases/2");
}

#[test]
fn what_the_agent_once_deployed_is_watched_when_another_hand_brings_it_back() {
    if !real_hosts("what_the_agent_once_deployed_is_watched_when_another_hand_brings_it_back") {
        return;
    }
    let world = Installed::up(COMPONENT);
    world.lay_down("2", "");
    assert_eq!(world.rbctl(&["deploy", "2", "--watch", "1s", "--yes"]).status.code(), Some(0));
    let watched = |world: &Installed| {
        let status = world.json(&["status"]);
        status["hosts"][0]["components"][0]["operation"]["plan"]["candidates"][0].as_str().map(str::to_owned)
    };
    world.build("3", "");
    world.host().sh("deploy 3").expect("the script works");
    world.wait_for("the watch of 3", || watched(&world).as_deref() == Some("3"));
    world.host().sh("ln -sfn releases/2 /srv/web/current; systemctl restart web.service").expect("brought back");
    world.wait_for("the watch of 2", || watched(&world).as_deref() == Some("2"));
}

#[test]
fn a_unit_that_its_manager_restarts_during_the_watch_is_left() {
    if !real_hosts("a_unit_that_its_manager_restarts_during_the_watch_is_left") {
        return;
    }
    let world = Installed::up(COMPONENT);
    // It is back so soon that no probe fails three times in a row.
    let restarts = "[Service]\nRestart=always\nRestartSec=1ms\n";
    world.host().write("/etc/systemd/system/web.service.d/test.conf", restarts, 0o644).expect("written");
    world.host().sh("systemctl daemon-reload; systemctl restart web.service").expect("restarted");
    world.lay_down("2", "crash-after 2");
    let output = world.rbctl(&["deploy", "2", "--watch", "15s", "--yes"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("failed and put back: `1` runs again: watching `2`: unit"), "{report}");
}

#[test]
fn the_configuration_of_the_day_goes_out_with_a_release_and_comes_back_with_it() {
    if !real_hosts("the_configuration_of_the_day_goes_out_with_a_release_and_comes_back_with_it") {
        return;
    }
    let kept =
        "[configuration]\nlink = \"config\"\n[[configuration.files]]\nname = \"web.conf\"\nfrom = \"/srv/web.conf\"\n";
    let world = Installed::up(COMPONENT);
    let host = world.host();
    let write = |text: &str| host.write("/srv/web.conf", text, 0o644).expect("written");
    let read = || host.sh("cat /srv/web/config/web.conf").unwrap_or_default();
    write("one");
    host.write("/etc/rollback/components.d/web.toml", format!("{COMPONENT}\n{kept}"), 0o644).expect("written");
    host.sh("systemctl restart rb-agent.service").expect("restarted");
    world.lay_down("2", "");
    // It is recorded with what is there now, and activated with what is there then.
    world.rbctl(&["releases", "pin", "2", "--reason", "so that it is recorded"]);
    write("two");
    for (release, expected) in [("2", "two"), ("3", "three")] {
        if release == "3" {
            world.lay_down("3", "");
            write("three");
        }
        let output = world.rbctl(&["deploy", release, "--watch", "1s", "--yes"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(read(), expected);
    }
    write("four");
    let back = world.rbctl(&["rollback", "--yes", "--reason", "a test"]);
    assert_eq!((back.status.code(), read().as_str()), (Some(0), "two"), "{}", String::from_utf8_lossy(&back.stderr));
}
