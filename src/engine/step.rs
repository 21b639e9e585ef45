//! The state machine of an operation: which effect is next, and where each ending leads.
//!
//! | phase | ending | trying a candidate | putting back |
//! |---|---|---|---|
//! | Stopping | ensured | LinkingConfiguration, or Switching when none is kept | the same |
//! | Stopping | failed | putting back from Starting: the link was not touched | needs operator |
//! | LinkingConfiguration | ensured | Switching | the same |
//! | LinkingConfiguration | failed | putting back from Stopping | needs operator |
//! | Switching | ensured | Starting | the same |
//! | Switching | failed | putting back from Stopping | needs operator |
//! | Starting | ensured | Verifying | the same |
//! | Starting | failed | the next candidate from Stopping, else putting back from Stopping | needs operator |
//! | Verifying | passing | done | put back |
//! | Verifying | release bad | the next candidate from Stopping, else unverified | put back if it was no better before, else needs operator |
//! | Verifying | environment bad, inconclusive | unverified | put back if it was no better before, else needs operator |
//! | Verifying | failed to ask | unverified | needs operator |
//!
//! Putting back with no release to put back needs an operator at once. Each attempt takes at most five steps, so an
//! operation of `n` candidates ends after at most `5 (n + 1)`.

use jiff::Timestamp;

use super::verdict::is_healthy;
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::Verdict;
use crate::model::ids::{OperationId, ReleaseId};
use crate::model::operation::{Operation, Outcome, Phase, Step, Trigger};
use crate::model::plan::Plan;

/// Makes the operation of a plan, before its first effect.
#[must_use]
pub fn begin(plan: Plan, trigger: Trigger, actor: String, now: Timestamp) -> Operation {
    Operation {
        id: plan.request.operation,
        trigger,
        actor,
        took_over: plan.takes_over,
        plan,
        accepted_at: now,
        attempt: 0,
        phase: Phase::Stopping,
        steps: Vec::new(),
        recoveries: 0,
    }
}

/// Gives the next effect; none when the operation is over.
#[must_use]
pub fn next_effect(operation: &Operation) -> Option<Effect> {
    let units = &operation.plan.units;
    let release = operation.trying()?.clone();
    match &operation.phase {
        Phase::Stopping => Some(Effect::UnitsStopped { units: units.iter().rev().cloned().collect() }),
        Phase::LinkingConfiguration => Some(Effect::ConfigurationLinked { release }),
        Phase::Switching => Some(Effect::CurrentLinked { release }),
        Phase::Starting => Some(Effect::UnitsStarted { units: units.clone() }),
        Phase::Verifying => Some(Effect::Verified { release }),
        Phase::Ended { .. } => None,
    }
}

/// Adds what was done and moves on, by the table above. An operation that is over stays as it is.
#[must_use]
pub fn step(mut operation: Operation, done: Step) -> Operation {
    let end = done.end.clone();
    operation.steps.push(done);
    let next = match operation.phase.clone() {
        Phase::Stopping => match end {
            EffectEnd::Ensured if operation.plan.configuration => Phase::LinkingConfiguration,
            EffectEnd::Ensured | EffectEnd::Judged { .. } => Phase::Switching,
            EffectEnd::Failed { .. } => return put_back(operation, Phase::Starting),
        },
        Phase::LinkingConfiguration => match end {
            EffectEnd::Ensured | EffectEnd::Judged { .. } => Phase::Switching,
            EffectEnd::Failed { .. } => return put_back(operation, Phase::Stopping),
        },
        Phase::Switching => match end {
            EffectEnd::Ensured | EffectEnd::Judged { .. } => Phase::Starting,
            EffectEnd::Failed { .. } => return put_back(operation, Phase::Stopping),
        },
        Phase::Starting => match end {
            EffectEnd::Ensured | EffectEnd::Judged { .. } => Phase::Verifying,
            EffectEnd::Failed { .. } => return next_candidate(operation),
        },
        Phase::Verifying => return verified(operation, end),
        Phase::Ended { .. } => return operation,
    };
    operation.phase = next;
    operation
}

/// Ends an operation that an emergency has taken over.
#[must_use]
pub fn supersede(mut operation: Operation, by: OperationId) -> Operation {
    if operation.outcome().is_none() {
        operation.phase = Phase::Ended { outcome: Outcome::Superseded { by } };
    }
    operation
}

/// Says what failed first, if anything did.
#[must_use]
pub fn first_failure(operation: &Operation) -> Option<String> {
    operation.steps.iter().find_map(failure)
}

