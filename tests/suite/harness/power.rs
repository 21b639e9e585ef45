//! Disks lose what was not synced, and the programs that forget to sync are caught.

use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use rollback_tests::hosts::{self, Fleet};
use rollback_tests::images::{self, Image, ImageSpec, privately};
use rollback_tests::skip::note;
use rollback_tests::sweep::{Action, Aim, every_point};
use rollback_tests::wait::timed;

use crate::{CAREFUL, CARELESS, old_or_new, possible, reset, script, sweep, trace, write_out};

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
        note(&format!("{} power cuts on {:?} in {took:.1?}", careful.0.len(), spec.file_system));
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
                write_out(history.path());
                reset(releases.path());
                trace(script(releases.path(), &text), Aim::strike(&dirs, nth, cut.clone()));
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
        assert!(lies("").is_err(), "{spec:?}: the forgotten sync was not caught");
    });
}

#[test]
fn a_small_image_runs_out_of_inodes() {
    if !possible("a_small_image_runs_out_of_inodes", images::available()) {
        return;
    }
    privately(|| {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let spec = ImageSpec { inodes: Some(64), size_mib: 8, ..ImageSpec::EXT4 };
        let image = Image::create(dir.path(), "small", spec).unwrap();
        let full = (0..64).map(|n| File::create(image.path().join(n.to_string()))).find_map(Result::err).unwrap();
        assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    });
}

#[test]
fn a_host_that_loses_power_keeps_what_it_synced() {
    let name = "a_host_that_loses_power_keeps_what_it_synced";
    if !possible(name, hosts::available()) {
        return;
    }
    on_both(name, |dir, spec| {
        let spec = ImageSpec { size_mib: 512, ..spec };
        let image = Image::create(dir, "disks", spec).unwrap();
        let fleet = Fleet::up_in(image.path(), 1).unwrap();
        let host = fleet.host(1);
        host.sh("echo yes >/srv/synced; sync /srv/synced /srv; echo no >/srv/unsynced").unwrap();
        image.cut_power().unwrap();
        host.crash().unwrap();
        image.remount().unwrap();
        host.boot().unwrap();
        assert_eq!(host.read("/srv/synced").unwrap(), b"yes\n", "{spec:?}");
        let unsynced = host.read("/srv/unsynced").unwrap_or_default();
        assert_eq!(unsynced, b"", "{spec:?}");
    });
}
