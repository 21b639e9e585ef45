//! The systemd backend against a real systemd: what units ignore, leave behind, and never say.
//!
//! Each test boots a host of its own and runs this very program in it, for that one test.
#![expect(clippy::disallowed_methods, reason = "the tests write units, hide sockets and ask systemctl for the truth")]

#[path = "systemd/bus.rs"]
mod bus;

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rollback::model::health::{UnitActive, UnitLoad, UnitState};
use rollback::model::ids::UnitName;
use rollback::model::policy::{Policy, Timeouts};
use rollback_agent::config::{Backend, Component, ReleasesLayout};
use rollback_agent::ports::{PortError, Tail, Units};
use rollback_agent::units::Systemd;
use rollback_tests::hosts::{Fleet, available, stage};
use rollback_tests::skip::{note, skipped};

/// Longer than anything that is expected to end by itself.
const LIMIT: Duration = Duration::from_secs(20);
/// Set where the test is on the host that it may break.
const INSIDE: &str = "ROLLBACK_TESTS_INSIDE";
/// Begins a line that the reader of the report should see.
const FIGURE: &str = "stop and start, ";

/// Tells whether this is the host that the test may break; if not, boots one and runs the test there.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Err(reason) = available() {
        skipped(test, &reason);
        return false;
    }
    let own = std::env::current_exe().expect("this program has a path");
    let staged = stage(&[&own]).expect("room for this program");
    let program = staged.path().join(own.file_name().expect("a program has a name")).display().to_string();
    let fleet = Fleet::up(1).expect("a host");
    let done = fleet.host(1).exec(&["env", &format!("{INSIDE}=1"), &program, test, "--nocapture"]);
    let done = done.expect("the host runs this program");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", done.status);
    err.lines().filter(|line| line.starts_with(FIGURE)).for_each(note);
    false
}

/// A unit of the test's own, gone with it.
struct Unit {
    name: UnitName,
    component: Component,
}

impl Unit {
    fn new(name: &str, service: &str) -> Self {
        let name: UnitName = format!("rollback-test-{name}.service").parse().expect("a name");
        let component = Component {
            name: "web".parse().expect("a name"),
            environment: "prod".parse().expect("a name"),
            root: "/srv/web".into(),
            releases: ReleasesLayout { directory: "releases".into(), pattern: "*".to_owned(), hardlinks: false },
            current: "current".to_owned(),
            backend: Backend::Systemd,
            units: vec![name.clone()],
            configuration: None,
            probes: Vec::new(),
            timeouts: Timeouts::default(),
            policy: Policy::default(),
            state: "/var/lib/rollback/components/prod/web".into(),
        };
        let unit = Self { name, component };
        unit.write(service);
        systemctl(&["daemon-reload"]);
        unit
    }

    fn write(&self, service: &str) {
        std::fs::create_dir_all("/run/systemd/system").expect("a directory for units");
        std::fs::write(format!("/run/systemd/system/{}", self.name), format!("[Service]\n{service}\n"))
            .expect("a unit");
    }

    async fn start(&self, systemd: &Systemd) -> Result<(), PortError> {
        systemd.start(&self.component, &self.component.units, LIMIT).await
    }

    async fn stop(&self, systemd: &Systemd) -> Result<(), PortError> {
        systemd.stop(&self.component, &self.component.units, LIMIT).await
    }

