//! Shows that the harness does what the other suites rely on, and that it catches what it should.
#![expect(
    clippy::disallowed_methods,
    reason = "this suite reads what real programs left on real disks"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use nix::errno::Errno;
use rollback_tests::hosts::{self, Fleet, Host};
use rollback_tests::images::{self, Image, ImageSpec, privately};
use rollback_tests::skip::{note, skipped};
use rollback_tests::sweep::{Action, Aim, Call, Report, Trace, every_point};
use rollback_tests::wait::{timed, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// Tells a helper process where to write, or a leaver that it shall leave a fleet behind.
const ERRAND: &str = "ROLLBACK_TESTS_ERRAND";

/// Returns whether the test can run, and reports it when it cannot.
fn possible(name: &str, available: Result<(), String>) -> bool {
    available
        .inspect_err(|reason| skipped(name, reason))
        .is_ok()
}

// Hosts.

#[test]
fn hosts_boot_with_identities_of_their_own() {
    if !possible(
        "hosts_boot_with_identities_of_their_own",
        hosts::available(),
    ) {
        return;
    }
    let (fleet, took) = timed(|| Fleet::up(3).unwrap());
    note(&format!("3 hosts booted in {took:.1?}"));
    for host in fleet.hosts() {
        let state = host.exec(&["systemctl", "is-system-running"]).unwrap();
        let state = String::from_utf8(state.stdout).unwrap();
        let failed = host
            .sh("systemctl list-units --failed --no-legend")
            .unwrap();
        assert_eq!(state.trim(), "running", "failed units: {failed}");
        assert_eq!(host.sh("hostname").unwrap().trim(), host.name());
        assert_eq!(host.sh("cat /proc/1/comm").unwrap().trim(), "systemd");
    }
    let machine_ids: Vec<_> = fleet
        .hosts()
        .iter()
        .map(|host| host.sh("cat /etc/machine-id").unwrap())
        .collect();
    assert_ne!(machine_ids[0], machine_ids[1]);
}

#[test]
fn a_file_and_a_journal_belong_to_one_host() {
    if !possible(
        "a_file_and_a_journal_belong_to_one_host",
        hosts::available(),
    ) {
        return;
    }
    let fleet = Fleet::up(2).unwrap();
    let [first, second] = [fleet.host(1), fleet.host(2)];
    first
        .write("/srv/new/script", "#!/bin/sh\necho hello\n", 0o750)
        .unwrap();
    assert_eq!(first.sh("/srv/new/script").unwrap(), "hello\n");
    assert_eq!(
        first.read("/srv/new/script").unwrap(),
        b"#!/bin/sh\necho hello\n"
    );
    assert!(second.read("/srv/new/script").is_err());
    assert!(!Path::new("/srv/new/script").exists());

    first
        .sh("echo 'only here' | systemd-cat -t marker; journalctl --sync")
        .unwrap();
    let entries = first.journal(&["-t", "marker"]).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["MESSAGE"], "only here");
    assert_eq!(second.journal(&["-t", "marker"]).unwrap().len(), 0);

    let error = first.sh("echo before; ls /nowhere").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("before") && source.contains("/nowhere"),
        "{source}"
    );
}

