//! Offers against what is there, as a table.

use super::{at, release};
use crate::engine::push::{Admission, BYTES_SPARED, INODES_SPARED, Room, admit, room};
use crate::model::digest::Digest;
use crate::model::refusal::{Refusal, Unfit};
use crate::model::release::Quarantine;
use crate::model::text::Text;

#[test]
fn an_offer_is_staged_known_or_refused() {
    let there = release("1").manifest;
    let (own, other) = (there.tree, Digest::of(b"other files"));
    let bad = Quarantine { reason: Text::new("leaks").expect("a text"), by: "agent".to_owned(), since: at(1) };
    let quarantines = [(Digest::of(b"bad files"), bad)];
    let decide =
        |name: &str, tree| admit(&name.parse().expect("a name"), tree, std::slice::from_ref(&there), &quarantines);
    assert_eq!(decide("r2", other), Ok(Admission::Stage));
    assert_eq!(decide("r2", own), Ok(Admission::Stage), "the same files under another name are another release");
    assert_eq!(decide("r1", own), Ok(Admission::Known(Box::new(there.clone()))));
    assert_eq!(decide("r1", other), Err(Refusal::NameTaken { release: there.id.clone() }));
    for name in ["r1", "r2"] {
        let refused = decide(name, Digest::of(b"bad files"));
        let is_quarantined = |refusal: &Refusal| {
            matches!(refusal, Refusal::TargetUnfit { unfit: Unfit::Quarantined { .. }, forceable: false, .. })
        };
        assert!(refused.as_ref().is_err_and(is_quarantined), "{name}: {refused:?}");
    }
}

#[test]
fn room_is_spared_for_everybody_else() {
    let counted = |bytes, inodes| Room { bytes, inodes: Some(inodes) };
    let uncounted = |bytes| Room { bytes, inodes: None };
    for (needed, free, short) in [
        (counted(10, 10), counted(BYTES_SPARED + 10, INODES_SPARED + 10), None),
        (counted(11, 10), counted(BYTES_SPARED + 10, INODES_SPARED + 10), Some("bytes")),
        (counted(10, 11), counted(BYTES_SPARED + 10, INODES_SPARED + 10), Some("inodes")),
        (counted(u64::MAX, 1), counted(u64::MAX, u64::MAX), Some("bytes")),
        (counted(10, 11), uncounted(u64::MAX), None),
        (counted(0, 0), counted(0, 0), None),
    ] {
        let found = match room(needed, free) {
            Ok(()) => None,
            Err(Refusal::NoRoom { what, .. }) => Some(what),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(found.as_deref(), short, "{needed:?} of {free:?}");
    }
}
