//! Tests of the files of the switches: who comes first has decided.

use rollback::model::effect::{Effect, EffectEnd};
use serde_json::json;

use super::*;

fn moment(since_boot_ms: u64) -> Moment {
    Moment { boot: "a".to_owned(), since_boot_ms, at: Timestamp::UNIX_EPOCH }
}

fn armed() -> Armed {
    let value = json!({
        "operation": "01a21edd-e333-7132-8319-6f0306ba4bc9", "name": "web", "environment": "prod", "root": "/srv/web",
        "releases": "releases", "current": "current", "state": "/nowhere", "configuration_link": null,
        "units": ["web.service"], "from": "r1", "to": "r2", "timeouts": Timeouts::default(),
        "since": moment(1_000), "lasts_ms": 5_000,
    });
    serde_json::from_value(value).expect("an armed switch")
}

fn files(state: &Path) -> Files {
    let files = Files::new(state);
    files.put(&armed()).expect("it is armed");
    files
}

#[test]
fn what_is_disarmed_cannot_be_claimed() {
    let state = tempfile::tempdir().expect("a directory");
    let (files, id) = (files(state.path()), armed().operation);
    assert_eq!(files.find(id).expect("read"), Some(Found::Armed(armed())));
    assert_eq!(files.armed().expect("read"), [id]);
    assert!(files.remove(id).expect("removed"));
    assert!(!files.claim(id).expect("looked"));
    assert_eq!(files.find(id).expect("read"), None);
    assert!(!files.remove(id).expect("looked"), "once is enough");
    assert_eq!(files.fired(id).expect("read"), None);
}

#[test]
fn what_is_claimed_has_fired_and_tells_what_it_did() {
    let state = tempfile::tempdir().expect("a directory");
    let (files, id) = (files(state.path()), armed().operation);
    assert!(files.claim(id).expect("claimed"));
    assert!(!files.remove(id).expect("looked"), "it cannot be disarmed any more");
    assert_eq!(files.find(id).expect("read"), Some(Found::Firing(armed())), "cut off here, it is done again");
    assert_eq!(files.fired(id).expect("read"), Some(Fired { at: None, steps: Vec::new() }));
    let step = Step {
        effect: Effect::CurrentLinked { release: armed().from },
        began_at: Timestamp::UNIX_EPOCH,
        duration_us: 1,
        end: EffectEnd::Ensured,
        recovered: false,
    };
    files.report(id, Timestamp::UNIX_EPOCH, vec![step.clone()]).expect("reported");
    let fired = Fired { at: Some(Timestamp::UNIX_EPOCH), steps: vec![step] };
    assert_eq!(files.fired(id).expect("read"), Some(fired));
    assert_eq!(files.find(id).expect("read"), None, "nothing is left to do");
    assert!(files.put(&armed()).is_err(), "it is not armed again");
    assert!(files.forget(id).expect("forgotten"));
    assert_eq!((files.fired(id).expect("read"), files.all_fired().expect("read")), (None, Vec::new()));
}

#[test]
fn a_torn_or_foreign_file_is_an_error_and_not_a_switch() {
    let state = tempfile::tempdir().expect("a directory");
    let (files, id) = (files(state.path()), armed().operation);
    std::fs::write(state.path().join(format!("dead-man/{id}.armed")), b"{").expect("written");
    assert!(files.find(id).is_err());
    std::fs::write(state.path().join("dead-man/README.armed"), b"{").expect("written");
    assert_eq!(files.armed().expect("read"), [id]);
}

#[test]
fn its_deadline_is_kept_by_the_clock_that_nobody_sets() {
    for (since_boot_ms, left) in [(1_000, 5_000), (3_500, 2_500), (6_000, 0), (60_000, 0)] {
        assert_eq!(armed().left(&moment(since_boot_ms)), Duration::from_millis(left));
    }
}