#[test]
fn a_host_changes_nothing_that_the_machine_shares() {
    if !possible(
        "a_host_changes_nothing_that_the_machine_shares",
        hosts::available(),
    ) {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    assert!(fleet.host(1).sh("echo 1 >/proc/sys/vm/swappiness").is_err());
}

fn serve(host: &Host) {
    host.write("/srv/www/name", host.name(), 0o644).unwrap();
    host.write(
        "/usr/local/bin/serve",
        "#!/usr/bin/perl\nuse IO::Socket::INET;\n\
         my $s = IO::Socket::INET->new(Listen => 9, LocalPort => 8080, ReuseAddr => 1) or die;\n\
         while (my $c = $s->accept) { open my $f, '<', '/srv/www/name'; print $c <$f>; close $c }\n",
        0o755,
    )
    .unwrap();
    host.sh("systemd-run --unit=www /usr/local/bin/serve")
        .unwrap();
}

/// A command that prints the name of the host at `address`, or gives up after a second.
fn ask(address: IpAddr) -> Vec<String> {
    let script = format!("exec 3<>/dev/tcp/{address}/8080 && cat <&3");
    ["timeout", "1", "bash", "-c", &script]
        .map(str::to_owned)
        .to_vec()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[test]
fn a_cut_host_reaches_nobody_until_it_joins() {
    if !possible(
        "a_cut_host_reaches_nobody_until_it_joins",
        hosts::available(),
    ) {
        return;
    }
    let fleet = Fleet::up(2).unwrap();
    let [first, second] = [fleet.host(1), fleet.host(2)];
    serve(second);
    let question = ask(second.address());
    let from_host = || first.exec(&words(&question)).unwrap().stdout == b"h2";
    let from_switch = || fleet.net(&words(&question)).unwrap().stdout == b"h2";
    wait_until(LIMIT, "the service to answer the other host", from_host).unwrap();
    wait_until(LIMIT, "the service to answer the switch", from_switch).unwrap();

    second.cut().unwrap();
    assert!(!from_host());
    assert!(!from_switch());
    second.join().unwrap();
    wait_until(LIMIT, "the service to answer again", || {
        from_host() && from_switch()
    })
    .unwrap();

    // A client inside the test process gets there too.
    let address = (second.address(), 8080);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fleet.enter_net().unwrap();
            let mut answer = String::new();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "h2");
        });
    });
}

#[test]
fn a_crashed_host_boots_on_the_disk_it_had() {
    if !possible(
        "a_crashed_host_boots_on_the_disk_it_had",
        hosts::available(),
    ) {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    let host = fleet.host(1);
    host.write(
        "/etc/systemd/system/marker.service",
        "[Service]\nExecStart=/bin/sh -c 'echo up >>/var/lib/boots; exec sleep infinity'\n\
         [Install]\nWantedBy=fleet.target\n",
        0o644,
    )
    .unwrap();
    host.sh("systemctl enable --now marker.service").unwrap();
    let boots = |count: usize| {
        wait_until(LIMIT, "the unit to have run", || {
            host.read("/var/lib/boots")
                .is_ok_and(|text| text == "up\n".repeat(count).as_bytes())
        })
    };
    boots(1).unwrap();
    let before = host.init_pid().unwrap();
    let boot_id = host.sh("journalctl --list-boots | wc -l").unwrap();

    host.crash().unwrap();
    assert!(!Path::new(&format!("/proc/{before}")).exists());
    assert!(host.exec(&["true"]).is_err());
    host.boot().unwrap();
    boots(2).unwrap();
    // All boots share the machine's boot id, so the journal is kept but not told apart by it.
    assert_eq!(host.sh("journalctl --list-boots | wc -l").unwrap(), boot_id);
    assert!(host.boot().is_err(), "a host that is up does not boot");
}

#[test]
fn what_a_killed_test_left_behind_is_removed_by_the_next() {
    let name = "what_a_killed_test_left_behind_is_removed_by_the_next";
    if !possible(name, hosts::available()) {
        return;
    }
    let mut leaver = errand("leaver", Path::new("/"));
    let left = line(&mut leaver.0);
    assert!(Path::new(&left).exists(), "{left}");
    leaver.0.kill().unwrap();
    leaver.0.wait().unwrap();
    let pid = leaver.0.id();
    assert!(!remains(pid).is_empty());
    drop(Fleet::up(1).unwrap());
    wait_until(LIMIT, "all traces to be gone", || remains(pid).is_empty()).unwrap();
    assert_eq!(
        remains(std::process::id())
            .iter()
            .filter(|p| p.ends_with("-h9"))
            .count(),
        0
    );
}

/// Everything on the machine that carries the process id of a test.
fn remains(pid: u32) -> Vec<PathBuf> {
    [
        "/var/tmp",
        "/run/netns",
        "/run/rollback-tests",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
    ]
    .iter()
    .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
    .map(|entry| entry.path())
    .filter(|path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        ["rb-", "rollback-hosts-"]
            .iter()
            .any(|kind| name.starts_with(&format!("{kind}{pid}-")))
    })
    .collect()
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
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
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
    said.filter_map(|line| line.split_once("said: ").map(|(_, said)| said.to_owned()))
        .next()
        .unwrap_or_default()
}

