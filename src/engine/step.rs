//! Steps an operation from one effect to the next, until it has an outcome.
//!
//! | phase | ended well | failed, on a candidate | failed, while putting back |
//! |---|---|---|---|
//! | stopping | link configuration, or switch when none is kept | first candidate: start what was left, its link was not touched; else needs operator | needs operator |
//! | linking configuration | switch | put back from here, units are stopped | needs operator |
//! | switching | start | put back from linking configuration on: the link's state may be unknown | needs operator |
//! | starting | verify | next candidate, then put back from stopping on | needs operator |
//! | verifying: passing | done, or put back | | |
//! | verifying: release bad | | next candidate; none left: unverified when the units run, else put back | needs operator, but put back when the baseline was not healthy either |
//! | verifying: environment bad, inconclusive, failed | | unverified: the release is not to blame | as release bad |
//!
//! With nothing to put back (`from` is none) every "put back" is "needs operator". A stop that fails after an agent
//! was restarted needs an operator as well: nobody knows which release the processes that stay run. An end that does
//! not belong to its phase counts as failed. Every operation ends: attempts only grow, and within one the phases do.

use jiff::Timestamp;

use super::verdict;
use crate::explain;
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::{Health, Verdict};
use crate::model::ids::{OperationId, ReleaseId};
use crate::model::operation::{Operation, Outcome, Phase, Step, Trigger};
use crate::model::plan::Plan;

/// Begins an operation from its plan: the intent, to be stored durably before the first effect.
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

/// Gives the effect to perform now; none when the operation has ended.
#[must_use]
pub fn next_effect(operation: &Operation) -> Option<Effect> {
    let release = operation.trying()?.clone();
    let units = &operation.plan.units;
    match operation.phase {
        Phase::Stopping => Some(Effect::UnitsStopped { units: units.iter().rev().cloned().collect() }),
        Phase::LinkingConfiguration => Some(Effect::ConfigurationLinked { release }),
        Phase::Switching => Some(Effect::CurrentLinked { release }),
        Phase::Starting => Some(Effect::UnitsStarted { units: units.clone() }),
        Phase::Verifying => Some(Effect::Verified { release }),
        Phase::Ended { .. } => None,
    }
}

/// Records an effect that has ended and moves on, as the table of this module says.
///
/// An operation that has ended stays as it is.
#[must_use]
pub fn step(mut operation: Operation, done: Step) -> Operation {
    if operation.outcome().is_some() {
        return operation;
    }
    let end = ending(&operation, &done.end);
    operation.steps.push(done);
    operation.phase = match end {
        Ending::Ensured => after_ensured(&operation),
        Ending::Failed => after_failure(&mut operation),
        Ending::Judged { verdict, units_run } => after_judgement(&mut operation, verdict, units_run),
    };
    operation
}

/// Ends an operation whose lease an emergency took over; what runs now is told by that operation.
#[must_use]
pub fn supersede(mut operation: Operation, by: OperationId) -> Operation {
    if operation.outcome().is_none() {
        operation.phase = Phase::Ended { outcome: Outcome::Superseded { by } };
    }
    operation
}

/// Says in one sentence what failed first; none while nothing has.
#[must_use]
pub fn first_failure(operation: &Operation) -> Option<String> {
    operation.steps.iter().find_map(failure)
}

/// Says everything that failed, in order, one sentence in all.
fn causes(operation: &Operation) -> String {
    let mut all: Vec<String> = operation.steps.iter().filter_map(failure).collect();
    all.dedup();
    all.join("; then ")
}

fn failure(step: &Step) -> Option<String> {
    let while_doing = explain::effect(&step.effect);
    match (&step.effect, &step.end) {
        (_, EffectEnd::Failed { error }) => Some(format!("{while_doing}: {error}")),
        (Effect::Verified { .. }, EffectEnd::Judged { verdict: Verdict::Passing, .. }) => None,
        (Effect::Verified { .. }, EffectEnd::Judged { verdict, health }) => {
            Some(format!("{while_doing}: {}", judgement(*verdict, health)))
        }
        (Effect::Verified { .. }, EffectEnd::Ensured) => Some(format!("{while_doing}: nothing was judged")),
        (
            Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::CurrentLinked { .. }
            | Effect::UnitsStarted { .. },
            EffectEnd::Judged { .. },
        ) => Some(format!("{while_doing}: a judgement is no end of it")),
        (
            Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::CurrentLinked { .. }
            | Effect::UnitsStarted { .. },
            EffectEnd::Ensured,
        ) => None,
    }
}

fn judgement(verdict: Verdict, health: &Health) -> String {
    let mut parts = verdict::failures(health);
    // A unit that runs again after a crash shows no failure by itself.
    if parts.is_empty() {
        parts.extend(health.units.iter().filter(|unit| unit.restarts > 0).map(|unit| {
            format!("unit `{}` was restarted by its manager, {} times since it was started", unit.name, unit.restarts)
        }));
    }
    if parts.is_empty() { explain::verdict(verdict).to_owned() } else { parts.join("; ") }
}

/// How an effect ended, as far as the table cares.
enum Ending {
    Ensured,
    Failed,
    Judged { verdict: Verdict, units_run: bool },
}

