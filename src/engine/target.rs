//! Chooses the release to go back to, and says why not the others.
//!
//! With a verified history only that history decides: neither a directory's name nor its time. What was left by going
//! back comes last, so that going back twice goes further back instead of to and fro.

use super::floor;
use crate::model::host::{Configuration, Current, ObservedComponent, ObservedRelease};
use crate::model::ids::ReleaseId;
use crate::model::operation::{Destination, Request};
use crate::model::policy::Policy;
use crate::model::refusal::{PassedOver, Refusal, Unfit};
use crate::model::release::{Integrity, Origin};

/// The release to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The release.
    pub target: ReleaseId,
    /// The releases to try when it does not come up either, best first; at most the policy's number.
    pub fallbacks: Vec<ReleaseId>,
    /// The releases that were looked at and not chosen, in the order of the walk.
    pub passed_over: Vec<PassedOver>,
    /// What an operator should know of the choice.
    pub warnings: Vec<String>,
}

/// Chooses the target of a request and its fallbacks.
///
/// # Errors
/// [`Refusal::NoTarget`] with every release's reason, or, for a release that was named, [`Refusal::NoSuchRelease`],
/// [`Refusal::AmbiguousRelease`] or [`Refusal::TargetUnfit`].
pub fn choose(request: &Request, observed: &ObservedComponent) -> Result<Choice, Refusal> {
    let walk = Walk::of(observed);
    let wanted = usize::try_from(observed.policy.fallbacks_max).unwrap_or(usize::MAX);
    match &request.to {
        Destination::Previous => {
            let mut found = walk.fit(&walk.order, wanted.saturating_add(1));
            if found.fit.is_empty() {
                return Err(Refusal::NoTarget { passed_over: walk.everything(found.passed_over) });
            }
            let target = found.fit.remove(0);
            let mut warnings = walk.warnings(&target);
            warnings.extend(found.fit.iter().flat_map(|id| walk.warnings(id)));
            Ok(Choice { target, fallbacks: found.fit, passed_over: found.passed_over, warnings })
        }
        Destination::Named(text) => {
            let release = named(text, observed)?;
            let mut warnings = accept(release, request, &walk)?;
            if request.deploy.is_some() {
                // What fails is put back; a deploy has nothing else to try.
                return Ok(Choice {
                    target: release.id().clone(),
                    fallbacks: Vec::new(),
                    passed_over: Vec::new(),
                    warnings,
                });
            }
            // What is older than the release that was named, or the whole walk when that does not know it.
            let after = walk.order.iter().position(|id| id == release.id()).map_or(0, |at| at + 1);
            let found = walk.fit(&walk.order[after..], wanted);
            warnings.extend(found.fit.iter().flat_map(|id| walk.warnings(id)));
            Ok(Choice { target: release.id().clone(), fallbacks: found.fit, passed_over: found.passed_over, warnings })
        }
    }
}

/// Lists the releases that a rollback would try now, the target first; none when there is nothing to go back to.
#[must_use]
pub fn fit(observed: &ObservedComponent) -> Vec<ReleaseId> {
    let walk = Walk::of(observed);
    let wanted = usize::try_from(observed.policy.fallbacks_max).unwrap_or(usize::MAX).saturating_add(1);
    walk.fit(&walk.order, wanted).fit
}

/// The releases in the order in which they are considered, without the current one.
struct Walk<'a> {
    observed: &'a ObservedComponent,
    /// Whether a release of the history other than the current one was ever good.
    verified: bool,
    order: Vec<ReleaseId>,
    /// Releases of `order` that were left by going back.
    left: Vec<ReleaseId>,
}

#[derive(Default)]
struct Found {
    fit: Vec<ReleaseId>,
    passed_over: Vec<PassedOver>,
}

impl<'a> Walk<'a> {
    fn of(observed: &'a ObservedComponent) -> Self {
        let (mut order, left) = activated(observed);
        let is_good = |id: &ReleaseId| observed.release(id).is_some_and(|release| release.good_since.is_some());
        let verified = order.iter().any(is_good);
        if !verified {
            order = adopted(observed);
            // What somebody has gone back from is the last that is tried again.
            order.sort_by_key(|id| left.contains(id));
        }
        Self { observed, verified, order, left }
    }

