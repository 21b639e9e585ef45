//! Decisions on a real systemd host: what asks, who answers, and what happens when nobody does.

use rollback_tests::installed::{COMPONENT, Installed, real_hosts, said};

/// A host whose rollback is automatic from critical on, and whose probe is only high.
fn asks(policy: &str) -> Installed {
    let component = COMPONENT.replace("failures = 3", "failures = 3\nseverity = \"high\"");
    Installed::up(&format!("{component}automatic_from = \"critical\"\n{policy}"))
}

/// Deploys a release that answers badly, and gives the operation that asks.
fn bad(world: &Installed, version: &str) -> String {
    world.lay_down(version, "unhealthy");
    let begun = world.rbctl(&["deploy", version, "--watch", "1m", "--yes", "--detach"]);
    assert!(matches!(begun.status.code(), Some(0 | 1)), "{}", said(&begun));
    asking(world)
}

fn asking(world: &Installed) -> String {
    world.wait_for("the question", || world.phase().as_deref() == Some("asking"));
    let status = world.json(&["status"]);
    status["hosts"][0]["components"][0]["operation"]["id"].as_str().expect("it runs").to_owned()
}

fn done(world: &Installed, args: &[&str]) {
    let output = world.rbctl(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
}

#[test]
fn a_high_failure_asks_and_each_answer_counts() {
    if !real_hosts("a_high_failure_asks_and_each_answer_counts") {
        return;
    }
    let world = asks("");
    let id = bad(&world, "2");
    assert_eq!(world.current(), "releases/2", "it is not left by itself");
    done(&world, &["decide", &id, "--rollback", "--reason", "users complain"]);
    assert_eq!(world.ended(1)["result"], "put_back");
    assert_eq!(world.current(), "releases/1");
    assert!(said(&world.rbctl(&["show", &id])).contains("decided to go back: users complain"));
    assert_eq!(world.rbctl(&["decide", &id, "--skip"]).status.code(), Some(1), "it asks no more");
    let id = bad(&world, "3");
    done(&world, &["decide", &id, "--investigate"]);
    assert_eq!(world.phase().as_deref(), Some("asking"));
    // The question survives the agent, and so does what was put off.
    let old = world.host().main_pid("rb-agent.service").expect("the agent runs");
    world.host().sh("systemctl kill -s KILL rb-agent.service").expect("killed");
    world.wait_for("the next agent", || {
        world.host().main_pid("rb-agent.service").is_ok_and(|pid| pid != old)
            && world.rbctl(&["status"]).status.success()
    });
    assert_eq!(asking(&world), id);
    let status = world.json(&["status"]);
    assert_eq!(status["hosts"][0]["components"][0]["operation"]["asked"]["lasts_ms"], 1_200_000);
    done(&world, &["decide", &id, "--skip", "--reason", "known"]);
    assert_eq!(world.ended(2)["result"], "unverified");
    assert_eq!(world.current(), "releases/3");
}

#[test]
fn what_nobody_decides_goes_back_or_stays_as_the_policy_says() {
    if !real_hosts("what_nobody_decides_goes_back_or_stays_as_the_policy_says") {
        return;
    }
    for (undecided, result, current) in [("rollback", "put_back", "releases/1"), ("stay", "unverified", "releases/2")] {
        let world = asks(&format!("ask = \"1s\"\nundecided = \"{undecided}\"\n"));
        world.lay_down("2", "unhealthy");
        world.rbctl(&["deploy", "2", "--watch", "1m", "--yes"]);
        let operation = world.ended(1);
        assert_eq!((&operation["result"], world.current()), (&result.into(), current.to_owned()), "{operation}");
        let id = operation["operation"].as_str().expect("an operation");
        assert!(said(&world.rbctl(&["show", id])).contains("nobody decided within 1 s"));
    }
}

#[test]
fn an_alert_asks_during_a_watch_and_without_one() {
    if !real_hosts("an_alert_asks_during_a_watch_and_without_one") {
        return;
    }
    let world = Installed::up(COMPONENT);
    world.lay_down("2", "");
    done(&world, &["deploy", "2", "--watch", "1h", "--yes", "--detach"]);
    world.wait_for("the watch", || world.phase().as_deref() == Some("watching"));
    done(&world, &["trigger", "--severity", "medium", "--reason", "a little slow"]);
    assert_eq!(world.phase().as_deref(), Some("watching"), "it is recorded");
    done(&world, &["trigger", "--severity", "critical", "--reason", "checkout fails"]);
    let id = asking(&world);
    assert_eq!(world.current(), "releases/2", "an alert never goes back by itself");
    done(&world, &["decide", &id, "--rollback"]);
    assert_eq!(world.ended(1)["result"], "put_back");
    assert!(said(&world.rbctl(&["show", &id])).contains("checkout fails"));
    // Without a deploy it asks for a rollback, which changes nothing before the answer.
    world.lay_down("3", "");
    done(&world, &["deploy", "3", "--watch", "1s", "--yes"]);
    let before = world.invocation();
    done(&world, &["trigger", "--severity", "high", "--reason", "orders are lost"]);
    let id = asking(&world);
    assert_eq!(world.invocation(), before);
    done(&world, &["decide", &id, "--skip", "--reason", "a false alarm"]);
    assert_eq!((world.ended(3)["result"].clone(), world.invocation()), ("put_back".into(), before));
    done(&world, &["trigger", "--severity", "high", "--reason", "orders are lost"]);
    let id = asking(&world);
    done(&world, &["decide", &id, "--rollback"]);
    let operation = world.ended(4);
    assert_eq!((&operation["result"], &operation["trigger"]), (&"done".into(), &"alert".into()));
    assert_eq!(world.current(), "releases/1");
    assert!(said(&world.rbctl(&["explain", "decisions"])).contains("AUTOMATIC FROM CRITICAL"));
}
