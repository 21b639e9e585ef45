//! The link is switched in one step from every state that it can be in, also where nothing can be written.

use std::sync::atomic::{AtomicBool, Ordering};

use rollback::model::host::Current;

use super::*;
use crate::ports::PortError;

fn current(host: &Host) -> Current {
    host.store.current(&host.component).unwrap()
}

fn adopted() -> Host {
    let host = Host::new();
    host.adopt();
    host
}

/// What a switch leaves below the root: nothing but the link and the spare of the other release.
fn assert_tidy(host: &Host, now: &str, spare: &str) {
    assert_eq!(current(host), Current::Release(id(now)));
    assert_eq!(host.root_names(), [format!(".current.{spare}"), "backups".into(), "current".into()]);
    let target = std::fs::read_link(host.root(&format!(".current.{spare}"))).unwrap();
    assert!(target.ends_with(spare), "{target:?}");
}

#[test]
fn links_to_a_release_are_recognised_in_every_spelling() {
    let host = Host::new();
    let absolute = host.release("backup_1");
    for target in ["backups/prod/backup_1", "./backups/../backups/prod/backup_1/", absolute.to_str().unwrap()] {
        symlink(target, host.root("current")).unwrap();
        assert_eq!(current(&host), Current::Release(id("backup_1")), "{target}");
        std::fs::remove_file(host.root("current")).unwrap();
    }
}

#[test]
fn every_other_state_of_current_is_named_and_repaired() {
    let cases = [
        (None, Current::Missing),
        (Some("backups/prod/backup_9"), Current::Dangling("backups/prod/backup_9".into())),
        (Some("current"), Current::Dangling("current".into())),
        (Some("/etc"), Current::Outside("/etc".into())),
        (Some("backups/prod"), Current::Outside("backups/prod".into())),
        (Some("backups/prod/backup_1/bin"), Current::Outside("backups/prod/backup_1/bin".into())),
        (Some("backups/prod/alias"), Current::Outside("backups/prod/alias".into())),
    ];
    for (target, expected) in cases {
        let host = adopted();
        symlink("/usr", host.release("alias")).unwrap();
        if let Some(target) = target {
            symlink(target, host.root("current")).unwrap();
        }
        assert_eq!(current(&host), expected);
        host.store.link_current(&host.component, &id("backup_2")).unwrap();
        host.adopt();
        assert_tidy(&host, "backup_2", "backup_1");
    }
}

#[test]
fn current_that_is_no_link_is_refused_and_kept() {
    for directory in [true, false] {
        let host = adopted();
        if directory {
            std::fs::create_dir(host.root("current")).unwrap();
            std::fs::write(host.root("current/precious"), "x").unwrap();
        } else {
            std::fs::write(host.root("current"), "x").unwrap();
        }
        assert_eq!(current(&host), Current::NotALink);
        let error = host.store.link_current(&host.component, &id("backup_1")).unwrap_err();
        assert!(matches!(error, PortError::Unfit { .. }), "{error}");
        assert_eq!(current(&host), Current::NotALink);
        assert_eq!(host.root("current/precious").exists(), directory);
    }
}

#[test]
fn switch_back_and_forth_leaves_one_spare_and_is_idempotent() {
    let host = adopted();
    host.switch("backup_1");
    host.adopt();
    for _ in 0..3 {
        host.switch("backup_2");
        assert_tidy(&host, "backup_2", "backup_1");
        host.switch("backup_1");
        host.switch("backup_1");
        assert_tidy(&host, "backup_1", "backup_2");
    }
}

#[test]
fn absolute_links_stay_absolute() {
    let host = Host::new();
    symlink(host.release("backup_1"), host.root("current")).unwrap();
    host.adopt();
    for name in ["backup_2", "backup_1"] {
        host.store.link_current(&host.component, &id(name)).unwrap();
        assert_eq!(host.current_target(), Some(host.release(name)));
    }
}

#[test]
fn switch_needs_no_prepared_link() {
    let host = Host::new();
    symlink("backups/prod/backup_1", host.root("current")).unwrap();
    host.switch("backup_2");
    assert_tidy(&host, "backup_2", "backup_1");
}