fn ending(operation: &Operation, end: &EffectEnd) -> Ending {
    match (&operation.phase, end) {
        (Phase::Verifying, EffectEnd::Judged { verdict, health }) => {
            Ending::Judged { verdict: *verdict, units_run: verdict::units_run(health) }
        }
        // Nobody could judge, which proves nothing against the release.
        (Phase::Verifying, EffectEnd::Ensured | EffectEnd::Failed { .. }) => {
            Ending::Judged { verdict: Verdict::Inconclusive, units_run: true }
        }
        (
            Phase::Stopping | Phase::LinkingConfiguration | Phase::Switching | Phase::Starting | Phase::Ended { .. },
            EffectEnd::Ensured,
        ) => Ending::Ensured,
        (
            Phase::Stopping | Phase::LinkingConfiguration | Phase::Switching | Phase::Starting | Phase::Ended { .. },
            EffectEnd::Failed { .. } | EffectEnd::Judged { .. },
        ) => Ending::Failed,
    }
}

fn after_ensured(operation: &Operation) -> Phase {
    match &operation.phase {
        Phase::Stopping => links(operation),
        Phase::LinkingConfiguration => Phase::Switching,
        Phase::Switching => Phase::Starting,
        Phase::Starting => Phase::Verifying,
        // Neither comes here: a verification is always judged, and an ended operation is never stepped.
        Phase::Verifying | Phase::Ended { .. } => operation.phase.clone(),
    }
}

/// Gives the first phase of linking a release.
fn links(operation: &Operation) -> Phase {
    if operation.plan.configuration { Phase::LinkingConfiguration } else { Phase::Switching }
}

fn after_failure(operation: &mut Operation) -> Phase {
    if operation.is_putting_back() {
        return needs_operator(operation);
    }
    match operation.phase {
        Phase::Stopping if operation.attempt == 0 && operation.recoveries == 0 => put_back(operation, Phase::Starting),
        Phase::Stopping => needs_operator(operation),
        Phase::LinkingConfiguration | Phase::Switching => {
            let first = links(operation);
            put_back(operation, first)
        }
        Phase::Starting if has_another(operation) => next_candidate(operation),
        Phase::Starting => put_back(operation, Phase::Stopping),
        // Neither comes here, as above.
        Phase::Verifying | Phase::Ended { .. } => operation.phase.clone(),
    }
}

fn after_judgement(operation: &mut Operation, verdict: Verdict, units_run: bool) -> Phase {
    let Some(release) = operation.trying().cloned() else { return needs_operator(operation) };
    if operation.is_putting_back() {
        // What ran before was no better then: it is back as it was.
        let is_back = match verdict {
            Verdict::Passing => true,
            Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive => {
                !verdict::is_healthy(&operation.plan.baseline)
            }
        };
        if !is_back {
            return needs_operator(operation);
        }
        let cause = first_failure(operation).unwrap_or_default();
        return Phase::Ended { outcome: Outcome::PutBack { release, cause } };
    }
    match verdict {
        Verdict::Passing => Phase::Ended { outcome: Outcome::Done { release } },
        Verdict::ReleaseBad if has_another(operation) => next_candidate(operation),
        Verdict::ReleaseBad if !units_run => put_back(operation, Phase::Stopping),
        Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive => {
            let cause = causes(operation);
            Phase::Ended { outcome: Outcome::Unverified { release, verdict, cause } }
        }
    }
}

fn has_another(operation: &Operation) -> bool {
    operation.attempt + 1 < operation.plan.candidates.len()
}

fn next_candidate(operation: &mut Operation) -> Phase {
    operation.attempt += 1;
    Phase::Stopping
}

/// Turns to the release that was left, beginning at a phase; without one an operator is needed.
fn put_back(operation: &mut Operation, first: Phase) -> Phase {
    if operation.plan.from.is_none() {
        return needs_operator(operation);
    }
    operation.attempt = operation.plan.candidates.len();
    first
}

fn needs_operator(operation: &Operation) -> Phase {
    Phase::Ended { outcome: Outcome::NeedsOperator { release: linked(operation), cause: causes(operation) } }
}

/// Tells where `current` leads in the phase that failed, as far as the recorded steps prove it.
fn linked(operation: &Operation) -> Option<ReleaseId> {
    match operation.phase {
        // Both come only after the link was ensured in this attempt.
        Phase::Starting | Phase::Verifying => operation.trying().cloned(),
        Phase::Switching => None,
        // A switch may have been made and not recorded before an agent died.
        Phase::Stopping | Phase::LinkingConfiguration if operation.recoveries > 0 => None,
        Phase::Stopping | Phase::LinkingConfiguration | Phase::Ended { .. } => {
            operation.steps.iter().rev().find_map(switched).unwrap_or_else(|| operation.plan.from.clone())
        }
    }
}

/// Tells where the link leads after a switch: nobody knows when it failed.
fn switched(step: &Step) -> Option<Option<ReleaseId>> {
    match (&step.effect, &step.end) {
        (Effect::CurrentLinked { release }, EffectEnd::Ensured) => Some(Some(release.clone())),
        (Effect::CurrentLinked { .. }, EffectEnd::Judged { .. } | EffectEnd::Failed { .. }) => Some(None),
        (
            Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Verified { .. },
            _,
        ) => None,
    }
}
