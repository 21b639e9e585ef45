//! Hosts boot, crash, are cut off, and leave nothing behind.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};

use rollback_tests::hosts::{self, Fleet, Host};
use rollback_tests::skip::note;
use rollback_tests::wait::{timed, wait_until};

use crate::{LIMIT, errand, line, possible};

#[test]
fn hosts_boot_with_identities_of_their_own() {
    if !possible("hosts_boot_with_identities_of_their_own", hosts::available()) {
        return;
    }
    let (fleet, took) = timed(|| Fleet::up(3).unwrap());
    note(&format!("3 hosts booted in {took:.1?}"));
    for host in fleet.hosts() {
        let state = host.exec(&["systemctl", "is-system-running"]).unwrap();
        let state = String::from_utf8(state.stdout).unwrap();
        let failed = host.sh("systemctl list-units --failed --no-legend").unwrap();
        assert_eq!(state.trim(), "running", "failed units: {failed}");
        assert_eq!(host.sh("hostname").unwrap().trim(), host.name());
        assert_eq!(host.sh("cat /proc/1/comm").unwrap().trim(), "systemd");
    }
    let machine_ids: Vec<_> = fleet.hosts().iter().map(|host| host.sh("cat /etc/machine-id").unwrap()).collect();
    assert_ne!(machine_ids[0], machine_ids[1]);
}

#[test]
fn a_file_and_a_journal_belong_to_one_host() {
    if !possible("a_file_and_a_journal_belong_to_one_host", hosts::available()) {
        return;
    }
    let fleet = Fleet::up(2).unwrap();
    let [first, second] = [fleet.host(1), fleet.host(2)];
    first.write("/srv/new/script", "#!/bin/sh\necho hello\n", 0o750).unwrap();
    assert_eq!(first.sh("/srv/new/script").unwrap(), "hello\n");
    assert_eq!(first.read("/srv/new/script").unwrap(), b"#!/bin/sh\necho hello\n");
    assert!(second.read("/srv/new/script").is_err());
    assert!(!Path::new("/srv/new/script").exists());

    first.sh("echo 'only here' | systemd-cat -t marker; journalctl --sync").unwrap();
    let entries = first.journal(&["-t", "marker"]).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["MESSAGE"], "only here");
    assert_eq!(second.journal(&["-t", "marker"]).unwrap().len(), 0);

    let error = first.sh("echo before; ls /nowhere").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("before") && source.contains("/nowhere"), "{source}");
}

#[test]
fn a_host_changes_nothing_that_the_machine_shares() {
    if !possible("a_host_changes_nothing_that_the_machine_shares", hosts::available()) {
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
         while (my $c = $s->accept) { open my $f, '<', '/srv/www/name'; print {$c} readline $f; close $c }\n",
        0o755,
    )
    .unwrap();
    host.sh("systemd-run --unit=www /usr/local/bin/serve").unwrap();
}

/// A command that prints the name of the host at `address`, or gives up after a second.
fn ask(address: IpAddr) -> Vec<String> {
    let script = format!("exec 3<>/dev/tcp/{address}/8080 && cat <&3");
    ["timeout", "1", "bash", "-c", &script].map(str::to_owned).to_vec()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[test]
fn a_cut_host_reaches_nobody_until_it_joins() {
    if !possible("a_cut_host_reaches_nobody_until_it_joins", hosts::available()) {
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
    wait_until(LIMIT, "the service to answer again", || from_host() && from_switch()).unwrap();

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
    if !possible("a_crashed_host_boots_on_the_disk_it_had", hosts::available()) {
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
            host.read("/var/lib/boots").is_ok_and(|text| text == "up\n".repeat(count).as_bytes())
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
}

/// Everything on the machine that carries the process id of a test.
fn remains(pid: u32) -> Vec<PathBuf> {
    ["/var/tmp", "/run/netns", "/run/rollback-tests", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ["rb-", "rollback-hosts-"].iter().any(|kind| name.starts_with(&format!("{kind}{pid}-")))
        })
        .collect()
}
