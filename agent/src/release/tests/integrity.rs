//! Damage is found by both looks, and nothing else is called damage.

use std::fs::{File, FileTimes};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use rollback::model::release::DIFFERENCES_MAX;

use super::*;

type Tamper = fn(&Path);

/// A tampering by name, and what must be found.
type Tampering = (&'static str, Tamper, &'static [(&'static str, DifferenceKind)]);

const TAMPERINGS: [Tampering; 11] = [
    (
        "a byte",
        |r| std::fs::write(r.join("bin/sub/data"), "dat4").unwrap(),
        &[("bin/sub/data", DifferenceKind::Content)],
    ),
    ("a byte with the time put back", change_byte_secretly, &[("bin/sub/data", DifferenceKind::Content)]),
    ("a mode", |r| set_mode(&r.join("bin/app"), 0o700), &[("bin/app", DifferenceKind::Mode)]),
    ("setuid", |r| set_mode(&r.join("bin/app"), 0o4755), &[("bin/app", DifferenceKind::Mode)]),
    ("a directory's mode", |r| set_mode(&r.join("bin/sub"), 0o777), &[("bin/sub", DifferenceKind::Mode)]),
    ("the top's mode", |r| set_mode(r, 0o777), &[(".", DifferenceKind::Mode)]),
    ("an extra file", |r| std::fs::write(r.join("bin/extra"), "x").unwrap(), &[("bin/extra", DifferenceKind::Added)]),
    ("a missing file", |r| std::fs::remove_file(r.join("bin/app")).unwrap(), &[("bin/app", DifferenceKind::Missing)]),
    ("a link's target", |r| replace_by_link(&r.join("start"), "/bin/sh"), &[("start", DifferenceKind::Target)]),
    ("a file's type", |r| replace_by_link(&r.join("bin/app"), "/bin/sh"), &[("bin/app", DifferenceKind::Type)]),
    (
        "a missing directory",
        |r| std::fs::remove_dir_all(r.join("bin/sub")).unwrap(),
        &[("bin/sub", DifferenceKind::Missing)],
    ),
];

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn replace_by_link(path: &Path, target: &str) {
    std::fs::remove_file(path).unwrap();
    symlink(target, path).unwrap();
}

fn change_byte_secretly(release: &Path) {
    let path = release.join("bin/sub/data");
    let before = std::fs::metadata(&path).unwrap();
    std::fs::write(&path, "dat4").unwrap();
    let times = FileTimes::new().set_modified(before.modified().unwrap());
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
}

#[test]
fn every_tampering_is_named_by_check_and_by_verify() {
    for (what, tamper, expected) in TAMPERINGS {
        let host = Host::new();
        host.adopt();
        tamper(&host.release("backup_1"));
        let named: Vec<(String, DifferenceKind)> =
            expected.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
        let checked = damage(host.check("backup_1"));
        let verified = damage(host.verify("backup_1"));
        // What lies in a missing directory is named by the full reading only.
        assert_eq!(checked, named, "{what}, by check");
        assert!(named.iter().all(|one| verified.contains(one)), "{what}, by verify: {verified:?}");
        assert!(is_intact(&host.check("backup_2")), "{what}");
    }
}

#[test]
fn times_that_move_for_nothing_cost_one_reading_and_are_recorded_anew() {
    let host = Host::new();
    host.adopt();
    let index = host.component.state.join("manifests/backup_1.index");
    let times = FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    File::options().write(true).open(host.release("backup_1").join("bin/app")).unwrap().set_times(times).unwrap();
    let before = std::fs::read(&index).unwrap();
    assert!(is_intact(&host.check("backup_1")));
    assert_ne!(before, std::fs::read(&index).unwrap());
    assert!(is_intact(&host.check("backup_1")));
}

#[test]
fn release_that_is_gone_or_became_a_link_is_damaged() {
    let host = Host::new();
    host.adopt();
    std::fs::remove_dir_all(host.release("backup_1")).unwrap();
    for found in [host.check("backup_1"), host.verify("backup_1")] {
        assert_eq!(damage(found), [(".".to_owned(), DifferenceKind::Missing)]);
    }
    symlink("backup_2", host.release("backup_1")).unwrap();
    for found in [host.check("backup_1"), host.verify("backup_1")] {
        assert_eq!(damage(found), [(".".to_owned(), DifferenceKind::Type)]);
    }
}

#[test]
fn torn_index_is_unknown_until_a_full_reading_writes_it_anew() {
    let host = Host::new();
    host.adopt();
    let index = host.component.state.join("manifests/backup_1.index");
    let whole = std::fs::read(&index).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    for bytes in [&[][..], &whole[..20], &whole[..whole.len() - 1], &flipped] {
        std::fs::write(&index, bytes).unwrap();
        assert!(matches!(host.check("backup_1"), Integrity::Unknown { .. }));
        assert!(is_intact(&host.verify("backup_1")));
        assert!(is_intact(&host.check("backup_1")));
    }
    std::fs::remove_file(&index).unwrap();
    std::fs::write(host.release("backup_1").join("bin/app"), "x").unwrap();
    assert!(matches!(host.check("backup_1"), Integrity::Unknown { .. }));
    assert!(matches!(host.verify("backup_1"), Integrity::Unknown { .. }));
}

#[test]
fn index_of_other_files_than_the_manifest_is_unknown() {
    let host = Host::new();
    host.adopt();
    let manifests = host.component.state.join("manifests");
    std::fs::copy(manifests.join("backup_2.index"), manifests.join("backup_1.index")).unwrap();
    assert!(matches!(host.check("backup_1"), Integrity::Unknown { .. }));
}

#[test]
fn differences_are_bounded_and_counted() {
    let host = Host::new();
    host.adopt();
    for nth in 0..DIFFERENCES_MAX + 7 {
        std::fs::write(host.release("backup_1").join(format!("extra{nth}")), "").unwrap();
    }
    for found in [host.check("backup_1"), host.verify("backup_1")] {
        let Integrity::Damaged { differences, more } = found else { panic!("{found:?}") };
        assert_eq!((differences.len(), more), (DIFFERENCES_MAX, 7));
    }
}

#[test]
fn special_files_are_reported_and_block_nothing() {
    let host = Host::new();
    host.adopt();
    let fifo = host.release("backup_1").join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(damage(host.check("backup_1")), [("fifo".to_owned(), DifferenceKind::Added)]);
    let Integrity::Unknown { why } = host.verify("backup_1") else { panic!("a FIFO was read") };
    assert!(why.contains("`fifo` is a FIFO"), "{why}");
    host.lay_down("backup_3");
    std::fs::rename(fifo, host.release("backup_3").join("fifo")).unwrap();
    let adopted = host.adopt();
    assert_eq!(adopted.manifests, []);
    assert_eq!(adopted.skipped[0].0, "backup_3");
}

#[test]
fn large_files_are_read_in_windows_and_progress_reaches_all_bytes() {
    let host = Host::new();
    let large = host.release("backup_1").join("large");
    let content: Vec<u8> = (0..20_000_003_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(&large, &content).unwrap();
    let manifest = host.adopt().manifests.remove(0);
    let told = AtomicU64::new(0);
    let told_max = |bytes| {
        told.fetch_max(bytes, Ordering::Relaxed);
    };
    assert!(is_intact(&host.store.verify(&host.component, &id("backup_1"), now(), &told_max)));
    assert_eq!(told.into_inner(), manifest.bytes);
    let root = super::super::beneath::open_directory(&host.release("backup_1")).unwrap();
    let tree = super::super::digest::read_tree(std::os::fd::AsFd::as_fd(&root), &|_| {}).unwrap();
    let entry = tree.entries().into_iter().find(|entry| entry.path == b"large").unwrap();
    let expected = rollback::model::digest::Digest::of(&content);
    assert_eq!(entry.kind, rollback::model::release::EntryKind::File(expected));
}

#[test]
fn deep_nesting_is_refused() {
    let host = Host::new();
    std::fs::create_dir_all(host.release("backup_1").join("d/".repeat(64))).unwrap();
    std::fs::create_dir_all(host.release("backup_2").join("d/".repeat(65))).unwrap();
    let adopted = host.adopt();
    assert_eq!(adopted.manifests.len(), 1);
    assert!(adopted.skipped[0].1.contains("deeper than 64"), "{:?}", adopted.skipped);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn adopted_release_is_intact_at_once(files in prop::collection::btree_map("[a-z]{1,2}(/[A-Z]{1,2}){0,3}/[0-9]{1,2}", ".{0,40}", 0..20)) {
        let host = Host::new();
        for (path, content) in files {
            let path = host.release("backup_1").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        host.adopt();
        prop_assert!(is_intact(&host.check("backup_1")));
        prop_assert!(is_intact(&host.verify("backup_1")));
        prop_assert!(is_intact(&host.check("backup_1")));
    }
}
