//! Removing releases: whole or not at all, and never the one that runs.

use super::*;

#[test]
fn a_release_is_removed_with_all_that_was_recorded_and_nothing_else() {
    let host = Host::new();
    host.adopt();
    host.switch("backup_2");
    // A link out of a release is removed, and not what it leads to.
    symlink(host.release("backup_2"), host.release("backup_1").join("out")).unwrap();
    host.store.remove(&host.component, &id("backup_1")).unwrap();
    assert!(!host.release("backup_1").exists() && host.release("backup_2/bin/app").exists());
    let names: Vec<_> = std::fs::read_dir(host.root("backups/prod")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let manifests = host.store.manifests(&host.component).unwrap();
    assert_eq!(manifests.iter().map(|manifest| manifest.id.as_str()).collect::<Vec<_>>(), ["backup_2"]);
    // Once more is harmless, and its link goes with the next adoption.
    host.store.remove(&host.component, &id("backup_1")).unwrap();
    host.adopt();
    assert!(host.root(".current.backup_1").symlink_metadata().is_err());
}

#[test]
fn what_runs_is_never_removed() {
    let host = Host::new();
    host.adopt();
    host.switch("backup_2");
    let error = host.store.remove(&host.component, &id("backup_2")).unwrap_err();
    assert!(error.to_string().contains("`current` leads there"), "{error}");
    assert!(host.release("backup_2/bin/app").exists());
}

#[test]
fn a_removal_that_was_cut_off_is_ended_by_the_next() {
    let host = Host::new();
    host.adopt();
    host.switch("backup_2");
    // Cut off after the name was gone, in the middle of the files.
    std::fs::rename(host.release("backup_1"), host.release(".removed-backup_1")).unwrap();
    std::fs::remove_file(host.release(".removed-backup_1").join("bin/app")).unwrap();
    assert!(host.adopt().manifests.is_empty(), "what is hidden is no release");
    host.store.remove(&host.component, &id("backup_1")).unwrap();
    assert!(!host.release(".removed-backup_1").exists());
}
