//! An operation as one line of the history.

use jiff::Timestamp;

use super::step::first_failure;
use crate::explain;
use crate::model::operation::{Operation, Outcome};
use crate::model::record::{HistoryLine, ResultWord};

/// Gives the line of an operation that is over; none while it runs.
#[must_use]
pub fn line(operation: &Operation, ended_at: Timestamp) -> Option<HistoryLine> {
    let plan = &operation.plan;
    let (result, to, cause) = match operation.outcome()? {
        Outcome::Done { release } => (ResultWord::Done, Some(release.clone()), first_failure(operation)),
        Outcome::Unverified { release, cause, .. } => {
            (ResultWord::Unverified, Some(release.clone()), Some(cause.clone()))
        }
        Outcome::PutBack { release, cause } => (ResultWord::PutBack, Some(release.clone()), Some(cause.clone())),
        Outcome::NeedsOperator { release, cause } => (ResultWord::NeedsOperator, release.clone(), Some(cause.clone())),
        outcome @ Outcome::Superseded { .. } => (ResultWord::Superseded, None, Some(explain::outcome(outcome))),
    };
    let took = ended_at.duration_since(operation.accepted_at);
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
        to,
        result,
        cause,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(0),
    })
}