    fn fit(&self, order: &[ReleaseId], wanted: usize) -> Found {
        let mut found = Found::default();
        for id in order {
            if found.fit.len() == wanted {
                break;
            }
            match self.unfit(id) {
                None => found.fit.push(id.clone()),
                Some(unfit) => found.passed_over.push(PassedOver { release: id.clone(), unfit }),
            }
        }
        found
    }

    fn unfit(&self, id: &ReleaseId) -> Option<Unfit> {
        let Some(release) = self.observed.release(id) else { return Some(Unfit::Gone) };
        let never_verified = (self.verified && release.good_since.is_none()).then_some(Unfit::NeverVerified);
        damage(release)
            .or_else(|| below_floor(release, &self.observed.policy))
            .or_else(|| quarantine(release))
            .or(never_verified)
    }

    fn warnings(&self, id: &ReleaseId) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.observed.release(id).is_some_and(|release| release.good_since.is_none()) {
            warnings.push(format!("`{id}` was never verified"));
        }
        if self.left.contains(id) {
            warnings.push(format!("`{id}` was left by going back before"));
        }
        warnings
    }

    /// Adds the releases that the walk did not touch, so that a refusal accounts for each.
    fn everything(&self, mut passed_over: Vec<PassedOver>) -> Vec<PassedOver> {
        let mut rest: Vec<&ObservedRelease> = self.observed.releases.iter().collect();
        rest.sort_by_key(|release| std::cmp::Reverse((release.manifest.created_at, release.id())));
        for release in rest {
            if passed_over.iter().any(|passed| passed.release == *release.id()) {
                continue;
            }
            let unfit = if self.observed.current.release() == Some(release.id()) {
                Unfit::IsCurrent
            } else {
                damage(release)
                    .or_else(|| below_floor(release, &self.observed.policy))
                    .or_else(|| quarantine(release))
                    .unwrap_or(Unfit::NeverVerified)
            };
            passed_over.push(PassedOver { release: release.id().clone(), unfit });
        }
        passed_over
    }
}

/// Gives the distinct releases of the history back from the running one, and those of them that were left by going
/// back, which stand at the end.
fn activated(observed: &ObservedComponent) -> (Vec<ReleaseId>, Vec<ReleaseId>) {
    let current = observed.current.release();
    let mut activations: Vec<_> = observed.activations.iter().collect();
    activations.sort_by_key(|activation| activation.sequence);
    if let Some(last) = activations.iter().rposition(|activation| Some(&activation.release) == current) {
        activations.truncate(last + 1);
    }
    // Activating a release again takes everything after its first activation off the path.
    let mut path: Vec<ReleaseId> = Vec::new();
    for activation in &activations {
        match path.iter().position(|id| *id == activation.release) {
            Some(at) => path.truncate(at + 1),
            None => path.push(activation.release.clone()),
        }
    }
    let mut order: Vec<ReleaseId> = path.into_iter().rev().filter(|id| Some(id) != current).collect();
    let mut left: Vec<ReleaseId> = Vec::new();
    for activation in activations.iter().rev() {
        let id = &activation.release;
        if Some(id) != current && !order.contains(id) && !left.contains(id) {
            left.push(id.clone());
        }
    }
    order.extend(left.iter().cloned());
    (order, left)
}

/// Gives the adopted releases that are older than the current one, good ones first, then the newest first.
fn adopted(observed: &ObservedComponent) -> Vec<ReleaseId> {
    let age = |release: &ObservedRelease| (release.manifest.created_at, release.id().clone());
    let current = match &observed.current {
        Current::Release(id) => observed.release(id).map(age),
        Current::Missing | Current::Dangling(_) | Current::Outside(_) | Current::NotALink => None,
    };
    let mut releases: Vec<&ObservedRelease> = observed
        .releases
        .iter()
        .filter(|release| match release.manifest.origin {
            Origin::Adopted => true,
            Origin::Pushed => release.good_since.is_some(),
        })
        .filter(|release| observed.current.release() != Some(release.id()))
        .filter(|release| current.as_ref().is_none_or(|current| age(release) < *current))
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse((release.good_since.is_some(), age(release))));
    releases.into_iter().map(|release| release.id().clone()).collect()
}

