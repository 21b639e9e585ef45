//! Laying down what is pushed: the ends that a real agent cannot be brought to at will.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::SignedDuration;
use rollback::model::digest::Digest;
use rollback::model::offer::{Label, OfferBuilder, Offered, OfferedFile, OfferedKind};
use rollback::model::refusal::Refusal;
use rollback::model::release::Origin;

use super::*;
use crate::ports::{LaidDown, PushError, Pushed, Staging};

fn directory(path: &str) -> Offered {
    Offered { path: path.into(), mode: 0o755, kind: OfferedKind::Directory }
}

fn file(path: &str, content: &str) -> Offered {
    let content = content.as_bytes();
    let file =
        OfferedFile { bytes: content.len() as u64, content: Digest::of(content), modified: Timestamp::UNIX_EPOCH };
    Offered { path: path.into(), mode: 0o644, kind: OfferedKind::File(file) }
}

fn pushed(release: &str, entries: Vec<Offered>) -> Pushed {
    let mut builder = OfferBuilder::default();
    std::iter::once(directory("")).chain(entries).try_for_each(|entry| builder.add(entry)).unwrap();
    let label = Label {
        release: id(release),
        version: Some("2.5.0".parse().unwrap()),
        git_sha: Some("4f2a9c1".into()),
        notes: None,
    };
    Pushed { label, offer: Arc::new(builder.finish().unwrap()), by: "kim".to_owned(), placed: Arc::default() }
}

impl Host {
    fn stage(&self, pushed: Pushed) -> Result<Box<dyn Staging>, PushError> {
        self.store.stage(&self.component, pushed, now())
    }

    fn lay_down_pushed(&self, pushed: Pushed, contents: &[&str]) -> Result<LaidDown, PushError> {
        let mut staging = self.stage(pushed)?;
        for content in contents {
            staging.put(Digest::of(content.as_bytes()), content.as_bytes())?;
        }
        staging.finish(now())
    }

