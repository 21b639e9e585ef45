//! Faults of the catalogue that need neither root nor systemd, each by its number.
#![expect(clippy::disallowed_methods, reason = "this suite damages what real agents rely on")]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers belong to the tests, and a failed step of a test is a failed test"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollback::wire::v1::{self, ResultWord, effect::Effect};
use rollback_tests::bed::{Agent, Bed, LIMIT, Places, agent_program};
use rollback_tests::images::{self, Image, ImageSpec, privately};
use rollback_tests::skip::skipped;
use rollback_tests::wait::{timed, wait_until};

/// What any operation here may take at most, on a busy machine, when nothing makes it wait.
const SOON: Duration = Duration::from_secs(10);

/// A bed with a running agent; reports the test when there is no agent to run.
fn bed(name: &str) -> Option<(Bed, Agent)> {
    let Some(program) = agent_program() else {
        skipped(name, "needs `rb-agent`, which `cargo build` makes");
        return None;
    };
    let bed = Bed::new(program, Places::Plain);
    let agent = bed.start();
    Some((bed, agent))
}

fn request(to: &str, emergency: bool) -> v1::Request {
    v1::Request {
        operation: uuid::Uuid::now_v7().to_string(),
        to: to.to_owned(),
        emergency,
        reason: "a test of faults".to_owned(),
        ..v1::Request::default()
    }
}

fn current(bed: &Bed) -> v1::current::Current {
    bed.status().unwrap().components[0].current.clone().unwrap().current.unwrap()
}

#[test]
fn f22_a_missing_current_is_told_and_repaired() {
    let Some((bed, _agent)) = bed("f22_a_missing_current_is_told_and_repaired") else { return };
    fs::remove_file(bed.app().join("current")).unwrap();
    assert_eq!(current(&bed), v1::current::Current::Missing(v1::Empty {}));
    assert_eq!(bed.roll_back(&request("r2", false)), Ok(ResultWord::Done));
    assert_eq!(bed.current().as_deref(), Ok("r2"));
    assert_eq!(bed.unit().map(drop), Ok(()));
}

#[test]
fn f23_a_current_that_leads_nowhere_or_outside_is_told_and_repaired() {
    let Some((bed, _agent)) = bed("f23_a_current_that_leads_nowhere_or_outside_is_told_and_repaired") else { return };
    let link = bed.app().join("current");
    for target in ["releases/gone", "/usr"] {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        let told = match current(&bed) {
            v1::current::Current::Dangling(told) | v1::current::Current::Outside(told) => told,
            other => panic!("{target}: {other:?}"),
        };
        assert_eq!(told, target);
        assert_eq!(bed.roll_back(&request("r2", false)), Ok(ResultWord::Done), "{target}");
        assert_eq!(bed.current().as_deref(), Ok("r2"));
    }
}

#[test]
fn f24_current_that_is_a_directory_is_refused_and_never_deleted() {
    let Some((bed, _agent)) = bed("f24_current_that_is_a_directory_is_refused_and_never_deleted") else { return };
    let path = bed.app().join("current");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), "data").unwrap();
    for emergency in [false, true] {
        let refused = bed.roll_back(&request("", emergency)).unwrap_err();
        assert!(refused.contains("current"), "{refused}");
        assert_eq!(fs::read_to_string(path.join("precious")).unwrap(), "data");
    }
}

