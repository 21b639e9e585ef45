//! Tests of the process backend with real shells: what they ignore, leave behind, and outlive.

use std::os::unix::fs::symlink;

use rollback::model::policy::{Policy, Timeouts};
use tempfile::TempDir;

use super::*;
use crate::config::ReleasesLayout;

/// Longest wait for something that a shell does at once.
const SOON: Duration = Duration::from_secs(10);

struct World {
    component: Component,
    root: TempDir,
}

impl World {
    fn new(script: &str) -> Self {
        let root = TempDir::new().expect("a temporary directory");
        std::fs::create_dir_all(root.path().join("releases/1")).expect("a release");
        symlink("releases/1", root.path().join("current")).expect("a link");
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let component = Component {
            name: "web".parse().expect("a name"),
            environment: "prod".parse().expect("a name"),
            root: root.path().to_owned(),
            releases: ReleasesLayout { directory: "releases".into(), pattern: "*".to_owned(), hardlinks: false },
            current: "current".to_owned(),
            backend: Backend::Process { commands: [(unit(), command)].into() },
            units: vec![unit()],
            configuration: None,
            probes: Vec::new(),
            timeouts: Timeouts::default(),
            policy: Policy::default(),
            state: root.path().join("state"),
        };
        Self { component, root }
    }

    async fn start(&self, processes: &Processes) -> Result<(), PortError> {
        processes.start(&self.component, &self.component.units, SOON).await
    }

    async fn stop(&self, processes: &Processes, limit: Duration) {
        processes.stop(&self.component, &self.component.units, limit).await.expect("it stops");
    }

    fn state(&self, processes: &Processes) -> UnitState {
        processes.state(&self.component, &unit())
    }

