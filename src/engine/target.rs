//! Where to go back to, and why not to the others.
//!
//! | question | answer |
//! |---|---|
//! | Is there verified history? | Another release than the current one is good. |
//! | With it | The activations are walked back from the current release; the first fit release is the target. |
//! | Without it | The newest fit release that is older than the current one, or the newest of all when none is current. |
//! | Fit | Not current, intact, not quarantined, configuration at hand, and good where there is verified history. |
//! | `--to` | Names one; `--force` overrides goodness and quarantine, never integrity nor configuration. |

use std::cmp::Reverse;

use crate::model::host::{Configuration, ObservedComponent, ObservedRelease};
use crate::model::ids::ReleaseId;
use crate::model::operation::{Destination, Request};
use crate::model::refusal::{PassedOver, Refusal, Unfit};
use crate::model::release::Integrity;

/// A choice with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The release to go back to.
    pub target: ReleaseId,
    /// What to try when it does not come up, in order.
    pub fallbacks: Vec<ReleaseId>,
    /// What was passed over on the way, in the order of the walk.
    pub passed_over: Vec<PassedOver>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Chooses the release to go back to.
///
/// # Errors
/// When there is none, or the one that was named cannot be it.
pub fn choose(request: &Request, observed: &ObservedComponent) -> Result<Choice, Refusal> {
    match &request.to {
        Destination::Previous => previous(observed),
        Destination::Named(wanted) => named(wanted, request.force, observed),
    }
}

/// Tells whether a release other than the current one is known to be good.
fn has_verified_history(observed: &ObservedComponent) -> bool {
    observed.releases.iter().any(|r| r.good_since.is_some() && observed.current.release() != Some(r.id()))
}

/// Says why a release cannot be a target by any means; `--force` does not change it.
fn broken(release: &ObservedRelease, observed: &ObservedComponent) -> Option<Unfit> {
    if observed.current.release() == Some(release.id()) {
        return Some(Unfit::IsCurrent);
    }
    match &release.integrity {
        Integrity::Intact { .. } => {}
        Integrity::Damaged { differences, more } => {
            return Some(Unfit::Damaged { differences: differences.clone(), more: *more });
        }
        Integrity::Unknown { why } => return Some(Unfit::IntegrityUnknown { cause: why.clone() }),
    }
    match &release.configuration {
        Configuration::NotKept | Configuration::Frozen => None,
        Configuration::Missing(cause) => Some(Unfit::ConfigurationMissing { cause: cause.clone() }),
    }
}

/// Says why a release should not be a target; `--force` overrides it.
fn doubtful(release: &ObservedRelease, verified_history: bool) -> Option<Unfit> {
    if let Some(quarantine) = &release.quarantine {
        return Some(Unfit::Quarantined {
            reason: quarantine.reason.to_string(),
            by: quarantine.by.clone(),
            since: quarantine.since,
        });
    }
    (verified_history && release.good_since.is_none()).then_some(Unfit::NeverVerified)
}

/// Gives the releases in the order in which they are considered, each once.
fn walk(observed: &ObservedComponent, verified_history: bool) -> Vec<ReleaseId> {
    let current = observed.current.release();
    let mut order: Vec<ReleaseId> = Vec::new();
    if verified_history {
        let mut activations: Vec<_> = observed.activations.iter().collect();
        activations.sort_by_key(|activation| Reverse(activation.sequence));
        // Later activations than that of the current release are left behind: the walk goes back from what runs.
        let from =
            current.and_then(|id| activations.iter().position(|activation| activation.release == *id)).unwrap_or(0);
        order.extend(activations[from..].iter().map(|activation| activation.release.clone()));
        // Blessed releases that were never activated here come last, newest first.
        let mut others: Vec<_> = observed.releases.iter().collect();
        others.sort_by_key(|release| Reverse((release.good_since, release.id().clone())));
        order.extend(others.into_iter().map(|release| release.id().clone()));
    } else {
        let limit = current.and_then(|id| observed.release(id)).map(|r| (r.manifest.created_at, r.id().clone()));
        let mut adopted: Vec<_> = observed.releases.iter().map(|r| (r.manifest.created_at, r.id().clone())).collect();
        adopted.sort_by(|a, b| b.cmp(a));
        order.extend(adopted.into_iter().filter(|key| limit.as_ref().is_none_or(|limit| key < limit)).map(|key| key.1));
    }
    let mut seen = Vec::new();
    order.retain(|id| {
        let first = current != Some(id) && !seen.contains(id);
        seen.push(id.clone());
        first
    });
    order
}

