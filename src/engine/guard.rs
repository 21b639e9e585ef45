//! Guards: what must hold before anything is touched.

use jiff::Timestamp;

use super::verdict;
use crate::model::health::UnitLoad;
use crate::model::host::{Current, ObservedComponent};
use crate::model::ids::OperationId;
use crate::model::operation::{Request, Urgency};
use crate::model::refusal::Refusal;

/// Refuses a `current` that is no link: it is never deleted, so it cannot be switched.
///
/// # Errors
/// [`Refusal::CurrentUnusable`].
pub fn current(observed: &ObservedComponent) -> Result<(), Refusal> {
    match &observed.current {
        Current::NotALink => Err(Refusal::CurrentUnusable {
            current: observed.current.clone(),
            path: format!("{}/current", observed.name),
        }),
        Current::Release(_) | Current::Missing | Current::Dangling(_) | Current::Outside(_) => Ok(()),
    }
}

/// Refuses units that could not be started again, in an emergency too: stopping them would end the service.
///
/// # Errors
/// [`Refusal::UnitUnusable`] for the first one.
pub fn units(observed: &ObservedComponent) -> Result<(), Refusal> {
    for unit in observed.units() {
        match unit.load {
            UnitLoad::Loaded => {}
            UnitLoad::Masked | UnitLoad::NotFound | UnitLoad::Error => {
                return Err(Refusal::UnitUnusable { unit: unit.name.clone(), load: unit.load });
            }
        }
    }
    Ok(())
}

/// Refuses an environment that another operation holds. An emergency takes it over and gets the holder's identifier,
/// and so does everybody when the holder only watches.
///
/// A lease that has run out at `now` holds nothing.
///
/// # Errors
/// [`Refusal::Held`].
pub fn lease(request: &Request, observed: &ObservedComponent, now: Timestamp) -> Result<Option<OperationId>, Refusal> {
    let Some(lease) = &observed.lease else { return Ok(None) };
    if lease.operation == request.operation || lease.expires <= now {
        return Ok(None);
    }
    match request.urgency {
        Urgency::Standard if !lease.gives_way => Err(Refusal::Held { lease: Box::new(lease.clone()) }),
        Urgency::Standard | Urgency::Emergency => Ok(Some(lease.operation)),
    }
}

/// Refuses to leave a healthy release without what the policy demands: a reason, or force and a reason.
///
/// # Errors
/// [`Refusal::ForceNeeded`] or [`Refusal::ReasonNeeded`].
pub fn healthy(request: &Request, observed: &ObservedComponent) -> Result<(), Refusal> {
    let Some(current) = observed.current.release() else { return Ok(()) };
    if request.deploy.is_some() {
        // A deploy leaves what is healthy on purpose; its watch is the safeguard.
        return Ok(());
    }
    match request.urgency {
        Urgency::Emergency => return Ok(()),
        Urgency::Standard => {}
    }
    if !verdict::is_healthy(&observed.health) {
        return Ok(());
    }
    if observed.policy.healthy_needs_force && !request.force {
        return Err(Refusal::ForceNeeded { current: current.clone() });
    }
    if request.reason.is_none() {
        return Err(Refusal::ReasonNeeded { current: current.clone() });
    }
    Ok(())
}
