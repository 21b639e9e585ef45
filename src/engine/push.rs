//! Whether a release that is offered may be laid down beside the others.

use crate::model::digest::Digest;
use crate::model::ids::ReleaseId;
use crate::model::refusal::{Refusal, Unfit};
use crate::model::release::{Manifest, Quarantine};

/// What is to be done with an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Nobody has it yet: it is staged.
    Stage,
    /// The very release is there, under the same name.
    Known(Box<Manifest>),
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; none on a file system that does not count them.
    pub inodes: Option<u64>,
}

/// Bytes that a push leaves free: the history, the intents and what the services write need some.
pub const BYTES_SPARED: u64 = 64 * 1024 * 1024;
/// Inodes that a push leaves free, for the same.
pub const INODES_SPARED: u64 = 1_000;

/// Decides on an offer by its name and its digest.
///
/// # Errors
/// When its digest is quarantined, under whatever name, or its name belongs to other files.
pub fn admit(
    release: &ReleaseId,
    tree: Digest,
    known: &[Manifest],
    quarantines: &[(Digest, Quarantine)],
) -> Result<Admission, Refusal> {
    if let Some((_, quarantine)) = quarantines.iter().find(|(digest, _)| *digest == tree) {
        let unfit = Unfit::Quarantined {
            reason: quarantine.reason.to_string(),
            by: quarantine.by.clone(),
            since: quarantine.since,
        };
        return Err(Refusal::TargetUnfit { release: release.clone(), unfit, forceable: false });
    }
    match known.iter().find(|manifest| manifest.id == *release) {
        None => Ok(Admission::Stage),
        Some(manifest) if manifest.tree == tree => Ok(Admission::Known(Box::new(manifest.clone()))),
        Some(_) => Err(Refusal::NameTaken { release: release.clone() }),
    }
}

/// Decides whether there is room, with something spared for everybody else.
///
/// # Errors
/// [`Refusal::NoRoom`] for what is short.
pub fn room(needed: Room, free: Room) -> Result<(), Refusal> {
    let short = |what: &str, needed: u64, free: u64, spared: u64| {
        let fits = needed.checked_add(spared).is_some_and(|all| all <= free);
        if needed == 0 || fits { Ok(()) } else { Err(Refusal::NoRoom { what: what.to_owned(), needed, free, spared }) }
    };
    short("bytes", needed.bytes, free.bytes, BYTES_SPARED)?;
    match (needed.inodes, free.inodes) {
        (Some(needed), Some(free)) => short("inodes", needed, free, INODES_SPARED),
        (Some(_) | None, _) => Ok(()),
    }
}