/// Says why a release can never be a target, whatever is forced.
fn damage(release: &ObservedRelease) -> Option<Unfit> {
    match &release.integrity {
        Integrity::Damaged { differences, more } => {
            return Some(Unfit::Damaged { differences: differences.clone(), more: *more });
        }
        Integrity::Unknown { why } => return Some(Unfit::IntegrityUnknown { cause: why.clone() }),
        Integrity::Intact { .. } => {}
    }
    match &release.configuration {
        Configuration::Missing(cause) => Some(Unfit::ConfigurationMissing { cause: cause.clone() }),
        Configuration::NotKept | Configuration::Frozen => None,
    }
}

/// Says that a release is too old for the policy; force alone does not pass this.
fn below_floor(release: &ObservedRelease, policy: &Policy) -> Option<Unfit> {
    let floor = policy.floor.clone()?;
    let version = release.manifest.version.clone();
    (!floor::is_above(version.as_ref(), &floor)).then_some(Unfit::BelowFloor { version, floor })
}

fn quarantine(release: &ObservedRelease) -> Option<Unfit> {
    release.quarantine.as_ref().map(|quarantine| Unfit::Quarantined {
        reason: quarantine.reason.to_string(),
        by: quarantine.by.clone(),
        since: quarantine.since,
    })
}

fn named<'a>(text: &str, observed: &'a ObservedComponent) -> Result<&'a ObservedRelease, Refusal> {
    if let Some(release) = observed.releases.iter().find(|release| release.id().as_str() == text) {
        return Ok(release);
    }
    let mut matching: Vec<&ObservedRelease> = observed
        .releases
        .iter()
        .filter(|release| release.manifest.version.as_ref().is_some_and(|version| version.as_str() == text))
        .collect();
    matching.sort_by_key(|release| release.id());
    match matching[..] {
        [] => Err(Refusal::NoSuchRelease { wanted: text.to_owned(), known: known(observed) }),
        [release] => Ok(release),
        [..] => Err(Refusal::AmbiguousRelease {
            wanted: text.to_owned(),
            matching: matching.into_iter().map(|release| release.id().clone()).collect(),
        }),
    }
}

/// Gives every release, newest activation first, then those that were never activated, newest first.
fn known(observed: &ObservedComponent) -> Vec<ReleaseId> {
    let activated = |release: &ObservedRelease| {
        observed.activations.iter().filter(|a| a.release == *release.id()).map(|a| a.sequence).max()
    };
    let mut releases: Vec<&ObservedRelease> = observed.releases.iter().collect();
    releases.sort_by_key(|release| std::cmp::Reverse((activated(release), release.manifest.created_at, release.id())));
    releases.into_iter().map(|release| release.id().clone()).collect()
}

/// Checks a release that was named and gives the warnings of what was overridden.
fn accept(release: &ObservedRelease, request: &Request, walk: &Walk<'_>) -> Result<Vec<String>, Refusal> {
    let (id, force) = (release.id(), request.force);
    let refused = |unfit, forceable| Refusal::TargetUnfit { release: id.clone(), unfit, forceable };
    if walk.observed.current.release() == Some(id) {
        return Err(refused(Unfit::IsCurrent, false));
    }
    if let Some(unfit) = damage(release) {
        return Err(refused(unfit, false));
    }
    let mut warnings = Vec::new();
    if let Some(unfit) = below_floor(release, &walk.observed.policy) {
        if !(force && request.break_glass) {
            return Err(refused(unfit, false));
        }
        warnings.push(format!("`{id}` {}, which was overridden by break-glass", crate::explain::unfit(&unfit)));
    }
    if let Some(unfit) = quarantine(release) {
        if !force {
            return Err(refused(unfit, true));
        }
        warnings.push(format!("`{id}` {}, which was overridden by force", crate::explain::unfit(&unfit)));
    }
    if request.deploy.is_some() {
        return Ok(warnings);
    }
    if release.good_since.is_none() && walk.verified {
        if !force {
            return Err(refused(Unfit::NeverVerified, true));
        }
        warnings.push(format!("`{id}` was never verified, which was overridden by force"));
        return Ok(warnings);
    }
    warnings.extend(walk.warnings(id));
    Ok(warnings)
}
