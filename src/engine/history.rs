//! Tells an operation that is over as one line of the history.

use jiff::Timestamp;

use super::step;
use crate::model::operation::{Operation, Outcome};
use crate::model::record::{HistoryLine, ResultWord};

/// Builds the line of an operation that ended at that time by the host's clock; none while it runs.
///
/// The cause of a superseded operation is what failed before it was taken over, if anything did. A clock that was set
/// back in between gives a duration of zero.
#[must_use]
pub fn line(operation: &Operation, ended_at: Timestamp) -> Option<HistoryLine> {
    let (result, to, cause) = match operation.outcome()? {
        Outcome::Done { release } => (ResultWord::Done, Some(release), None),
        Outcome::Unverified { release, verdict: _, cause } => {
            (ResultWord::Unverified, Some(release), Some(cause.clone()))
        }
        Outcome::PutBack { release, cause } => (ResultWord::PutBack, Some(release), Some(cause.clone())),
        Outcome::NeedsOperator { release, cause } => (ResultWord::NeedsOperator, release.as_ref(), Some(cause.clone())),
        Outcome::Superseded { by: _ } => (ResultWord::Superseded, None, step::first_failure(operation)),
    };
    let plan = &operation.plan;
    Some(HistoryLine {
        operation: operation.id,
        at: operation.accepted_at,
        environment: Some(plan.environment.clone()),
        component: Some(plan.component.clone()),
        operation_type: Some(plan.operation_type),
        trigger: operation.trigger,
        actor: operation.actor.clone(),
        reason: plan.request.reason.as_ref().map(ToString::to_string),
        from: plan.from.clone(),
        to: to.cloned(),
        result,
        cause: cause.filter(|cause| !cause.is_empty()),
        duration_ms: u64::try_from(ended_at.duration_since(operation.accepted_at).as_millis()).unwrap_or(0),
    })
}
