//! What to do with an operation that an agent finds in its intent journal at its start.
//!
//! | found | decision |
//! |---|---|
//! | it has an outcome | finish: only the record is missing |
//! | found unfinished more than [`RECOVERIES_MAX`] times | needs operator |
//! | `current` is a file or directory | needs operator |
//! | the release to try is no longer intact, and the link still leads to the one left | undo: put that back |
//! | the release to try is no longer intact, and the link leads to it already | resume: what is linked is started |
//! | it was verifying and the link leads to the release tried | resume there, with the time that is left |
//! | anything else | resume from Stopping: every effect is harmless to repeat, and no old process stays on new files |

use crate::model::host::Current;
use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::release::Integrity;

/// How often an operation is taken up again before it waits for an operator: enough for any series of power cuts, few
/// enough to end a loop of crashes within a minute. The number is that of Mender's state store.
pub const RECOVERIES_MAX: u32 = 28;

/// What to do with a found operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Record its outcome.
    Finish(Operation),
    /// Go on with it.
    Resume(Operation),
    /// Put back the release that it left.
    Undo(Operation),
    /// Record that it waits for an operator.
    NeedsOperator(Operation),
}

/// Decides by the table above. `target` is the integrity of the release that was tried.
#[must_use]
pub fn recover(mut operation: Operation, current: &Current, target: &Integrity) -> Recovery {
    if operation.outcome().is_some() {
        return Recovery::Finish(operation);
    }
    operation.recoveries += 1;
    if operation.recoveries > RECOVERIES_MAX {
        return give_up(operation, current, format!("it was found unfinished {RECOVERIES_MAX} times"));
    }
    if *current == Current::NotALink {
        return give_up(operation, current, format!("`current` {}", crate::explain::current(current)));
    }
    let linked = current.release();
    let at_trying = linked.is_some() && linked == operation.trying();
    let intact = match target {
        Integrity::Intact { .. } => true,
        Integrity::Damaged { .. } | Integrity::Unknown { .. } => false,
    };
    if !intact && !at_trying && !operation.is_putting_back() {
        if operation.plan.from.is_none() {
            return give_up(operation, current, "the target is no longer intact and nothing ran before".to_owned());
        }
        operation.attempt = operation.plan.candidates.len();
        operation.phase = Phase::Stopping;
        return Recovery::Undo(operation);
    }
    operation.phase = match operation.phase {
        Phase::Verifying if at_trying => Phase::Verifying,
        Phase::Stopping
        | Phase::LinkingConfiguration
        | Phase::Switching
        | Phase::Starting
        | Phase::Verifying
        | Phase::Ended { .. } => Phase::Stopping,
    };
    Recovery::Resume(operation)
}

fn give_up(mut operation: Operation, current: &Current, cause: String) -> Recovery {
    operation.phase = Phase::Ended { outcome: Outcome::NeedsOperator { release: current.release().cloned(), cause } };
    Recovery::NeedsOperator(operation)
}