/// Says why a step did not end well.
fn failure(step: &Step) -> Option<String> {
    match &step.end {
        EffectEnd::Ensured => None,
        EffectEnd::Failed { error } => Some(error.clone()),
        EffectEnd::Judged { verdict: Verdict::Passing, .. } => None,
        EffectEnd::Judged { verdict, health } => {
            let release = match &step.effect {
                Effect::Verified { release } => format!("`{release}`: "),
                Effect::UnitsStopped { .. }
                | Effect::ConfigurationLinked { .. }
                | Effect::CurrentLinked { .. }
                | Effect::UnitsStarted { .. } => String::new(),
            };
            let probe =
                health.probes.iter().find(|probe| !probe.passed).map(|p| format!("probe `{}`: {}", p.name, p.detail));
            let unit = health.units.iter().find(|u| u.active != crate::model::health::UnitActive::Active);
            let unit = unit.map(|u| format!("unit `{}` is {}", u.name, u.sub));
            let what = unit.or(probe).unwrap_or_else(|| crate::explain::verdict(*verdict).to_owned());
            Some(format!("{release}{what}"))
        }
    }
}

/// Joins everything that failed, so that the last failure does not hide the first.
fn causes(operation: &Operation) -> String {
    let mut causes: Vec<String> = operation.steps.iter().filter_map(failure).collect();
    causes.dedup();
    if causes.is_empty() { "nothing was reported".to_owned() } else { causes.join("; then ") }
}

fn end(mut operation: Operation, outcome: Outcome) -> Operation {
    operation.phase = Phase::Ended { outcome };
    operation
}

fn needs_operator(operation: Operation) -> Operation {
    let outcome = Outcome::NeedsOperator { release: linked(&operation).cloned(), cause: causes(&operation) };
    end(operation, outcome)
}

/// Tells where `current` leads as far as the steps tell: the last release that was switched to, else the one left.
fn linked(operation: &Operation) -> Option<&ReleaseId> {
    let switched = operation.steps.iter().rev().find_map(|step| match (&step.effect, &step.end) {
        (Effect::CurrentLinked { release }, EffectEnd::Ensured) => Some(Some(release)),
        // A failed switch leaves it unknown.
        (Effect::CurrentLinked { .. }, EffectEnd::Failed { .. } | EffectEnd::Judged { .. }) => Some(None),
        (
            Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Verified { .. },
            EffectEnd::Ensured | EffectEnd::Failed { .. } | EffectEnd::Judged { .. },
        ) => None,
    });
    switched.unwrap_or(operation.plan.from.as_ref())
}

/// Puts the release that was left back, beginning at a phase; what was being put back already needs an operator.
fn put_back(mut operation: Operation, phase: Phase) -> Operation {
    if operation.is_putting_back() || operation.plan.from.is_none() {
        return needs_operator(operation);
    }
    let untouched = operation.attempt == 0;
    operation.attempt = operation.plan.candidates.len();
    // After a failed stop of a later candidate the link leads to that candidate, so the whole way back is gone.
    operation.phase = if untouched { phase } else { Phase::Stopping };
    operation
}

fn next_candidate(mut operation: Operation) -> Operation {
    if operation.is_putting_back() {
        return needs_operator(operation);
    }
    if operation.attempt + 1 < operation.plan.candidates.len() {
        operation.attempt += 1;
        operation.phase = Phase::Stopping;
        return operation;
    }
    put_back(operation, Phase::Stopping)
}

fn verified(operation: Operation, ending: EffectEnd) -> Operation {
    let Some(release) = operation.trying().cloned() else { return needs_operator(operation) };
    let verdict = match ending {
        EffectEnd::Judged { verdict, .. } => verdict,
        EffectEnd::Ensured | EffectEnd::Failed { .. } => Verdict::Inconclusive,
    };
    if operation.is_putting_back() {
        let no_better_before = !is_healthy(&operation.plan.baseline);
        return match verdict {
            Verdict::Passing => {
                let cause = causes(&operation);
                end(operation, Outcome::PutBack { release, cause })
            }
            Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive if no_better_before => {
                let cause = causes(&operation);
                end(operation, Outcome::PutBack { release, cause })
            }
            Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive => needs_operator(operation),
        };
    }
    match verdict {
        Verdict::Passing => end(operation, Outcome::Done { release }),
        Verdict::ReleaseBad if operation.attempt + 1 < operation.plan.candidates.len() => next_candidate(operation),
        Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive => {
            let cause = causes(&operation);
            end(operation, Outcome::Unverified { release, verdict, cause })
        }
    }
}