fn say(words: &str) {
    writeln!(std::io::stdout(), "said: {words}").unwrap();
}

#[test]
#[ignore = "a helper of what_a_killed_test_left_behind_is_removed_by_the_next"]
fn leaver() {
    if std::env::var_os(ERRAND).is_none() {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    say(&fleet
        .host(1)
        .outside("/")
        .parent()
        .unwrap()
        .to_string_lossy());
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

// The tracer.

/// Makes a program of a shell script that runs in `dir` and stops at its first failure.
fn script(dir: &Path, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", text]).current_dir(dir);
    command
}

fn trace(command: Command, aim: Aim) -> Report {
    Trace::spawn(command, aim).unwrap().wait(LIMIT).unwrap()
}

/// Replaces `current` the right way.
const CAREFUL: &str = "printf new >next; sync next; mv next current; sync .";
/// Replaces `current` in place.
const CARELESS: &str = "printf new >current; sync current";

/// Lays out the old state of `dir`, durably.
fn reset(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::write(dir.join("current"), "old").unwrap();
    nix::unistd::sync();
}

fn old_or_new(dir: &Path) -> Result<(), String> {
    match fs::read_to_string(dir.join("current")) {
        Ok(text) if text == "old" || text == "new" => Ok(()),
        other => Err(format!("`current` is {other:?}")),
    }
}

/// Sweeps a script over every call: `action` strikes, `recover` brings the disk back.
fn sweep(
    dir: &Path,
    text: &str,
    action: &Action,
    mut recover: impl FnMut(),
) -> (Vec<Call>, Result<(), String>) {
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

#[test]
fn every_call_is_counted_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let counted = trace(script(dir.path(), CAREFUL), Aim::count(&[dir.path()]));
    let calls: Vec<_> = counted.calls.iter().map(|call| call.name).collect();
    assert_eq!(
        calls,
        ["openat", "write", "fsync", "renameat2", "fsync"],
        "{counted:?}"
    );
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
    assert_eq!(calls.len(), 5);
    let (_, verdict) = sweep(dir.path(), CARELESS, &Action::Kill, || {});
    assert!(verdict.unwrap_err().contains("before call 2 (write"));
}

#[test]
fn a_call_can_be_made_to_fail() {
    let dir = tempfile::tempdir().unwrap();
    reset(dir.path());
    let aim = Aim::strike(&[dir.path()], 4, Action::Inject(Errno::ENOSPC));
    let report = trace(script(dir.path(), CAREFUL), aim);
    assert!(report.struck);
    assert!(!report.status.unwrap().success());
    assert!(report.said.contains("No space left"), "{}", report.said);
    assert_eq!(
        fs::read_to_string(dir.path().join("current")).unwrap(),
        "old"
    );
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
    if !possible(
        "a_service_in_a_host_is_struck_from_out_here",
        hosts::available(),
    ) {
        return;
    }
    let fleet = Fleet::up(1).unwrap();
    let host = fleet.host(1);
    host.sh(
        "mkfifo /srv/request; mkdir /srv/state
         systemd-run --unit=writer sh -c 'while read word </srv/request; do echo $word >/srv/state/word; done'",
    )
    .unwrap();
    let pid = host.main_pid("writer.service").unwrap();
    let state = host.outside("/srv/state");
    let trace = Trace::attach(pid, Aim::strike(&[&state], 2, Action::Kill)).unwrap();
    host.sh("echo hello >/srv/request").unwrap();
    let report = trace.wait(LIMIT).unwrap();
    assert_eq!(report.calls.last().unwrap().path, state.join("word"));
    assert_eq!(host.read("/srv/state/word").unwrap(), b"");
    wait_until(LIMIT, "systemd to notice", || {
        host.sh("systemctl show --property=Result --value writer.service")
            .is_ok_and(|result| result.trim() == "signal")
    })
    .unwrap();
}

// Power.

/// Runs `test` with a directory, once on each file system.
fn on_both(name: &str, test: impl Fn(&Path, ImageSpec) + Sync) {
    if !possible(name, images::available()) {
        return;
    }
    privately(|| {
        for spec in [ImageSpec::EXT4, ImageSpec::XFS] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            test(dir.path(), spec);
        }
    });
}

#[test]
fn a_power_cut_at_any_call_is_survived_by_the_careful_and_not_by_the_careless() {
    let name = "a_power_cut_at_any_call_is_survived_by_the_careful_and_not_by_the_careless";
    on_both(name, |dir, spec| {
        let image = Image::create(dir, "disk", spec).unwrap();
        let cut = Action::PowerCut(vec![image.path().to_owned()]);
        let recover = || image.remount().unwrap();
        let (careful, took) = timed(|| sweep(image.path(), CAREFUL, &cut, recover));
        assert_eq!(careful.1, Ok(()), "{spec:?}");
        note(&format!(
            "{} power cuts on {:?} in {took:.1?}",
            careful.0.len(),
            spec.file_system
        ));
        let careless = sweep(image.path(), CARELESS, &cut, recover);
        assert!(careless.1.is_err(), "{spec:?}");
    });
}

#[test]
fn a_forgotten_directory_sync_is_caught_when_the_history_is_elsewhere() {
    let name = "a_forgotten_directory_sync_is_caught_when_the_history_is_elsewhere";
    on_both(name, |dir, spec| {
        let releases = Image::create(dir, "releases", spec).unwrap();
        let history = Image::create(dir, "history", spec).unwrap();
        let log = history.path().to_string_lossy();
        let dirs = [releases.path(), history.path()];
        let cut = Action::PowerCut(dirs.map(Path::to_owned).to_vec());
        let lies = |last_step: &str| {
            let text = format!(
                "printf new >next; sync next; mv next current; {last_step}
                 printf done >{log}/log; sync {log}/log; touch {log}/end"
            );
            reset(releases.path());
            let calls = trace(script(releases.path(), &text), Aim::count(&dirs)).calls;
            every_point(&calls, |nth| {
                fs::remove_file(history.path().join("log")).ok();
                reset(releases.path());
                trace(
                    script(releases.path(), &text),
                    Aim::strike(&dirs, nth, cut.clone()),
                );
                releases.remount().unwrap();
                history.remount().unwrap();
                old_or_new(releases.path())?;
                let said = fs::read_to_string(history.path().join("log")).unwrap_or_default();
                let is = fs::read_to_string(releases.path().join("current")).unwrap();
                if said == "done" && is == "old" {
                    return Err("history says done, and `current` is old".to_owned());
                }
                Ok(())
            })
        };
        assert_eq!(lies("sync ."), Ok(()), "{spec:?}");
        assert!(
            lies("").is_err(),
            "{spec:?}: the forgotten sync was not caught"
        );
    });
}

#[test]
fn a_small_image_runs_out_of_inodes() {
    if !possible("a_small_image_runs_out_of_inodes", images::available()) {
        return;
    }
    privately(|| {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let spec = ImageSpec {
            inodes: Some(64),
            size_mib: 8,
            ..ImageSpec::EXT4
        };
        let image = Image::create(dir.path(), "small", spec).unwrap();
        let full = (0..64)
            .map(|n| File::create(image.path().join(n.to_string())))
            .find_map(Result::err)
            .unwrap();
        assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    });
}
