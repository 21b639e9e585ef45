//! Shows that the harness does what the other suites rely on, and that it catches what it should.
#![expect(clippy::disallowed_methods, reason = "this suite reads what real programs left on real disks")]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers belong to the tests, and a failed step of a test is a failed test"
)]

#[path = "harness/hosts.rs"]
mod hosts;
#[path = "harness/power.rs"]
mod power;
#[path = "harness/sweep.rs"]
mod sweeps;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rollback_tests::hosts::Fleet;
use rollback_tests::skip::skipped;
use rollback_tests::sweep::{Action, Aim, Call, Report, Trace, every_point};

const LIMIT: Duration = Duration::from_secs(20);

/// Tells a helper process where to write, or a leaver that it shall leave a fleet behind.
const ERRAND: &str = "ROLLBACK_TESTS_ERRAND";

/// Returns whether the test can run, and reports it when it cannot.
fn possible(name: &str, available: Result<(), String>) -> bool {
    available.inspect_err(|reason| skipped(name, reason)).is_ok()
}

/// Makes a program of a shell script that runs in `dir` and stops at its first failure.
fn script(dir: &Path, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", text]).current_dir(dir);
    command
}

fn trace(command: Command, aim: Aim) -> Report {
    Trace::spawn(command, aim).unwrap().wait(LIMIT).unwrap()
}

/// Replaces `current` the right way. `mv` asks twice: first not to replace, then to replace.
const CAREFUL: &str = "printf new >next; sync next; mv next current; sync .";
/// Leaves a moment without `current`.
const CARELESS: &str = "rm current; sync .; printf new >current; sync current";

/// Lays out the old state of `dir`, durably.
fn reset(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::write(dir.join("current"), "old").unwrap();
    write_out(dir);
}

/// Syncs the file system of `dir` only: a `sync` of all hides what another test forgets to sync.
fn write_out(dir: &Path) {
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
}

fn old_or_new(dir: &Path) -> Result<(), String> {
    match fs::read_to_string(dir.join("current")) {
        Ok(text) if text == "old" || text == "new" => Ok(()),
        other => Err(format!("`current` is {other:?}")),
    }
}

/// Sweeps a script over every call: `action` strikes, `recover` brings the disk back.
fn sweep(dir: &Path, text: &str, action: &Action, mut recover: impl FnMut()) -> (Vec<Call>, Result<(), String>) {
    reset(dir);
    let counted = trace(script(dir, text), Aim::count(&[dir]));
    assert!(counted.status.unwrap().success(), "{}", counted.said);
    let verdict = every_point(&counted.calls, |nth| {
        reset(dir);
        let report = trace(script(dir, text), Aim::strike(&[dir], nth, action.clone()));
        recover();
        if !report.struck {
            return Err("this call was not made".to_owned());
        }
        old_or_new(dir)
    });
    (counted.calls, verdict)
}

// Helpers that run in a process of their own: this very program, told to run one ignored test.

struct Errand(Child);

impl Drop for Errand {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn errand(test: &str, dir: &Path) -> Errand {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(ERRAND, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Errand(child)
}

/// Reads what the helper has to say: its first line that is not the test runner's.
fn line(child: &mut Child) -> String {
    let output = child.stdout.as_mut().unwrap();
    let said = BufReader::new(output).lines().map_while(Result::ok);
    said.filter_map(|line| line.split_once("said: ").map(|(_, said)| said.to_owned())).next().unwrap_or_default()
}

fn say(words: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "said: {words}").unwrap();
}

#[test]
#[ignore = "a helper of what_a_killed_test_left_behind_is_removed_by_the_next"]
fn leaver() {
    if std::env::var_os(ERRAND).is_none() {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    say(&fleet.host(1).outside("/").parent().unwrap().to_string_lossy());
    drop(std::io::stdin().read_to_string(&mut String::new()));
}

#[test]
#[ignore = "a helper of the tests that attach a tracer"]
fn writer() {
    let Some(dir) = std::env::var_os(ERRAND).map(PathBuf::from) else {
        return;
    };
    let requests = Arc::new(Barrier::new(3));
    let write = |name: &'static str| {
        let (dir, requests) = (dir.clone(), Arc::clone(&requests));
        std::thread::spawn(move || {
            loop {
                requests.wait();
                let mut file = File::create(dir.join(name)).unwrap();
                file.write_all(b"new").unwrap();
                file.sync_all().unwrap();
                requests.wait();
            }
        })
    };
    let threads = [write("a"), write("b")];
    say("ready");
    for line in std::io::stdin().lines() {
        drop(line);
        requests.wait();
        requests.wait();
        say("done");
    }
    drop(threads);
}
