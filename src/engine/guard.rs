//! What must hold before an operation begins: a usable link and units, a free lease, a reason to leave what is healthy.

use jiff::Timestamp;

use crate::engine::verdict::is_healthy;
use crate::model::health::UnitLoad;
use crate::model::host::{Current, ObservedComponent};
use crate::model::ids::OperationId;
use crate::model::operation::{Request, Urgency};
use crate::model::refusal::Refusal;

/// Demands a `current` that a switch can replace: anything but a file or a directory.
///
/// # Errors
/// When it is no link.
pub fn current_is_usable(observed: &ObservedComponent) -> Result<(), Refusal> {
    match &observed.current {
        Current::NotALink => Err(Refusal::CurrentUnusable {
            current: observed.current.clone(),
            path: format!("{}/current", observed.name),
        }),
        Current::Release(_) | Current::Missing | Current::Dangling(_) | Current::Outside(_) => Ok(()),
    }
}

/// Demands units that can be started again; asked before anything is stopped, in an emergency too.
///
/// # Errors
/// When one is masked, missing or in error.
pub fn units_are_usable(observed: &ObservedComponent) -> Result<(), Refusal> {
    match observed.units().iter().find(|unit| unit.load != UnitLoad::Loaded) {
        None => Ok(()),
        Some(unit) => Err(Refusal::UnitUnusable { unit: unit.name.clone(), load: unit.load }),
    }
}

/// Demands a free environment; an emergency takes it over and gets the operation that it takes it from.
///
/// # Errors
/// When another operation holds it.
pub fn lease_is_free(
    request: &Request,
    observed: &ObservedComponent,
    now: Timestamp,
) -> Result<Option<OperationId>, Refusal> {
    let held = observed.lease.as_ref().filter(|lease| lease.operation != request.operation && lease.expires > now);
    match (held, request.urgency) {
        (None, Urgency::Standard | Urgency::Emergency) => Ok(None),
        (Some(lease), Urgency::Emergency) => Ok(Some(lease.operation)),
        (Some(lease), Urgency::Standard) => Err(Refusal::Held { lease: lease.clone() }),
    }
}

/// Demands a reason, or `--force` where the policy says so, to leave a release that is healthy.
///
/// # Errors
/// When it is not given.
pub fn leaving_is_justified(request: &Request, observed: &ObservedComponent) -> Result<(), Refusal> {
    match (request.urgency, observed.current.release()) {
        (Urgency::Emergency, _) | (Urgency::Standard, None) => Ok(()),
        (Urgency::Standard, Some(_)) if !is_healthy(&observed.health) => Ok(()),
        (Urgency::Standard, Some(current)) => {
            if observed.policy.healthy_needs_force && !request.force {
                Err(Refusal::ForceNeeded { current: current.clone() })
            } else if request.reason.is_none() {
                Err(Refusal::ReasonNeeded { current: current.clone() })
            } else {
                Ok(())
            }
        }
    }
}
