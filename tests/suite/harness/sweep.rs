//! The tracer counts every call once, strikes where it is told, and lets go.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use nix::errno::Errno;
use rollback_tests::hosts::{self, Fleet};
use rollback_tests::sweep::{Action, Aim, Trace};
use rollback_tests::wait::wait_until;

use crate::{CAREFUL, CARELESS, Errand, LIMIT, errand, line, possible, reset, script, sweep, trace};

#[test]
fn every_call_is_counted_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    reset(dir.path());
    let counted = trace(script(dir.path(), CAREFUL), Aim::count(&[dir.path()]));
    let calls: Vec<_> = counted.calls.iter().map(|call| call.name).collect();
    assert_eq!(calls, ["openat", "write", "fsync", "renameat2", "renameat", "fsync"], "{counted:?}");
    assert!(counted.calls[0].path.ends_with("next"));
    assert!(counted.calls[3].path.ends_with("current"));
    assert!(!counted.struck);
    let again = trace(script(dir.path(), CAREFUL), Aim::count(&[dir.path()]));
    assert_eq!(again.calls, counted.calls);
}

#[test]
fn a_kill_at_any_call_is_survived_by_the_careful_and_not_by_the_careless() {
    let dir = tempfile::tempdir().unwrap();
    let (calls, verdict) = sweep(dir.path(), CAREFUL, &Action::Kill, || {});
    assert_eq!(verdict, Ok(()));
    assert_eq!(calls.len(), 6);
    let (_, verdict) = sweep(dir.path(), CARELESS, &Action::Kill, || {});
    assert!(verdict.unwrap_err().contains("before call 2 (fsync"));
}

#[test]
fn a_call_can_be_made_to_fail() {
    let dir = tempfile::tempdir().unwrap();
    reset(dir.path());
    let aim = Aim::strike(&[dir.path()], 5, Action::Inject(Errno::ENOSPC));
    let report = trace(script(dir.path(), CAREFUL), aim);
    assert!(report.struck);
    assert!(!report.status.unwrap().success());
    assert!(report.said.contains("No space left"), "{}", report.said);
    assert_eq!(fs::read_to_string(dir.path().join("current")).unwrap(), "old");
}

#[test]
fn a_running_program_with_threads_is_counted_let_go_and_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = errand("writer", dir.path());
    assert_eq!(line(&mut writer.0), "ready");
    let pid = i32::try_from(writer.0.id()).unwrap();
    let request = |writer: &mut Errand| writer.0.stdin.as_mut().unwrap().write_all(b"go\n");

    let counting = Trace::attach(pid, Aim::count(&[dir.path()])).unwrap();
    request(&mut writer).unwrap();
    assert_eq!(line(&mut writer.0), "done");
    let report = counting.finish().unwrap();
    assert_eq!(report.calls.len(), 6, "{report:?}");

    request(&mut writer).unwrap();
    assert_eq!(line(&mut writer.0), "done", "it runs on untraced");

    let aim = Aim::strike(&[dir.path()], 4, Action::Kill);
    let killing = Trace::attach(pid, aim).unwrap();
    request(&mut writer).unwrap();
    let report = killing.wait(LIMIT).unwrap();
    assert!(report.struck);
    assert_eq!(report.calls.len(), 4);
    assert_eq!(writer.0.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_service_in_a_host_is_struck_from_out_here() {
    if !possible("a_service_in_a_host_is_struck_from_out_here", hosts::available()) {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    let host = fleet.host(1);
    host.sh("mkfifo /srv/request; mkdir /srv/state
         systemd-run --unit=writer sh -c 'while read word </srv/request; do echo $word >/srv/state/word; done'")
        .unwrap();
    let pid = host.main_pid("writer.service").unwrap();
    let state = host.outside("/srv/state");
    let trace = Trace::attach(pid, Aim::strike(&[&state], 2, Action::Kill)).unwrap();
    host.sh("echo hello >/srv/request").unwrap();
    let report = trace.wait(LIMIT).unwrap();
    assert_eq!(report.calls.last().unwrap().path, state.join("word"));
    assert_eq!(host.read("/srv/state/word").unwrap(), b"");
    wait_until(LIMIT, "systemd to notice", || {
        host.sh("systemctl show --property=Result --value writer.service").is_ok_and(|result| result.trim() == "signal")
    })
    .unwrap();
}