#[test]
fn f27_a_tampered_target_is_refused_by_the_name_of_its_file_in_an_emergency_too() {
    let name = "f27_a_tampered_target_is_refused_by_the_name_of_its_file_in_an_emergency_too";
    let Some((bed, _agent)) = bed(name) else { return };
    let release = bed.app().join("releases/r2");
    let version = release.join("VERSION");
    let refused = |what: &str, file: &str| {
        for emergency in [false, true] {
            let refused = bed.roll_back(&request("r2", emergency)).unwrap_err();
            assert!(refused.contains(file), "{what}: {refused}");
            assert_eq!(bed.current().as_deref(), Ok("r3"), "{what}");
        }
    };
    fs::write(&version, "rX\n").unwrap();
    refused("a byte", "VERSION");
    fs::write(&version, "r2\n").unwrap();
    fs::set_permissions(&version, fs::Permissions::from_mode(0o755)).unwrap();
    refused("a mode", "VERSION");
    fs::set_permissions(&version, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(release.join("extra"), "").unwrap();
    refused("a further file", "extra");
    fs::remove_file(release.join("extra")).unwrap();
    fs::remove_file(&version).unwrap();
    symlink("/etc/hostname", &version).unwrap();
    refused("a link", "VERSION");
}

#[test]
fn f28_a_destroyed_history_is_moved_aside_and_the_rollback_works() {
    let Some((bed, agent)) = bed("f28_a_destroyed_history_is_moved_aside_and_the_rollback_works") else { return };
    drop(agent);
    let database = bed.state().join("history.db");
    let garbage = vec![0xa5; 40_000];
    fs::write(&database, &garbage).unwrap();
    // What the agent before had not moved into it yet would mend it.
    fs::remove_file(bed.state().join("history.db-wal")).unwrap();
    let _agent = bed.start();
    assert_eq!(bed.roll_back(&request("", false)), Ok(ResultWord::Done));
    assert_eq!(bed.current().as_deref(), Ok("r2"));
    let names: Vec<_> = fs::read_dir(bed.state()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let kept = fs::read(bed.state().join("history.db.damaged-1")).is_ok_and(|bytes| bytes == garbage);
    assert!(kept, "{names:?}\n{}", bed.log());
    assert!(!bed.status().unwrap().problems.is_empty(), "the status says nothing of it");
}

#[test]
fn f29_an_altered_row_is_found_by_the_audit() {
    let Some((bed, agent)) = bed("f29_an_altered_row_is_found_by_the_audit") else { return };
    assert_eq!(bed.roll_back(&request("", false)), Ok(ResultWord::Done));
    assert_eq!(bed.audit(), Ok(true));
    drop(agent);
    let database = rusqlite::Connection::open(bed.state().join("history.db")).unwrap();
    // Whoever owns the file is not held by its triggers.
    let guards: Vec<(String, String)> = database
        .prepare("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    guards.iter().for_each(|(name, _)| database.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
    let change = "UPDATE records SET body = replace(body, 'r2', 'r1') WHERE body LIKE '%r2%'";
    assert!(database.execute(change, []).unwrap() > 0);
    guards.iter().for_each(|(_, sql)| database.execute_batch(sql).unwrap());
    drop(database);
    let _agent = bed.start();
    assert_eq!(bed.audit(), Ok(false));
}

#[test]
fn f31_a_history_that_another_process_locks_does_not_hold_a_rollback_up() {
    let name = "f31_a_history_that_another_process_locks_does_not_hold_a_rollback_up";
    let Some((bed, agent)) = bed(name) else { return };
    let database = rusqlite::Connection::open(bed.state().join("history.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let emergency = request("", true);
    let (result, took) = timed(|| bed.roll_back(&emergency));
    assert_eq!(result, Ok(ResultWord::Done), "after {took:?}");
    assert!(took < SOON, "{took:?}");
    assert_eq!(bed.current().as_deref(), Ok("r2"));
    database.execute_batch("ROLLBACK").unwrap();
    drop(database);
    drop(agent);
    let _agent = bed.start();
    assert_eq!(bed.history(&emergency.operation), Ok(vec![ResultWord::Done]));
}

#[test]
fn f32_a_second_agent_ends_and_the_first_goes_on() {
    let Some((bed, agent)) = bed("f32_a_second_agent_ends_and_the_first_goes_on") else { return };
    let said = bed.start_another().unwrap();
    assert!(said.contains("another agent works in this state directory"), "{said}");
    assert!(agent.pid() > 0);
    assert_eq!(bed.roll_back(&request("", false)), Ok(ResultWord::Done));
}

#[test]
fn f33_a_service_that_ignores_the_request_to_stop_is_killed_at_its_limit() {
    let name = "f33_a_service_that_ignores_the_request_to_stop_is_killed_at_its_limit";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    let deaf = ["bin/sh", "-c", "trap '' TERM; exec bin/service 3600"];
    let bed = Bed::with(program, Places::Plain, &deaf, "stability = \"0s\"\nstop = \"1s\"");
    let _agent = bed.start();
    let (old, _) = bed.unit().unwrap();
    let (result, took) = timed(|| bed.roll_back(&request("", false)));
    assert_eq!(result, Ok(ResultWord::Done));
    assert!(took >= Duration::from_secs(1) && took < SOON, "{took:?}");
    assert!(fs::metadata(format!("/proc/{old}")).is_err());
    assert_eq!(bed.unit().map(drop), Ok(()));
}

#[test]
fn f54_of_two_operators_at_once_one_wins_and_the_other_hears_who() {
    let name = "f54_of_two_operators_at_once_one_wins_and_the_other_hears_who";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    let bed = Bed::with(program, Places::Plain, &["bin/service", "3600"], "stability = \"1s\"");
    let _agent = bed.start();
    let requests = [request("r1", false), request("r2", false)];
    let results = bed.roll_back_both([&requests[0], &requests[1]]).unwrap();
    let winner = results.iter().position(|result| *result == Ok(ResultWord::Done)).unwrap();
    let refused = results[1 - winner].clone().unwrap_err();
    assert!(refused.contains(&requests[winner].operation), "{refused}");
    assert_eq!(bed.current().as_deref(), Ok(requests[winner].to.as_str()));
    assert_eq!(bed.history(&requests[1 - winner].operation), Ok(vec![ResultWord::Refused]));
}

#[test]
fn f55_the_same_request_twice_at_once_has_one_effect_and_one_answer() {
    let name = "f55_the_same_request_twice_at_once_has_one_effect_and_one_answer";
    let Some((bed, _agent)) = bed(name) else { return };
    for (to, emergency) in [("r2", false), ("r3", true)] {
        let request = request(to, emergency);
        let results = bed.roll_back_both([&request, &request]).unwrap();
        assert_eq!(results, [Ok(ResultWord::Done), Ok(ResultWord::Done)], "{to}");
        assert_eq!(bed.current().as_deref(), Ok(to));
        assert_eq!(bed.history(&request.operation), Ok(vec![ResultWord::Done]), "{to}");
    }
}

#[test]
fn f64_a_state_directory_that_others_can_read_is_refused_by_its_name() {
    let Some((bed, agent)) = bed("f64_a_state_directory_that_others_can_read_is_refused_by_its_name") else { return };
    drop(agent);
    for mode in [0o750, 0o705, 0o770, 0o701] {
        fs::set_permissions(bed.state(), fs::Permissions::from_mode(mode)).unwrap();
        let said = bed.start_another().unwrap();
        assert!(said.contains(&bed.state().display().to_string()), "{mode:o}: {said}");
    }
    fs::set_permissions(bed.state(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(bed.try_start().is_ok());
}

#[test]
fn f07_a_verification_that_is_interrupted_has_the_time_that_was_left() {
    let name = "f07_a_verification_that_is_interrupted_has_the_time_that_was_left";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    const LIMIT_MS: u64 = 8_000;
    let timeouts = format!(
        "stability = \"0s\"\nverify = \"{LIMIT_MS}ms\"\n[[smoke]]\nname = \"never\"\nkind = \"exec\"\n\
         command = [\"/bin/false\"]\ntimeout = \"1s\"\ninterval = \"100ms\"\nfailures = 100"
    );
    let bed = Bed::with(program, Places::Plain, &["bin/service", "3600"], &timeouts);
    let agent = bed.start();
    let emergency = request("r2", true);
    let half = Duration::from_millis(LIMIT_MS / 2);
    let interrupted = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            wait_until(LIMIT, "the switch", || bed.current().as_deref() == Ok("r2")).unwrap();
            std::thread::sleep(half);
            drop(agent);
        });
        let interrupted = bed.roll_back(&emergency);
        killer.join().unwrap();
        interrupted
    });
    assert!(interrupted.is_err(), "{interrupted:?}");
    let _agent = bed.start();
    let operation = bed.show(&emergency.operation).unwrap();
    assert_eq!(operation.recoveries, 1);
    let verified = operation.steps.iter().rfind(|step| matches!(effect(step), Some(Effect::Verified(_)))).unwrap();
    let took = Duration::from_micros(verified.duration_us);
    // The killer slept for half of it, so at most the other half was left.
    assert!(took <= half + Duration::from_secs(1), "it began anew: {took:?}");
}

fn effect(step: &v1::Step) -> Option<&Effect> {
    step.effect.as_ref()?.effect.as_ref()
}

#[test]
fn an_emergency_takes_over_from_what_runs_and_both_say_so() {
    let name = "an_emergency_takes_over_from_what_runs_and_both_say_so";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    let bed = Bed::with(program, Places::Plain, &["bin/service", "3600"], "stability = \"3s\"");
    let _agent = bed.start();
    let (standard, emergency) = (request("r2", false), request("r1", true));
    let results = std::thread::scope(|scope| {
        let first = scope.spawn(|| bed.roll_back(&standard));
        wait_until(LIMIT, "the first switch", || bed.current().as_deref() == Ok("r2")).unwrap();
        let second = bed.roll_back(&emergency);
        [first.join().unwrap(), second]
    });
    assert_eq!(results, [Ok(ResultWord::Superseded), Ok(ResultWord::Done)], "{}", bed.log());
    assert_eq!(bed.current().as_deref(), Ok("r1"));
    assert_eq!(bed.show(&emergency.operation).unwrap().took_over, standard.operation);
    assert_eq!(bed.history(&standard.operation), Ok(vec![ResultWord::Superseded]));
}

#[test]
fn f30_a_log_of_the_database_that_is_gone_makes_no_false_history() {
    let name = "f30_a_log_of_the_database_that_is_gone_makes_no_false_history";
    let Some((bed, agent)) = bed(name) else { return };
    let lost = request("r2", true);
    assert_eq!(bed.roll_back(&lost), Ok(ResultWord::Done));
    drop(agent);
    for part in ["history.db-wal", "history.db-shm"] {
        fs::remove_file(bed.state().join(part)).unwrap();
    }
    let _agent = bed.start();
    assert_eq!(bed.audit(), Ok(true), "what is left stands");
    assert!(bed.history(&lost.operation).unwrap().iter().all(|result| *result == ResultWord::Done));
    let next = request("r1", true);
    assert_eq!(bed.roll_back(&next), Ok(ResultWord::Done), "{}", bed.log());
    assert_eq!(bed.history(&next.operation), Ok(vec![ResultWord::Done]));
}

/// Runs `test` on a disk of each kind, with the component and the state on it.
fn on_small_disks(name: &str, mut test: impl FnMut(&Bed, &Path) + Send) {
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    if let Err(reason) = images::available() {
        return skipped(name, &reason);
    }
    privately(move || {
        for spec in [ImageSpec::EXT4, ImageSpec::XFS] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let image = Image::create(dir.path(), "disk", spec).unwrap();
            let mount = image.path().to_owned();
            test(&Bed::new(program.clone(), Places::Images(image, None)), &mount);
        }
    });
}

/// Takes every free byte of a disk.
fn fill(mount: &Path) -> PathBuf {
    let path = mount.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let block = vec![0xa5; size];
        while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
    }
    path
}

/// Takes every inode of a disk, and what an inode needs.
fn take_inodes(mount: &Path) -> PathBuf {
    let directory = mount.join("fillers");
    fs::create_dir(&directory).unwrap();
    let made = (0..).take_while(|n| fs::File::create(directory.join(n.to_string())).is_ok()).count();
    assert!(made > 100, "{made}");
    directory
}

/// Goes back at once although nothing can be written any more, and sees the history complete when it can, without a
/// restart.
fn go_back_without_space(bed: &Bed, what: &str, free: impl FnOnce()) {
    let emergency = request("", true);
    assert_eq!(bed.roll_back(&emergency), Ok(ResultWord::Done), "{what}: {}", bed.log());
    assert_eq!(bed.current().as_deref(), Ok("r2"), "{what}");
    assert_eq!(bed.unit().map(drop), Ok(()), "{what}");
    free();
    let link = bed.app().join("current");
    wait_until(LIMIT, "the history to be complete", || {
        // Whoever switches the link, to the same release as well, has the agent look.
        symlink("releases/r2", bed.app().join("again")).and_then(|()| fs::rename(bed.app().join("again"), &link)).ok();
        bed.history(&emergency.operation).is_ok_and(|lines| lines == [ResultWord::Done])
    })
    .unwrap_or_else(|error| panic!("{what}: {error}: {:?}\n{}", bed.history(&emergency.operation), bed.log()));
    assert_eq!(bed.audit(), Ok(true), "{what}");
}

#[test]
fn f14_a_full_disk_stops_no_emergency_and_the_history_is_completed_afterwards() {
    on_small_disks("f14_a_full_disk_stops_no_emergency_and_the_history_is_completed_afterwards", |bed, mount| {
        let _agent = bed.start();
        let filler = fill(mount);
        go_back_without_space(bed, &mount.display().to_string(), || fs::remove_file(filler).unwrap());
    });
}

#[test]
fn f15_a_disk_without_inodes_stops_no_emergency() {
    on_small_disks("f15_a_disk_without_inodes_stops_no_emergency", |bed, mount| {
        let _agent = bed.start();
        let directory = take_inodes(mount);
        go_back_without_space(bed, &mount.display().to_string(), || fs::remove_dir_all(directory).unwrap());
    });
}

#[test]
fn f16_a_disk_that_turns_read_only_is_said_at_once_and_the_service_goes_on() {
    on_small_disks("f16_a_disk_that_turns_read_only_is_said_at_once_and_the_service_goes_on", |bed, mount| {
        let Some(trigger) = error_trigger(mount) else { return };
        let _agent = bed.start();
        let before = bed.unit().unwrap();
        fs::write(trigger, "a test").unwrap();
        for emergency in [false, true] {
            let (result, took) = timed(|| bed.roll_back(&request("", emergency)));
            let error = result.unwrap_err();
            assert!(error.to_lowercase().contains("read-only"), "{error}");
            assert!(took < SOON, "{took:?}");
        }
        assert_eq!(bed.unit(), Ok(before), "nothing was stopped");
        assert!(!bed.status().unwrap().problems.is_empty(), "the status says nothing of it");
    });
}

#[test]
fn f16_a_disk_of_releases_that_is_read_only_is_said_before_anything_is_stopped() {
    let name = "f16_a_disk_of_releases_that_is_read_only_is_said_before_anything_is_stopped";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    if let Err(reason) = images::available() {
        return skipped(name, &reason);
    }
    privately(move || {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let [first, second] = ["first", "second"].map(|name| Image::create(dir.path(), name, ImageSpec::EXT4).unwrap());
        let mount = first.path().to_owned();
        // The state is on another disk, which goes on.
        let bed = Bed::new(program.clone(), Places::Images(first, Some(second)));
        let _agent = bed.start();
        let before = bed.unit().unwrap();
        let remount = |how: &str| {
            let done = std::process::Command::new("mount").args(["-o", how]).arg(&mount).status();
            assert!(done.is_ok_and(|status| status.success()), "{how}");
        };
        // The service writes nothing, so its disk can be taken from under it.
        remount("remount,ro");
        for emergency in [false, true] {
            let error = bed.roll_back(&request("", emergency)).unwrap_err();
            assert!(error.to_lowercase().contains("read-only"), "{error}");
        }
        assert_eq!(bed.unit(), Ok(before), "nothing was stopped");
        remount("remount,rw");
        assert_eq!(bed.roll_back(&request("", false)), Ok(ResultWord::Done), "{}", bed.log());
    });
}

/// Has an ext4 turn read-only on its first error, and gives the file that makes one; other file systems have none.
fn error_trigger(mount: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let device = mounts.lines().find(|line| line.split(' ').nth(1) == mount.to_str())?.split(' ').next()?;
    let trigger = Path::new("/sys/fs/ext4").join(Path::new(device).file_name()?).join("trigger_fs_error");
    let remounted = std::process::Command::new("mount").args(["-o", "remount,errors=remount-ro"]).arg(mount).status();
    (trigger.exists() && remounted.is_ok_and(|status| status.success())).then_some(trigger)
}
