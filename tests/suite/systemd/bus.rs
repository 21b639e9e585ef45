//! The bus daemon killed or gone, and a manager that does not answer.

use std::time::{Duration, Instant};

use rollback::model::health::{UnitActive, UnitLoad};
use rollback_agent::ports::{PortError, Units};
use rollback_agent::units::Systemd;
use std::process::Command;

use crate::{Unit, chain, inside, systemctl};

fn kill_bus() {
    let bus = systemctl(&["show", "-P", "MainPID", "dbus.service"]);
    let killed = Command::new("kill").args(["-KILL", &bus]).status().expect("kill runs");
    assert!(killed.success());
}

/// Takes the bus away, and gives it back at the end.
struct NoBus;

impl NoBus {
    fn new() -> Self {
        systemctl(&["stop", "dbus.socket", "dbus.service"]);
        Self
    }
}

impl Drop for NoBus {
    fn drop(&mut self) {
        systemctl(&["start", "dbus.socket", "dbus.service"]);
    }
}

#[tokio::test]
async fn f42_everything_works_for_root_without_a_bus_daemon() {
    if !inside("f42_everything_works_for_root_without_a_bus_daemon") {
        return;
    }
    let unit = Unit::new("busless", "Type=exec\nKillMode=process\nExecStart=/bin/sh -c 'sleep 1001 & exec sleep 1002'");
    let never = Unit::new("busless-never", "Type=notify\nTimeoutStartSec=1h\nExecStart=/bin/sleep infinity");
    let deaf =
        Unit::new("busless-deaf", "Type=exec\nTimeoutStopSec=1h\nKillSignal=SIGCONT\nExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    unit.start(&systemd).await.expect("it starts");
    let running = unit.state(&systemd).await;
    let _no_bus = NoBus::new();
    for systemd in [systemd, Systemd::default()] {
        unit.start(&systemd).await.expect("it starts or runs already");
        let state = unit.state(&systemd).await;
        assert_eq!((state.active, state.load), (UnitActive::Active, UnitLoad::Loaded));
        assert!(state.main_pid.is_some() && state.invocation.len() == running.invocation.len(), "{state:?}");
        unit.stop(&systemd).await.expect("it stops, with what it left behind");
        assert_eq!(unit.state(&systemd).await.active, UnitActive::Inactive);
        assert_eq!(systemctl(&["show", "-P", "ControlGroup", unit.name.as_str()]), "");
        let limit = Duration::from_millis(500);
        let error = systemd.start(&never.component, &never.component.units, limit).await.expect_err("never ready");
        assert!(matches!(error, PortError::Deadline { .. }), "{}", chain(&error));
        assert_eq!(systemctl(&["list-jobs", "--no-legend"]), "");
        never.stop(&systemd).await.expect("it stops");
        deaf.start(&systemd).await.expect("it starts");
        systemd.stop(&deaf.component, &deaf.component.units, limit).await.expect("it is killed");
        assert_eq!(deaf.state(&systemd).await.active, UnitActive::Failed);
    }
}

#[tokio::test]
async fn f42_a_killed_bus_daemon_is_connected_to_again() {
    if !inside("f42_a_killed_bus_daemon_is_connected_to_again") {
        return;
    }
    let unit = Unit::new("rebus", "Type=exec\nExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    for round in 0..3 {
        unit.start(&systemd).await.unwrap_or_else(|error| panic!("round {round}: {}", chain(&error)));
        kill_bus();
        unit.stop(&systemd).await.unwrap_or_else(|error| panic!("round {round}: {}", chain(&error)));
        assert_eq!(unit.state(&systemd).await.active, UnitActive::Inactive);
    }
}

#[tokio::test]
async fn f42_a_bus_that_dies_during_a_job_does_not_lose_its_end() {
    if !inside("f42_a_bus_that_dies_during_a_job_does_not_lose_its_end") {
        return;
    }
    let unit = Unit::new("slow", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 1");
    let systemd = Systemd::default();
    let (started, ()) = tokio::join!(unit.start(&systemd), async {
        while unit.state(&Systemd::default()).await.active != UnitActive::Activating {}
        kill_bus();
    });
    started.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(unit.state(&systemd).await.active, UnitActive::Active);
}

/// PID 1 taken off the processor; put back at the end.
struct Frozen;

impl Frozen {
    const SWITCH: &str = "/sys/fs/cgroup/init.scope/cgroup.freeze";

    fn new() -> std::io::Result<Self> {
        std::fs::write(Self::SWITCH, "1").map(|()| Self)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        std::fs::write(Self::SWITCH, "0").ok();
    }
}

#[tokio::test]
async fn f43_a_manager_that_does_not_answer_is_an_error_by_the_deadline() {
    if !inside("f43_a_manager_that_does_not_answer_is_an_error_by_the_deadline") {
        return;
    }
    let unit = Unit::new("frozen", "ExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    unit.start(&systemd).await.expect("it starts");
    let frozen = Frozen::new().expect("PID 1 has a cgroup of its own");
    let began = Instant::now();
    let unconnected = Systemd::default();
    let (known, unknown) = tokio::join!(unit.stop(&systemd), unit.stop(&unconnected));
    assert!(began.elapsed() < super::LIMIT, "{:?}", began.elapsed());
    for error in [known.expect_err("it cannot be stopped"), unknown.expect_err("it cannot be stopped")] {
        assert!(chain(&error).ends_with("systemd did not answer within 5000 ms"), "{}", chain(&error));
    }
    drop(frozen);
    unit.stop(&systemd).await.expect("it stops");
}