    fn releases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.component.root.join("backups/prod")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_was_cut_off_after_its_name_is_adopted_as_was_promised() {
    let host = Host::new();
    host.adopt();
    let laid = host.lay_down_pushed(pushed("backup_3", vec![file("app", "new")]), &["new"]).unwrap();
    assert_eq!((laid.came.sent.files, laid.manifest.origin), (1, Origin::Pushed));
    assert!(is_intact(&host.check("backup_3")));
    // As if the power had gone after the rename.
    store::write_promise(&host.component, &laid.manifest).unwrap();
    store::remove_manifest(&host.component, &id("backup_3")).unwrap();
    let kept = host.adopt().manifests.remove(0);
    assert_eq!((kept.id.as_str(), kept.origin, kept.tree), ("backup_3", Origin::Pushed, laid.manifest.tree));
    assert_eq!(
        (&kept.git_sha, &kept.version, kept.created_by.as_str()),
        (&laid.manifest.git_sha, &laid.manifest.version, "kim")
    );
    assert!(store::promise(&host.component, &id("backup_3")).is_none(), "a promise is kept once");
    // For other files it does not hold.
    store::write_promise(&host.component, &laid.manifest).unwrap();
    store::remove_manifest(&host.component, &id("backup_3")).unwrap();
    std::fs::write(host.release("backup_3").join("app"), "changed meanwhile").unwrap();
    assert_eq!(host.adopt().manifests[0].origin, Origin::Adopted);
}

#[test]
fn what_nobody_takes_up_is_removed_after_a_day_and_nothing_else() {
    let host = Host::new();
    let offer = vec![directory("d"), file("d/a", "one"), file("d/b", "two")];
    let mut staging = host.stage(pushed("backup_3", offer.clone())).unwrap();
    staging.put(Digest::of(b"one"), b"one").unwrap();
    let later = |hours| now() + SignedDuration::from_hours(hours);
    host.store.adopt(&host.component, later(25)).unwrap();
    assert_eq!(host.releases().len(), 3, "what is being pushed stays");
    drop(staging);
    host.store.adopt(&host.component, later(23)).unwrap();
    let staging = host.stage(pushed("backup_3", offer)).unwrap();
    assert_eq!(staging.lacking(), [Digest::of(b"two")], "and is gone on with");
    drop(staging);
    host.store.adopt(&host.component, later(25)).unwrap();
    assert_eq!(host.releases(), ["backup_1", "backup_2"]);
}

#[test]
fn somebody_elses_entries_in_the_staging_are_found_and_nothing_of_it_stays() {
    let host = Host::new();
    let offer = vec![file("a", "one"), file("b", "two")];
    let mut staging = host.stage(pushed("backup_3", offer.clone())).unwrap();
    let hidden = host.releases().into_iter().find(|name| name.starts_with(".push-")).unwrap();
    staging.put(Digest::of(b"one"), b"one").unwrap();
    staging.put(Digest::of(b"two"), b"two").unwrap();
    std::fs::write(host.release(&hidden).join("hook"), "#!/bin/sh").unwrap();
    assert!(matches!(staging.finish(now()), Err(PushError::Failed(_))));
    assert_eq!(host.releases(), ["backup_1", "backup_2"]);
    // One that was changed after it was proved is read again.
    let mut staging = host.stage(pushed("backup_3", offer)).unwrap();
    staging.put(Digest::of(b"one"), b"one").unwrap();
    std::fs::write(host.release(&hidden).join("a"), "eno").unwrap();
    staging.put(Digest::of(b"two"), b"two").unwrap();
    assert!(matches!(staging.finish(now()), Err(PushError::Failed(_))));
    assert_eq!(host.releases(), ["backup_1", "backup_2"]);
}

#[test]
fn a_name_that_is_taken_while_contents_come_is_never_replaced() {
    let host = Host::new();
    let mut staging = host.stage(pushed("backup_3", vec![file("a", "one")])).unwrap();
    staging.put(Digest::of(b"one"), b"one").unwrap();
    std::fs::create_dir(host.release("backup_3")).unwrap();
    let refused = staging.finish(now());
    assert!(matches!(refused, Err(PushError::Refused(Refusal::NameTaken { .. }))), "{refused:?}");
    assert_eq!(std::fs::read_dir(host.release("backup_3")).unwrap().count(), 0);
    // The files are there for another name.
    let staging = host.stage(pushed("backup_4", vec![file("a", "one")])).unwrap();
    assert_eq!(staging.lacking(), []);
    assert_eq!(staging.finish(now()).unwrap().came.resumed.files, 1);
}

#[test]
fn a_disk_without_room_is_found_before_anything_is_written() {
    let Some(mounted) = Mounted::new() else { return };
    let host = Host::at(Home::Mounted(mounted));
    for offer in [
        vec![file("large", &"x".repeat(3 << 20))],
        (0..300).map(|nth| file(&format!("f{nth}"), &nth.to_string())).collect(),
    ] {
        let refused = host.stage(pushed("backup_3", offer)).map(|_| ());
        assert!(matches!(refused, Err(PushError::Refused(Refusal::NoRoom { .. }))), "{refused:?}");
        assert_eq!(host.releases(), ["backup_1", "backup_2"]);
    }
}

#[test]
fn files_with_foreign_attributes_are_copied_and_not_linked() {
    let mut host = Host::new();
    host.component.releases.hardlinks = true;
    let linked = host.release("backup_1").join("linked");
    std::fs::write(&linked, "shared").unwrap();
    let marked = host.release("backup_1").join("marked");
    std::fs::write(&marked, "marked").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&marked, "user.origin", b"elsewhere", flags).is_err() {
        return;
    }
    for path in [&linked, &marked] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }
    // As if it had been adopted long after: the times are old enough to be trusted.
    host.store.adopt(&host.component, now() + SignedDuration::from_secs(1)).unwrap();
    let offer = vec![file("linked", "shared"), file("marked", "marked")];
    let laid = host.lay_down_pushed(pushed("backup_3", offer), &[]).unwrap();
    assert_eq!(laid.came.shared.files, 2);
    let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&linked), inode(&host.release("backup_3").join("linked")));
    let copied = host.release("backup_3").join("marked");
    assert_ne!(inode(&marked), inode(&copied));
    assert_eq!(rustix::fs::getxattr(&copied, "user.origin", &mut [0_u8; 64][..]), Err(rustix::io::Errno::NODATA));
}

#[test]
fn what_is_in_place_is_counted() {
    let host = Host::new();
    host.adopt();
    let offer = pushed("backup_3", vec![file("a", "data"), file("b", "other"), file("c", "other")]);
    let placed = Arc::clone(&offer.placed);
    let laid = host.lay_down_pushed(offer, &["other"]).unwrap();
    assert_eq!(
        (laid.came.shared.files, laid.came.shared.bytes),
        (2, 9),
        "`data` is in other releases, `other` comes once"
    );
    assert_eq!((laid.came.sent.files, laid.came.sent.bytes), (1, 5));
    assert_eq!(placed.load(Ordering::Relaxed), 14);
}
