//! Retention: which releases are removed, and why the others stay.
//!
//! | release | stays, or is removed |
//! |---|---|
//! | it runs; it is what a rollback would go to; it is pinned; an operation needs it | stays |
//! | it was found on the host, and the policy leaves such alone | stays |
//! | it is one of the newest good ones, as many as are kept | stays |
//! | it is good beyond that number | removed |
//! | never verified, and younger than the policy's age | stays; removed when the disk is short of space, after an hour |
//! | never verified, and older | removed |
//!
//! The newest good ones are the last activated, not the last made.

use jiff::{SignedDuration, Timestamp};

use crate::model::host::{ObservedComponent, ObservedRelease};
use crate::model::ids::ReleaseId;
use crate::model::policy::Retention;
use crate::model::release::Origin;

/// How long a release that never ran stays on a disk that is short of space: somebody may be about to deploy it.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// What retention is told beside the component itself.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The releases that an operation needs: those of one that runs.
    pub held: Vec<ReleaseId>,
    /// Whether the disk of the releases is short of space.
    pub is_short: bool,
    /// The wall clock.
    pub now: Timestamp,
}

/// Why a release stays, or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It runs.
    Runs,
    /// A rollback would go there, or fall back to it.
    Target,
    /// Somebody pinned it.
    Pinned,
    /// An operation needs it.
    Held,
    /// It was found on the host, and the policy leaves such alone.
    Found,
    /// It is one of the newest good ones.
    Good,
    /// It was never verified, and is young.
    Young,
    /// It goes: more good ones are newer than are kept.
    Surplus,
    /// It goes: it was never verified, and is old.
    Stale,
    /// It goes: it was never verified, and the disk is short of space.
    Space,
}

impl Verdict {
    /// Tells whether the release is removed.
    #[must_use]
    pub fn is_removed(self) -> bool {
        match self {
            Self::Surplus | Self::Stale | Self::Space => true,
            Self::Runs | Self::Target | Self::Pinned | Self::Held | Self::Found | Self::Good | Self::Young => false,
        }
    }
}

/// Judges every release of a component; `targets` are where a rollback would go now, with its fallbacks.
#[must_use]
pub fn judge(observed: &ObservedComponent, targets: &[ReleaseId], around: &Surroundings) -> Vec<(ReleaseId, Verdict)> {
    let retention = observed.policy.retention;
    let newest = newest_good(observed, usize::try_from(retention.good_max).unwrap_or(usize::MAX));
    let of = |release: &ObservedRelease| {
        let id = release.id();
        if observed.current.release() == Some(id) {
            Verdict::Runs
        } else if targets.contains(id) {
            Verdict::Target
        } else if release.pinned {
            Verdict::Pinned
        } else if around.held.contains(id) {
            Verdict::Held
        } else if release.manifest.origin == Origin::Adopted && !retention.adopted {
            Verdict::Found
        } else if release.good_since.is_some() {
            if newest.contains(id) { Verdict::Good } else { Verdict::Surplus }
        } else {
            never_verified(release, retention, around)
        }
    };
    observed.releases.iter().map(|release| (release.id().clone(), of(release))).collect()
}

fn never_verified(release: &ObservedRelease, retention: Retention, around: &Surroundings) -> Verdict {
    let age = around.now.duration_since(release.manifest.recorded_at);
    let limit = SignedDuration::from_secs(i64::try_from(retention.unverified_secs).unwrap_or(i64::MAX));
    if age >= limit {
        Verdict::Stale
    } else if around.is_short && age >= FRESH {
        Verdict::Space
    } else {
        Verdict::Young
    }
}

/// Gives the good releases that were activated last, as many as are kept; the one that runs counts.
fn newest_good(observed: &ObservedComponent, good_max: usize) -> Vec<ReleaseId> {
    let last = |id: &ReleaseId| observed.activations.iter().filter(|a| a.release == *id).map(|a| a.sequence).max();
    let mut good: Vec<&ObservedRelease> =
        observed.releases.iter().filter(|release| release.good_since.is_some()).collect();
    good.sort_by_key(|release| std::cmp::Reverse((last(release.id()), release.manifest.created_at)));
    good.into_iter().take(good_max).map(|release| release.id().clone()).collect()
}
