//! Recovers an operation that an agent finds unfinished at its start, from what is observed now.
//!
//! | found | recovery |
//! |---|---|
//! | the operation has ended | finish: only its record is missing |
//! | it was found unfinished [`RECOVERIES_MAX`] times already | needs operator |
//! | `current` is no link, or there is nothing to try | needs operator |
//! | a candidate that is not intact any more | undo: put back what was left; needs operator when there is nothing |
//! | watching, confirming or asking, and `current` leads elsewhere | finish, unverified: another hand has gone on from here |
//! | verifying, watching or confirming, and `current` leads to that release | resume at starting: what died with the host is started again |
//! | arming, asking | resume there: nothing is to be touched before its end |
//! | anything else | resume at stopping |
//!
//! Resuming at stopping is safe from every phase, because every effect names the state that it ensures: processes of
//! the old release never stay on the new link, whichever side of the switch the agent died on. Resuming at starting
//! leaves alone what runs: verification is only reached after the stop, so nothing of the old release can run any more.

use super::step;
use crate::explain;
use crate::model::health::Verdict;
use crate::model::host::Current;
use crate::model::ids::ReleaseId;
use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::release::Integrity;

/// Recoveries of one operation at most; then a human looks. The number is that of Mender's store counter: an agent
/// that dies at every start is stopped by it within minutes, and a host that reboots a few times is not.
pub const RECOVERIES_MAX: u32 = 28;

/// How an interrupted operation goes on. Each holds the operation as it is to be stored before anything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It had ended; only its record is missing.
    Finish(Operation),
    /// It goes on towards the release that it tried.
    Resume(Operation),
    /// Its target cannot be trusted any more; the release that was left is put back.
    Undo(Operation),
    /// It has ended now, because nothing safe is left to do.
    NeedsOperator(Operation),
}

/// Decides how an operation goes on.
///
/// Takes the operation from the intent journal, where `current` leads now, and the integrity of the release that the
/// operation tries ([`Operation::trying`]). What is put back may be damaged: it is what ran before.
#[must_use]
pub fn recover(mut operation: Operation, current: &Current, target: &Integrity) -> Recovery {
    if operation.outcome().is_some() {
        return Recovery::Finish(operation);
    }
    if operation.recoveries >= RECOVERIES_MAX {
        return needs_operator(operation, current, &format!("it was interrupted more than {RECOVERIES_MAX} times"));
    }
    match current {
        Current::NotALink => return needs_operator(operation, current, "`current` is not a link any more"),
        Current::Release(_) | Current::Missing | Current::Dangling(_) | Current::Outside(_) => {}
    }
    let Some(trying) = operation.trying().cloned() else {
        return needs_operator(operation, current, "there is no release to put back");
    };
    if operation.is_waiting() && current.release() != operation.runs() {
        return Recovery::Finish(overtaken(operation, current, trying));
    }
    let distrust = match target {
        Integrity::Intact { .. } => None,
        Integrity::Damaged { .. } => Some(format!("`{trying}` is damaged now")),
        Integrity::Unknown { why } => Some(format!("`{trying}` cannot be proved intact any more: {why}")),
    };
    if let Some(why) = distrust.filter(|_| !operation.is_putting_back()) {
        if operation.plan.from.is_none() {
            return needs_operator(operation, current, &why);
        }
        operation.recoveries += 1;
        operation.attempt = operation.plan.candidates.len();
        operation.phase = Phase::Stopping;
        return Recovery::Undo(operation);
    }
    operation.recoveries += 1;
    operation.phase = match operation.phase {
        Phase::Arming => Phase::Arming,
        Phase::Asking => Phase::Asking,
        Phase::Verifying | Phase::Watching | Phase::Confirming if current.release() == Some(&trying) => Phase::Starting,
        Phase::Stopping
        | Phase::LinkingConfiguration
        | Phase::Switching
        | Phase::Starting
        | Phase::Verifying
        | Phase::Watching
        | Phase::Confirming
        | Phase::Ended { .. } => Phase::Stopping,
    };
    Recovery::Resume(operation)
}

fn overtaken(mut operation: Operation, current: &Current, watched: ReleaseId) -> Operation {
    let cause = format!("its watch did not end: `current` {}", explain::current(current));
    let release = current.release().cloned().unwrap_or(watched);
    operation.phase = Phase::Ended { outcome: Outcome::Unverified { release, verdict: Verdict::Inconclusive, cause } };
    operation
}

fn needs_operator(mut operation: Operation, current: &Current, why: &str) -> Recovery {
    let cause = match step::first_failure(&operation) {
        Some(first) => format!("{first}; then {why}"),
        None => why.to_owned(),
    };
    operation.phase = Phase::Ended { outcome: Outcome::NeedsOperator { release: current.release().cloned(), cause } };
    Recovery::NeedsOperator(operation)
}