fn never_verified(id: &ReleaseId) -> String {
    format!("`{id}` was never verified: this host has no verified history yet")
}

fn previous(observed: &ObservedComponent) -> Result<Choice, Refusal> {
    let verified = has_verified_history(observed);
    let mut fit = Vec::new();
    let mut passed_over = Vec::new();
    let wanted = usize::try_from(observed.policy.fallbacks_max).unwrap_or(usize::MAX).saturating_add(1);
    for id in walk(observed, verified) {
        if fit.len() >= wanted {
            break;
        }
        let unfit = match observed.release(&id) {
            None => Some(Unfit::Gone),
            Some(release) => broken(release, observed).or_else(|| doubtful(release, verified)),
        };
        match unfit {
            None => fit.push(id),
            // Only what stands before the target explains the choice.
            Some(unfit) if fit.is_empty() => passed_over.push(PassedOver { release: id, unfit }),
            Some(_) => {}
        }
    }
    if fit.is_empty() {
        return Err(Refusal::NoTarget { passed_over });
    }
    let target = fit.remove(0);
    let warnings = if verified { Vec::new() } else { vec![never_verified(&target)] };
    Ok(Choice { target, fallbacks: fit, passed_over, warnings })
}

fn named(wanted: &str, force: bool, observed: &ObservedComponent) -> Result<Choice, Refusal> {
    let release = find(wanted, observed)?;
    let id = release.id().clone();
    if let Some(unfit) = broken(release, observed) {
        return Err(Refusal::TargetUnfit { release: id, unfit, forceable: false });
    }
    let verified = has_verified_history(observed);
    let mut warnings = Vec::new();
    match doubtful(release, verified) {
        None if verified => {}
        None => warnings.push(never_verified(&id)),
        Some(unfit) if force => {
            warnings.push(format!("forced: `{id}` {}", crate::explain::unfit(&unfit)));
        }
        Some(unfit) => return Err(Refusal::TargetUnfit { release: id, unfit, forceable: true }),
    }
    // A fallback is what the rules would have chosen without the name.
    let fallbacks = previous(observed).map_or_else(
        |_| Vec::new(),
        |choice| {
            let mut all = vec![choice.target];
            all.extend(choice.fallbacks);
            all.retain(|other| *other != id);
            all.truncate(usize::try_from(observed.policy.fallbacks_max).unwrap_or(usize::MAX));
            all
        },
    );
    Ok(Choice { target: id, fallbacks, passed_over: Vec::new(), warnings })
}

fn find<'a>(wanted: &str, observed: &'a ObservedComponent) -> Result<&'a ObservedRelease, Refusal> {
    if let Some(release) = observed.releases.iter().find(|release| release.id().as_str() == wanted) {
        return Ok(release);
    }
    let has_version = |r: &&ObservedRelease| r.manifest.version.as_ref().is_some_and(|v| v.as_str() == wanted);
    let matching: Vec<_> = observed.releases.iter().filter(has_version).collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => {
            let mut known: Vec<_> = observed.releases.iter().collect();
            known.sort_by_key(|release| Reverse((release.manifest.created_at, release.id().clone())));
            let known = known.into_iter().map(|release| release.id().clone()).collect();
            Err(Refusal::NoSuchRelease { wanted: wanted.to_owned(), known })
        }
        several => Err(Refusal::AmbiguousRelease {
            wanted: wanted.to_owned(),
            matching: several.iter().map(|release| release.id().clone()).collect(),
        }),
    }
}