    async fn state(&self, systemd: &Systemd) -> UnitState {
        let mut states = systemd.states(&self.component, &self.component.units).await.expect("systemd answers");
        states.remove(0)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        systemctl(&["kill", "--signal=KILL", self.name.as_str()]);
        systemctl(&["stop", self.name.as_str()]);
        std::fs::remove_file(format!("/run/systemd/system/{}", self.name)).ok();
        systemctl(&["daemon-reload"]);
    }
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().expect("systemctl runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn chain(error: &PortError) -> String {
    rollback::chain::Chain(error).to_string()
}

#[tokio::test]
async fn unit_is_stopped_and_started_by_its_jobs() {
    if !inside("unit_is_stopped_and_started_by_its_jobs") {
        return;
    }
    let unit = Unit::new("plain", "Type=exec\nExecStart=/bin/sh -c 'echo hello; exec sleep infinity'");
    let systemd = Systemd::default();
    unit.stop(&systemd).await.expect("it does not run, which is well");
    unit.start(&systemd).await.expect("it starts");
    let running = unit.state(&systemd).await;
    assert_eq!((running.active, running.load, running.sub.as_str()), (UnitActive::Active, UnitLoad::Loaded, "running"));
    assert_eq!(running.invocation, systemctl(&["show", "-P", "InvocationID", unit.name.as_str()]));
    let main = running.main_pid.map(|pid| pid.to_string());
    assert_eq!(main, Some(systemctl(&["show", "-P", "MainPID", unit.name.as_str()])));
    unit.start(&systemd).await.expect("it runs already");
    assert_eq!(unit.state(&systemd).await, running);
    unit.stop(&systemd).await.expect("it stops");
    assert_eq!(unit.state(&systemd).await.active, UnitActive::Inactive);
    let deadline = Instant::now() + LIMIT;
    while !systemd
        .log_tail(&unit.component, &unit.component.units, Tail { lines_max: 20, until: None })
        .await
        .contains(&"hello".to_owned())
    {
        assert!(Instant::now() < deadline, "the journal lacks what the unit said");
    }
}

#[tokio::test]
async fn f35_a_unit_at_its_start_limit_starts() {
    if !inside("f35_a_unit_at_its_start_limit_starts") {
        return;
    }
    let limit = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n[Service]";
    let unit = Unit::new("limit", &format!("{limit}\nType=exec\nExecStart=/bin/sleep infinity"));
    let systemd = Systemd::default();
    for round in 0..6 {
        unit.start(&systemd).await.unwrap_or_else(|error| panic!("round {round}: {}", chain(&error)));
        unit.stop(&systemd).await.expect("it stops");
    }
}

#[tokio::test]
async fn f33_a_unit_that_ignores_sigterm_is_killed_at_the_limit() {
    if !inside("f33_a_unit_that_ignores_sigterm_is_killed_at_the_limit") {
        return;
    }
    let script = "trap \"\" TERM; while :; do sleep 600; done";
    let unit = Unit::new("deaf", &format!("Type=exec\nTimeoutStopSec=1h\nExecStart=/bin/sh -c '{script}'"));
    let systemd = Systemd::default();
    unit.start(&systemd).await.expect("it starts");
    // The shell needs a moment to set its trap; until it sleeps, SIGTERM would end it.
    let children = format!("/proc/{0}/task/{0}/children", unit.state(&systemd).await.main_pid.expect("a process"));
    while std::fs::read_to_string(&children).unwrap_or_default().is_empty() {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let limit = Duration::from_millis(300);
    systemd.stop(&unit.component, &unit.component.units, limit).await.expect("it is killed");
    assert!(began.elapsed() >= limit, "it had its time");
    assert_eq!(unit.state(&systemd).await.active, UnitActive::Failed);
    unit.start(&systemd).await.expect("it starts again");
}

#[tokio::test]
async fn f37_a_unit_that_is_never_ready_is_cancelled_at_the_limit() {
    if !inside("f37_a_unit_that_is_never_ready_is_cancelled_at_the_limit") {
        return;
    }
    let unit = Unit::new("never", "Type=notify\nTimeoutStartSec=1h\nExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    let limit = Duration::from_millis(300);
    let error = systemd.start(&unit.component, &unit.component.units, limit).await.expect_err("it is never ready");
    assert!(matches!(error, PortError::Deadline { limit_ms: 300, .. }), "{error}");
    assert_eq!(systemctl(&["list-jobs", "--no-legend"]), "");
    assert_eq!(unit.state(&systemd).await.active, UnitActive::Activating);
    unit.stop(&systemd).await.expect("it stops");
}

#[tokio::test]
async fn unit_that_fails_to_start_says_how() {
    if !inside("unit_that_fails_to_start_says_how") {
        return;
    }
    let unit = Unit::new("fails", "Type=notify\nExecStart=/bin/sh -c 'exit 3'");
    let error = unit.start(&Systemd::default()).await.expect_err("it fails");
    let expected =
        "cannot start unit `rollback-test-fails.service`: its job ended as failed: unit is failed (failed), result ";
    // Which of both systemd tells depends on whether the exit or the missing READY=1 is seen first.
    assert!(chain(&error).starts_with(expected) && chain(&error).ends_with("exit status 3"), "{}", chain(&error));
}

#[tokio::test]
async fn f36_masked_and_missing_units_are_states_and_do_not_start() {
    if !inside("f36_masked_and_missing_units_are_states_and_do_not_start") {
        return;
    }
    let unit = Unit::new("masked", "ExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    systemctl(&["mask", "--runtime", "--force", unit.name.as_str()]);
    let link = format!("/run/systemd/system/{}", unit.name);
    std::fs::remove_file(&link).ok();
    std::os::unix::fs::symlink("/dev/null", &link).expect("a mask");
    systemctl(&["daemon-reload"]);
    assert_eq!(unit.state(&systemd).await.load, UnitLoad::Masked);
    unit.stop(&systemd).await.expect("it does not run");
    let error = unit.start(&systemd).await.expect_err("it is masked");
    assert!(chain(&error).contains("masked"), "{}", chain(&error));
    std::fs::remove_file(&link).expect("the mask");
    systemctl(&["daemon-reload"]);
    assert_eq!(unit.state(&systemd).await.load, UnitLoad::NotFound);
    unit.stop(&systemd).await.expect("it does not exist");
    unit.start(&systemd).await.expect_err("it does not exist");
}

#[tokio::test]
async fn f41_a_changed_unit_file_is_read_again_before_the_start() {
    if !inside("f41_a_changed_unit_file_is_read_again_before_the_start") {
        return;
    }
    let unit = Unit::new("changed", "Type=exec\nExecStart=/bin/sleep 1000");
    let systemd = Systemd::default();
    unit.start(&systemd).await.expect("it starts");
    unit.write("Type=exec\nExecStart=/bin/sleep 2000");
    assert_eq!(systemctl(&["show", "-P", "NeedDaemonReload", unit.name.as_str()]), "yes");
    unit.stop(&systemd).await.expect("it stops");
    unit.start(&systemd).await.expect("it starts");
    let main = unit.state(&systemd).await.main_pid.expect("a process");
    let command = std::fs::read(format!("/proc/{main}/cmdline")).expect("it runs");
    assert_eq!(command, b"/bin/sleep\x002000\0");
}

#[tokio::test]
async fn f39_processes_left_behind_are_killed() {
    if !inside("f39_processes_left_behind_are_killed") {
        return;
    }
    let script = "sleep 1001 & sleep 1002 & exec sleep 1003";
    let unit = Unit::new("left", &format!("Type=exec\nKillMode=process\nExecStart=/bin/sh -c '{script}'"));
    let systemd = Systemd::default();
    unit.start(&systemd).await.expect("it starts");
    let group = systemctl(&["show", "-P", "ControlGroup", unit.name.as_str()]);
    let members = format!("/sys/fs/cgroup{group}/cgroup.procs");
    while std::fs::read_to_string(&members).unwrap_or_default().lines().count() < 3 {
        tokio::task::yield_now().await;
    }
    unit.stop(&systemd).await.expect("it stops");
    let left = std::fs::read_to_string(&members).unwrap_or_default();
    assert_eq!(left, "");
}

#[tokio::test]
async fn f40_a_stop_that_somebody_else_replaces_is_asked_for_again() {
    if !inside("f40_a_stop_that_somebody_else_replaces_is_asked_for_again") {
        return;
    }
    let unit = Unit::new("rival", "Type=exec\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 0.5");
    let (systemd, rival) = (Systemd::default(), Systemd::default());
    unit.start(&systemd).await.expect("it starts");
    let (stopped, ()) = tokio::join!(unit.stop(&systemd), async {
        while unit.state(&rival).await.active != UnitActive::Deactivating {}
        systemctl(&["start", "--no-block", unit.name.as_str()]);
    });
    stopped.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(unit.state(&systemd).await.active, UnitActive::Inactive);
}

/// Stops and starts by bare calls over the system bus: the floor under every measurement.
async fn bare_round(manager: &zbus::Proxy<'_>, ends: &mut zbus::proxy::SignalStream<'_>, unit: &UnitName) {
    for method in ["StopUnit", "StartUnit"] {
        let job: zbus::wire::OwnedObjectPath = manager.call(method, &(unit.as_str(), "replace")).await.expect("a job");
        loop {
            let end = ends.next().await.expect("a signal");
            let body = end.body();
            let (_, path, _, _): (u32, zbus::wire::OwnedObjectPath, String, String) =
                body.deserialize().expect("the end of a job");
            if path == job {
                break;
            }
        }
    }
}

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

#[tokio::test]
async fn stop_and_start_take_hardly_longer_than_bare_calls() {
    if !inside("stop_and_start_take_hardly_longer_than_bare_calls") {
        return;
    }
    let unit = Unit::new("timed", "Type=exec\nExecStart=/bin/sleep infinity");
    let systemd = Systemd::default();
    let connection = zbus::Connection::system().await.expect("a bus");
    let names = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
    let manager = zbus::Proxy::new(&connection, names.0, names.1, names.2).await.expect("the manager");
    manager.call::<_, _, ()>("Subscribe", &()).await.expect("a subscription");
    let mut ends = manager.receive_signal("JobRemoved").await.expect("signals");
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    unit.start(&systemd).await.expect("it starts");
    for _ in 0..100 {
        let began = Instant::now();
        // The floor starts as often as it likes, too.
        manager.call::<_, _, ()>("ResetFailedUnit", &(unit.name.as_str(),)).await.expect("no failure");
        let reset = began.elapsed();
        let began = Instant::now();
        bare_round(&manager, &mut ends, &unit.name).await;
        bare.push(began.elapsed());
        assert!(reset < LIMIT);
        let began = Instant::now();
        unit.stop(&systemd).await.expect("it stops");
        unit.start(&systemd).await.expect("it starts");
        ours.push(began.elapsed());
    }
    for (name, times) in [("bare", &mut bare), ("ours", &mut ours)] {
        note(&format!("{FIGURE}{name}: median {:?}, p99 {:?}", quantile(times, 50), quantile(times, 99)));
    }
    let (bare, ours) = (quantile(&mut bare, 50), quantile(&mut ours, 50));
    // Several times is a broken design; the exact ratio belongs to the figures, on a quiet machine.
    assert!(ours < bare * 5, "ours {ours:?}, bare {bare:?}");
}
