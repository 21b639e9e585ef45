//! What is kept, removed, blessed and forbidden, on a real systemd host.

use rollback_tests::installed::{COMPONENT, Installed, real_hosts, said};

fn releases(world: &Installed) -> String {
    let mut names: Vec<String> =
        world.host().sh("ls -A /srv/web/releases").expect("ls").split_whitespace().map(str::to_owned).collect();
    names.sort();
    names.join(" ")
}

fn deploy(world: &Installed, version: &str) {
    world.lay_down(version, "");
    let output = world.rbctl(&["deploy", version, "--watch", "1s", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn the_newest_good_releases_and_what_is_pinned_stay() {
    if !real_hosts("the_newest_good_releases_and_what_is_pinned_stay") {
        return;
    }
    let world = Installed::up(&format!("retain = 3\n{COMPONENT}remove_adopted = true\nfallbacks = 0\n"));
    deploy(&world, "2");
    let pinned = world.rbctl(&["releases", "pin", "2", "--reason", "for the auditors"]);
    assert_eq!(pinned.status.code(), Some(0), "{}", said(&pinned));
    for version in ["3", "4", "5", "6"] {
        deploy(&world, version);
    }
    // 1 was never verified and is young; 3 is one good release too many.
    world.wait_for("retention", || releases(&world) == "1 2 4 5 6");
    assert!(said(&world.rbctl(&["releases"])).contains("pinned"));
    world.wait_for("the journal to tell", || {
        let removed = world.host().journal(&["ROLLBACK_RECORD=release.removed"]).expect("the journal");
        removed.len() == 1 && removed[0]["ROLLBACK_RELEASE"] == "3"
    });
    let unpinned = world.rbctl(&["releases", "unpin", "2", "--reason", "they are gone"]);
    assert_eq!(unpinned.status.code(), Some(0), "{}", said(&unpinned));
    let again = world.rbctl(&["releases", "unpin", "2", "--reason", "they are gone"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    deploy(&world, "7");
    world.wait_for("retention", || releases(&world) == "1 5 6 7");
    let back = world.rbctl(&["rollback", "--yes", "--reason", "a test"]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    assert_eq!(world.current(), "releases/6");
    assert_eq!(world.rbctl(&["audit"]).status.code(), Some(0));
}

#[test]
fn what_the_agent_did_not_lay_down_stays_unless_it_is_told_otherwise() {
    if !real_hosts("what_the_agent_did_not_lay_down_stays_unless_it_is_told_otherwise") {
        return;
    }
    let world = Installed::up(&format!("retain = 1\n{COMPONENT}"));
    for version in ["2", "3", "4"] {
        deploy(&world, version);
    }
    assert_eq!(releases(&world), "1 2 3 4");
}

#[test]
fn a_release_is_good_by_word_and_a_floor_forbids_what_is_older() {
    if !real_hosts("a_release_is_good_by_word_and_a_floor_forbids_what_is_older") {
        return;
    }
    let world = Installed::up(&format!("{COMPONENT}floor = \"2\"\n"));
    deploy(&world, "2");
    // 1 ran before, and is below the floor; 3 was never verified.
    let back = world.rbctl(&["rollback", "--yes", "--reason", "a test"]);
    assert_eq!(back.status.code(), Some(1), "{}", said(&back));
    assert!(said(&back).contains("below the floor 2"), "{}", said(&back));
    let named = world.rbctl(&["rollback", "--to", "1", "--yes", "--reason", "a test"]);
    assert!(said(&named).contains("break-glass"), "{}", said(&named));
    let emergency = world.rbctl(&["rollback", "--emergency", "--yes"]);
    assert_eq!(emergency.status.code(), Some(1), "{}", said(&emergency));
    assert_eq!(world.current(), "releases/2");
    // Root on the host itself may break the glass, by name and by force.
    let broken = world.rbctl(&["rollback", "--to", "1", "--force", "--yes", "--reason", "nothing else works"]);
    assert_eq!(broken.status.code(), Some(0), "{}", said(&broken));
    assert_eq!(world.current(), "releases/1");
    deploy(&world, "3");
    world.lay_down("4", "");
    let blessed = world.rbctl(&["releases", "bless", "4", "--reason", "it ran elsewhere for a year"]);
    assert_eq!(blessed.status.code(), Some(0), "{}", said(&blessed));
    let good = world.json(&["releases"]).to_string();
    assert_eq!(good.matches("\"good_since\":\"").count(), 4, "{good}");
}

#[test]
fn past_its_limit_the_agent_leaves_a_release_that_somebody_insists_on() {
    if !real_hosts("past_its_limit_the_agent_leaves_a_release_that_somebody_insists_on") {
        return;
    }
    let world = Installed::up(&COMPONENT.replace("automatic_rollbacks = 100", "automatic_rollbacks = 2"));
    for (number, version) in [(1, "2"), (2, "3")] {
        world.build(version, "unhealthy");
        world.host().sh(&format!("deploy {version}")).expect("the script does not know");
        assert_eq!(world.ended(number)["result"], "put_back");
    }
    assert_eq!(world.current(), "releases/1");
    world.build("4", "unhealthy");
    world.host().sh("deploy 4").expect("the script does not know");
    world.wait_for("the question", || world.phase().as_deref() == Some("asking"));
    assert_eq!(world.current(), "releases/4", "nobody fights a tool for ever");
    let status = world.json(&["status"]);
    let id = status["hosts"][0]["components"][0]["operation"]["id"].as_str().expect("it runs").to_owned();
    assert_eq!(world.rbctl(&["decide", &id, "--skip"]).status.code(), Some(0));
    assert_eq!(world.ended(3)["result"], "unverified");
}

#[test]
fn what_is_quarantined_and_deployed_by_another_hand_goes_back_at_once() {
    if !real_hosts("what_is_quarantined_and_deployed_by_another_hand_goes_back_at_once") {
        return;
    }
    let world = Installed::up(COMPONENT);
    deploy(&world, "2");
    assert_eq!(world.rbctl(&["quarantine", "add", "1", "--reason", "loses orders"]).status.code(), Some(0));
    assert!(said(&world.rbctl(&["quarantine", "list"])).contains("loses orders"));
    // The agent may be faster than the restart, whose job is replaced then.
    world.host().sh("ln -sfn releases/1 /srv/web/current; systemctl restart web.service || true").expect("switched");
    let operation = world.ended(2);
    assert_eq!(operation["result"], "put_back");
    assert_eq!(world.current(), "releases/2");
    let id = operation["operation"].as_str().expect("an operation");
    assert!(said(&world.rbctl(&["show", id])).contains("loses orders"));
}