    /// Waits until the script has written a file below its directory, and gives its content.
    async fn written(&self, name: &str) -> String {
        let path = self.root.path().join("releases/1").join(name);
        let deadline = Instant::now() + SOON;
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => assert!(Instant::now() < deadline, "`{name}` was not written"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn ended(&self, processes: &Processes) -> UnitState {
        let mut exit = processes.exit_of(&record_path(&self.component, &unit())).expect("a child");
        let status = tokio::time::timeout(SOON, exit.wait_for(Option::is_some)).await;
        assert!(status.is_ok(), "it did not end");
        drop(status);
        self.state(processes)
    }
}

fn unit() -> UnitName {
    "web.service".parse().expect("a name")
}

#[tokio::test]
async fn process_runs_where_current_leads_until_it_is_stopped() {
    let world = World::new("pwd > where; echo hello; exec sleep 600");
    let processes = Processes::default();
    assert_eq!(world.state(&processes).active, UnitActive::Inactive);
    world.start(&processes).await.expect("it starts");
    assert!(world.written("where").await.ends_with("/releases/1"));
    let running = world.state(&processes);
    assert_eq!((running.active, running.load), (UnitActive::Active, UnitLoad::Loaded));
    assert_eq!(running.invocation.len(), 32);
    world.start(&processes).await.expect("it runs already");
    assert_eq!(world.state(&processes), running);
    world.stop(&processes, SOON).await;
    assert_eq!(world.state(&processes).active, UnitActive::Inactive);
    assert_eq!(procfs::started(running.main_pid.expect("a process")), None);
    assert_eq!(
        processes.log_tail(&world.component, &[unit()], crate::ports::Tail { lines_max: 5, until: None }).await,
        ["hello"]
    );
    world.start(&processes).await.expect("it starts again");
    assert_ne!(world.state(&processes).invocation, running.invocation);
    world.stop(&processes, SOON).await;
}

#[tokio::test]
async fn process_that_ignores_sigterm_is_killed_at_the_limit() {
    let world = World::new("trap '' TERM; echo up > up; while :; do sleep 600; done");
    let processes = Processes::default();
    world.start(&processes).await.expect("it starts");
    world.written("up").await;
    let began = Instant::now();
    world.stop(&processes, Duration::from_millis(200)).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(world.state(&processes).active, UnitActive::Inactive);
}

#[tokio::test]
async fn what_left_the_process_group_is_stopped_as_well() {
    let world = World::new("setsid sh -c 'echo $$ > stray; exec sleep 600' & exec sleep 600");
    let processes = Processes::default();
    world.start(&processes).await.expect("it starts");
    let stray = world.written("stray").await.parse().expect("a process id");
    assert!(procfs::started(stray).is_some());
    let all = processes.processes(&world.component, &[unit()]).await.expect("they are listed");
    let main = world.state(&processes).main_pid.expect("a process");
    assert!(all.len() == 2 && all.contains(&stray) && all.contains(&main), "{all:?}");
    world.stop(&processes, SOON).await;
    assert_eq!(procfs::started(stray), None);
    assert_eq!(processes.processes(&world.component, &[unit()]).await.expect("they are listed"), [0_u32; 0]);
}

#[tokio::test]
async fn process_that_ends_by_itself_is_failed_or_inactive_by_its_status() {
    for (script, active, sub) in [("exit 3", UnitActive::Failed, "failed"), ("exit 0", UnitActive::Inactive, "exited")]
    {
        let world = World::new(&format!("read x < /dev/null; {script}"));
        let processes = Processes::default();
        if world.start(&processes).await.is_ok() {
            world.ended(&processes).await;
        }
        let state = world.state(&processes);
        assert_eq!((state.active, state.sub.as_str(), state.main_pid), (active, sub, None));
        world.stop(&processes, SOON).await;
        assert_eq!(world.state(&processes).active, UnitActive::Inactive);
    }
}

#[tokio::test]
async fn next_agent_finds_the_process_and_stops_it() {
    let world = World::new("echo up > up; exec sleep 600");
    let first = Processes::default();
    world.start(&first).await.expect("it starts");
    let running = world.state(&first);
    let second = Processes::default();
    assert_eq!(world.state(&second), running);
    world.start(&second).await.expect("it runs already");
    assert_eq!(world.state(&second), running);
    world.stop(&second, SOON).await;
    assert_eq!(world.state(&second).active, UnitActive::Inactive);
    assert_eq!(world.ended(&first).await.active, UnitActive::Inactive);
}

#[tokio::test]
async fn agent_that_died_between_intent_and_record_leaves_no_orphan() {
    let world = World::new("echo up > up; exec sleep 600");
    let first = Processes::default();
    world.start(&first).await.expect("it starts");
    world.written("up").await;
    let path = record_path(&world.component, &unit());
    let complete = Record::load(&path).expect("a record");
    Record { process: None, ..complete.clone() }.store(&path);
    assert_eq!(Record::load(&path), Some(complete));
    world.stop(&Processes::default(), SOON).await;
    assert_eq!(world.state(&first).active, UnitActive::Inactive);
}

#[tokio::test]
async fn process_of_an_earlier_boot_is_lost_and_nobody_is_signalled() {
    let world = World::new("exec sleep 600");
    let processes = Processes::default();
    world.start(&processes).await.expect("it starts");
    let path = record_path(&world.component, &unit());
    let today = Record::load(&path).expect("a record");
    Record { boot: "yesterday".to_owned(), ..today.clone() }.store(&path);
    let state = world.state(&processes);
    assert_eq!((state.active, state.sub.as_str()), (UnitActive::Failed, "lost"));
    world.stop(&processes, SOON).await;
    assert!(today.runs(), "a stranger's process was killed");
    today.store(&path);
    world.stop(&processes, SOON).await;
}

#[tokio::test]
async fn missing_program_and_missing_link_are_errors_that_name_them() {
    let mut world = World::new("");
    let processes = Processes::default();
    world.component.backend = Backend::Process { commands: [(unit(), vec!["./absent".to_owned()])].into() };
    let error = world.start(&processes).await.expect_err("there is no program");
    assert_eq!(error.to_string(), "cannot start `web.service`");
    assert_eq!(world.state(&processes).active, UnitActive::Failed);
    std::fs::remove_file(world.root.path().join("current")).expect("the link");
    let error = world.start(&processes).await.expect_err("there is no link");
    assert!(error.to_string().starts_with("cannot follow link `"), "{error}");
    world.component.backend = Backend::Process { commands: std::collections::BTreeMap::new() };
    assert_eq!(world.state(&processes).load, UnitLoad::NotFound);
}

#[tokio::test]
async fn log_that_has_grown_is_put_aside_at_the_next_start() {
    let world = World::new("echo fresh; exec sleep 600");
    let log = log_path(&world.component, &unit());
    std::fs::create_dir_all(&world.component.state).expect("a directory");
    File::create(&log).and_then(|file| file.set_len(LOG_BYTES_MAX + 1)).expect("a log");
    let processes = Processes::default();
    world.start(&processes).await.expect("it starts");
    world.stop(&processes, SOON).await;
    assert!(log.with_extension("log.1").exists());
    assert!(std::fs::metadata(&log).expect("a log").len() < 100);
}
