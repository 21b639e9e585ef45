//! The agent killed under every command, on three hosts.

use rbctl::error::{EXIT_SOME_FAILED as SOME_FAILED, EXIT_UNREACHABLE as UNREACHABLE};
use rollback_tests::hosts::Host;
use rollback_tests::installed::real_hosts;
use rollback_tests::wait::wait_until;

use super::{LIMIT, World, current, served};

/// Commands that only look, with a word that their answer has.
const LOOKING: [(&[&str], &str); 9] = [
    (&["status", "--host", "h1"], "backup_20241112_153045"),
    (&["releases", "--host", "h1"], "backup_20241110_120000"),
    (&["verify", "--host", "h1", "backup_20241111_120000"], "intact"),
    (&["rollback", "--host", "h1", "--dry-run", "--reason", "the page is missing"], "backup_20241111_120000"),
    (&["plan", "--host", "h1", "--reason", "the page is missing"], "backup_20241111_120000"),
    (&["history", "--host", "h1", "-o", "json"], "\"operations\""),
    (&["stats", "--host", "h1", "-o", "json"], "apiVersion"),
    (&["audit", "--host", "h1"], "sound"),
    (&["releases", "--host", "h1,h2,h3", "-o", "json"], "backup_20241110_120000"),
];

/// Whether a client has connected to an agent that cannot answer.
fn is_connected(world: &World, host: &Host) -> bool {
    let peer = format!("{}:7443", host.address());
    let listed = world.fleet.net(&["ss", "--tcp", "--numeric", "--no-header", "state", "established"]).expect("ss");
    String::from_utf8_lossy(&listed.stdout).contains(&peer)
}

/// Waits until an agent serves that is not `old`.
fn serves_again(world: &World, host: &Host, old: i32) {
    wait_until(LIMIT, "the next agent", || {
        host.main_pid("rb-agent.service").is_ok_and(|pid| pid != old)
            && world.rbctl(&["status", "--host", host.name()]).status.success()
    })
    .expect("systemd starts it again");
}

#[test]
fn an_agent_killed_under_a_command_that_looks_costs_an_answer_and_nothing_else() {
    if !real_hosts("an_agent_killed_under_a_command_that_looks_costs_an_answer_and_nothing_else") {
        return;
    }
    let world = World::up(3);
    let host = world.fleet.host(1);
    for (args, word) in LOOKING {
        let old = host.main_pid("rb-agent.service").expect("the agent runs");
        host.sh("systemctl kill -s STOP rb-agent.service").expect("stopped");
        let output = std::thread::scope(|scope| {
            let asking = scope.spawn(|| world.rbctl(args));
            wait_until(LIMIT, "the client to connect", || is_connected(&world, host)).expect("it connects");
            host.sh("systemctl kill -s KILL rb-agent.service").expect("killed");
            asking.join().expect("rbctl ends")
        });
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => assert!(out.contains(word), "{args:?}: {out}"),
            Some(code) => {
                let code = u8::try_from(code).expect("a byte");
                assert!([UNREACHABLE, SOME_FAILED].contains(&code), "{args:?} ended with {code}: {out}{err}");
                assert!(format!("{out}{err}").contains("h1"), "{args:?} names the host: {out}{err}");
            }
            None => panic!("{args:?} was killed itself"),
        }
        serves_again(&world, host, old);
        assert!(world.done(args).contains(word), "{args:?} works again");
    }
    assert_eq!(current(host), "backups/prod/backup_20241112_153045", "nothing has changed");
    assert_eq!(world.json(&["history", "--host", "h1"])["hosts"][0]["operations"], serde_json::json!([]));
}

#[test]
fn an_agent_killed_in_each_kind_of_operation_finishes_it_on_every_host() {
    if !real_hosts("an_agent_killed_in_each_kind_of_operation_finishes_it_on_every_host") {
        return;
    }
    let world = World::up(3);
    let plan = world.operator.path().join("plan.json").display().to_string();
    world.done(&[
        "plan",
        "--host",
        "h1,h2,h3",
        "--to",
        "backup_20241110_120000",
        "--force",
        "--reason",
        "drill",
        "--out",
        &plan,
    ]);
    let (middle, oldest) = ("20241111_120000", "20241110_120000");
    let kinds: [(&[&str], &str); 4] = [
        (&["apply", &plan], oldest),
        (
            &[
                "rollback",
                "--host",
                "h1,h2,h3",
                "--to",
                "backup_20241111_120000",
                "--force",
                "--reason",
                "drill",
                "--yes",
            ],
            middle,
        ),
        (&["rollback", "--host", "h1,h2,h3", "--emergency", "--yes"], oldest),
        (&["rollback", "--host", "h1,h2,h3", "--reason", "drill", "--force", "--yes"], middle),
    ];
    for host in world.fleet.hosts() {
        // The unit takes a second to stop, so that the kill comes in the middle.
        host.write("/etc/systemd/system/web.service.d/slow.conf", "[Service]\nExecStop=/bin/sleep 1\n", 0o644)
            .expect("written");
        host.sh("systemctl daemon-reload").expect("reloaded");
    }
    for (number, (args, serves)) in kinds.into_iter().enumerate() {
        let killers: Vec<_> = world
            .fleet
            .hosts()
            .iter()
            .map(|host| {
                let script = "while [ $(systemctl show -P ActiveState web.service) = active ]; do :; done; \
                              systemctl kill -s KILL rb-agent.service";
                host.spawn(&["sh", "-c", script]).expect("a killer")
            })
            .collect();
        let output = world.rbctl(args);
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{args:?}: {told}");
        killers.into_iter().for_each(|killer| drop(killer.wait_with_output()));
        for host in world.fleet.hosts() {
            assert_eq!(served(host), serves, "{args:?}");
            let history = world.json(&["history", "--host", host.name()]);
            let operations = history["hosts"][0]["operations"].as_array().expect("operations").clone();
            assert_eq!(operations.len(), number + 1, "one operation each, whatever died: {operations:?}");
            assert_eq!(operations[0]["result"], "done", "{args:?}: {operations:?}");
            let id = operations[0]["operation"].as_str().expect("an operation");
            let shown = world.json(&["show", "--host", host.name(), id]);
            assert_eq!(shown["hosts"][0]["operation"]["recoveries"], 1, "{args:?}");
        }
    }
    world.done(&["audit", "--host", "h1,h2,h3"]);
}