#[test]
fn release_that_is_no_directory_is_not_switched_to() {
    let host = adopted();
    host.switch("backup_1");
    symlink("/etc", host.release("backup_3")).unwrap();
    for name in ["backup_3", "backup_4"] {
        assert!(host.store.link_current(&host.component, &id(name)).is_err());
    }
    assert_eq!(current(&host), Current::Release(id("backup_1")));
}

#[test]
fn crash_between_exchange_and_tidying_is_finished_by_the_next_run() {
    let host = adopted();
    host.switch("backup_1");
    host.adopt();
    let (link, spare) = (host.root("current"), host.root(".current.backup_2"));
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &spare, rustix::fs::CWD, &link, exchange).unwrap();
    host.switch("backup_2");
    // The spare still has the wrong name; the switch finds it by its target.
    host.switch("backup_1");
    assert_tidy(&host, "backup_1", "backup_2");
    rustix::fs::renameat_with(rustix::fs::CWD, &spare, rustix::fs::CWD, &link, exchange).unwrap();
    host.adopt();
    assert_tidy(&host, "backup_2", "backup_1");
}

#[test]
fn links_of_releases_that_are_gone_are_removed_and_foreign_ones_stay() {
    let host = adopted();
    host.switch("backup_1");
    symlink("backups/prod/backup_9", host.root(".current.backup_9")).unwrap();
    symlink("/elsewhere", host.root(".current.mine")).unwrap();
    std::fs::write(host.root(".current.file"), "").unwrap();
    host.adopt();
    assert_eq!(host.root_names(), [".current.backup_2", ".current.file", ".current.mine", "backups", "current"]);
}

#[test]
fn current_is_never_missing_while_it_is_switched() {
    const LOOKS_MIN: u32 = 20_000;
    let host = adopted();
    host.switch("backup_1");
    host.adopt();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let link = host.root("current");
            for _ in 0..LOOKS_MIN {
                if let Err(error) = std::fs::read_link(&link) {
                    enough.store(true, Ordering::Relaxed);
                    panic!("`current` was missing: {error}");
                }
            }
            enough.store(true, Ordering::Relaxed);
        });
        let mut switches = 0;
        while !enough.load(Ordering::Relaxed) || switches < 20 {
            host.switch(if switches % 2 == 0 { "backup_2" } else { "backup_1" });
            switches += 1;
        }
        reader.join().unwrap();
    });
}

#[test]
fn full_disk_without_inodes_does_not_stop_a_switch() {
    let Some(mounted) = Mounted::new() else { return };
    let mut host = Host::at(Home::Mounted(mounted));
    host.keep_configuration(&["bin/sub/data"]);
    host.adopt();
    host.switch("backup_1");
    host.store.link_configuration(&host.component, &id("backup_1")).unwrap();
    host.adopt();
    let ballast = host.home.path().join("ballast");
    assert!(std::fs::write(ballast, vec![0; 8 << 20]).is_err());
    let filled = (0..1_000).find(|nth| std::fs::write(host.home.path().join(format!("fill{nth}")), "").is_err());
    assert!(filled.is_some() && symlink("x", host.root("new")).is_err());
    for name in ["backup_2", "backup_1", "backup_2"] {
        assert!(is_intact(&host.check(name)));
        host.switch(name);
        host.store.link_configuration(&host.component, &id(name)).unwrap();
        assert!(std::fs::read_link(host.root("config")).unwrap().ends_with(name));
    }
}

#[test]
fn read_only_disk_is_an_error_and_changes_nothing() {
    let Some(mounted) = Mounted::new() else { return };
    let host = Host::at(Home::Mounted(mounted));
    host.adopt();
    host.switch("backup_1");
    host.adopt();
    let before = host.root_names();
    let Home::Mounted(mounted) = &host.home else { unreachable!("it was mounted above") };
    mounted.make_read_only();
    let error = host.store.link_current(&host.component, &id("backup_2")).unwrap_err();
    assert!(matches!(error, PortError::Failed { .. }), "{error}");
    assert_eq!(current(&host), Current::Release(id("backup_1")));
    assert_eq!(host.root_names(), before);
    assert!(is_intact(&host.check("backup_1")));
}
