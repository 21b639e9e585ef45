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
//! A deploy has one candidate and a watch, and differs from there on:
//!
//! | phase | ended well | release bad | anything else |
//! |---|---|---|---|
//! | verifying | watch | put back when the watch goes back by itself, or the units do not run; else asking | watch |
//! | arming | stopping; watching when another hand has deployed | – | failed: put back, nothing was touched; watched without it when another hand has deployed |
//! | watching | confirm, or done when nobody needs to | put back when the watch goes back by itself; else asking | unverified: the release is not to blame |
//! | confirming | done | – | put back: nobody confirmed it in time |
//! | asking | decided: put back, or unverified | – | unverified |
//!
//! What a release that is bad leads to, [`super::trigger`] says: put back at once, or ask; where nobody is to be asked it stays
//! unverified. A rollback that an alert asks for begins with asking: it goes on from stopping, or changes nothing.
//!
//! So an automatic rollback goes one step back, to what ran before, and never to and fro: what is put back is not watched.
//!
//! With nothing to put back (`from` is none) every "put back" is "needs operator". A stop that fails after an agent
//! was restarted needs an operator as well: nobody knows which release the processes that stay run. An end that does
//! not belong to its phase counts as failed. Every operation ends: attempts only grow, and within one the phases do.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{trigger, verdict};
use crate::explain;
use crate::model::decision::{Action, Asked, Undecided};
use crate::model::digest::Digest;
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::{Health, Verdict};
use crate::model::ids::{OperationId, ProbeName, ReleaseId};
use crate::model::operation::{Operation, Outcome, Phase, Step, Trigger};
use crate::model::plan::Plan;
use crate::model::text::{Text, sanitize};
use crate::model::watch::{Moment, Watch, Watched};

/// Bytes of a quarantine's reason: what a probe saw, and half of what a text may have.
const REASON_BYTES_MAX: usize = 512;

/// Begins an operation from its plan: the intent, to be stored durably before the first effect.
#[must_use]
pub fn begin(plan: Plan, trigger: Trigger, actor: String, now: Timestamp) -> Operation {
    Operation {
        id: plan.request.operation,
        trigger,
        actor,
        took_over: plan.takes_over,
        accepted_at: now,
        attempt: 0,
        phase: if plan.armed().is_some() { Phase::Arming } else { Phase::Stopping },
        plan,
        steps: Vec::new(),
        recoveries: 0,
        watched: None,
        asked: None,
    }
}

/// Begins a rollback that an alert asks for: a human decides before anything is touched.
#[must_use]
pub fn begin_alerted(plan: Plan, actor: String, now: Timestamp, alert: String) -> Operation {
    let runs = plan.from.clone();
    let operation = Operation { phase: Phase::Asking, ..begin(plan, Trigger::Alert, actor, now) };
    with_alert(operation, runs, now, alert)
}

/// Takes an alert of a severity that asks: a release that is watched, or waits to be confirmed, waits for a decision.
#[must_use]
pub fn alert(mut operation: Operation, now: Timestamp, alert: String) -> Operation {
    match operation.phase {
        Phase::Watching | Phase::Confirming => operation.phase = Phase::Asking,
        Phase::Arming
        | Phase::Stopping
        | Phase::LinkingConfiguration
        | Phase::Switching
        | Phase::Starting
        | Phase::Verifying
        | Phase::Asking
        | Phase::Ended { .. } => return operation,
    }
    let runs = operation.trying().cloned();
    with_alert(operation, runs, now, alert)
}

fn with_alert(mut operation: Operation, runs: Option<ReleaseId>, now: Timestamp, error: String) -> Operation {
    if let Some(release) = runs {
        operation.steps.push(Step {
            effect: Effect::Watched { release },
            began_at: now,
            duration_us: 0,
            end: EffectEnd::Failed { error },
            recovered: false,
        });
    }
    operation
}

/// Notes since when a human is asked, and for how long; a question that was asked already goes on.
#[must_use]
pub fn begin_asking(mut operation: Operation, now: Moment, lasts_ms: u64) -> Operation {
    operation.asked.get_or_insert(Asked { since: now, lasts_ms });
    operation
}

/// Puts the deadline of a question off.
#[must_use]
pub fn investigate(mut operation: Operation, by_ms: u64) -> Operation {
    if let Some(asked) = &mut operation.asked {
        asked.lasts_ms = asked.lasts_ms.saturating_add(by_ms);
    }
    operation
}

/// Tells what an operation does when nobody decides: whether what runs is left.
#[must_use]
pub fn undecided(operation: &Operation) -> bool {
    operation.plan.watch.is_some_and(|watch| watch.auto && watch.undecided == Undecided::RollBack)
}

/// Begins the watch of a release that another hand has made current: nothing is stopped or switched first. What may not
/// be activated is put back at once, when the watch goes back by itself; `forbidden` says why it may not.
#[must_use]
pub fn begin_external(plan: Plan, actor: String, now: Timestamp, forbidden: Option<String>) -> Operation {
    let phase = if plan.armed().is_some() { Phase::Arming } else { Phase::Watching };
    let operation = Operation { phase, ..begin(plan, Trigger::External, actor, now) };
    match (forbidden, operation.trying().cloned()) {
        (Some(error), Some(release)) if operation.plan.watch.is_some_and(|watch| watch.auto) => Operation {
            attempt: operation.plan.candidates.len(),
            phase: Phase::Stopping,
            steps: vec![Step {
                effect: Effect::Watched { release },
                began_at: now,
                duration_us: 0,
                end: EffectEnd::Failed { error },
                recovered: false,
            }],
            ..operation
        },
        _ => operation,
    }
}

/// Notes when the watch began; one that has begun already goes on.
#[must_use]
pub fn begin_watch(mut operation: Operation, now: Moment) -> Operation {
    operation.watched.get_or_insert(Watched { began: now, confirmed_by: None, failing: BTreeMap::new() });
    operation
}

/// Notes who confirmed the release; the first one counts.
#[must_use]
pub fn confirm(mut operation: Operation, by: String) -> Operation {
    if let Some(watched) = &mut operation.watched {
        watched.confirmed_by.get_or_insert(by);
    }
    operation
}

/// Notes since when a probe of the watch fails; none when it does not any more.
#[must_use]
pub fn note_failing(mut operation: Operation, probe: ProbeName, since: Option<Moment>) -> Operation {
    if let Some(watched) = &mut operation.watched {
        match since {
            Some(since) => watched.failing.insert(probe, since),
            None => watched.failing.remove(&probe),
        };
    }
    operation
}

/// Gives the effect to perform now; none when the operation has ended.
#[must_use]
pub fn next_effect(operation: &Operation) -> Option<Effect> {
    let release = operation.trying()?.clone();
    let units = &operation.plan.units;
    match operation.phase {
        Phase::Arming => Some(Effect::DeadManArmed { release: operation.plan.from.clone()? }),
        Phase::Stopping => Some(Effect::UnitsStopped { units: units.iter().rev().cloned().collect() }),
        Phase::LinkingConfiguration => Some(Effect::ConfigurationLinked { release }),
        Phase::Switching => Some(Effect::CurrentLinked { release }),
        Phase::Starting => Some(Effect::UnitsStarted { units: units.clone() }),
        Phase::Verifying => Some(Effect::Verified { release }),
        Phase::Watching => Some(Effect::Watched { release }),
        Phase::Confirming => Some(Effect::Confirmed { release }),
        Phase::Asking => Some(Effect::Decided { release: operation.runs().cloned()? }),
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
        Ending::Judged { verdict, units_run, action } => after_judgement(&mut operation, verdict, units_run, action),
        Ending::Decided { back } => after_decision(&mut operation, back),
    };
    operation
}

/// Ends an operation whose lease another one took over; what runs now is told by that operation.
#[must_use]
pub fn supersede(mut operation: Operation, by: OperationId) -> Operation {
    if operation.outcome().is_none() {
        operation.phase = Phase::Ended { outcome: Outcome::Superseded { by } };
    }
    operation
}

/// Goes on after the dead-man's switch has fired at a time and has taken these steps to put back what was left.
///
/// Ends the operation when they all worked; otherwise it is put back from here. What was put back before, or taken over
/// by another operation, stays as it is.
#[must_use]
pub fn fired(mut operation: Operation, at: Timestamp, steps: Vec<Step>) -> Operation {
    if matches!(operation.outcome(), Some(Outcome::PutBack { .. } | Outcome::Superseded { .. })) {
        return operation;
    }
    let (Some(from), Some(tried)) = (operation.plan.from.clone(), operation.trying().cloned()) else {
        return operation;
    };
    let error = "the watch had not ended by its deadline, and the dead-man's switch went back".to_owned();
    operation.attempt = operation.plan.candidates.len();
    operation.steps.push(Step {
        effect: Effect::Watched { release: tried },
        began_at: at,
        duration_us: 0,
        end: EffectEnd::Failed { error },
        recovered: false,
    });
    let is_back = !steps.is_empty() && steps.iter().all(|step| step.end == EffectEnd::Ensured);
    operation.steps.extend(steps);
    operation.phase = if is_back {
        let cause = first_failure(&operation).unwrap_or_default();
        Phase::Ended { outcome: Outcome::PutBack { release: from, cause } }
    } else {
        Phase::Stopping
    };
    operation
}

/// Names the digest that an operation proves bad, with the reason: that of a deployed release which failed what the one
/// before it passed. It is quarantined, so that no name brings it back by itself.
#[must_use]
pub fn condemned(operation: &Operation) -> Option<(Digest, Text)> {
    operation.plan.watch?;
    let deployed = operation.plan.candidates.first()?;
    let is_bad = |step: &&Step| match (&step.effect, &step.end) {
        (
            Effect::Verified { release } | Effect::Watched { release },
            EffectEnd::Judged { verdict: Verdict::ReleaseBad, .. },
        ) => release == deployed,
        (
            Effect::DeadManArmed { .. }
            | Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::CurrentLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Verified { .. }
            | Effect::Watched { .. }
            | Effect::Decided { .. }
            | Effect::Confirmed { .. },
            EffectEnd::Ensured | EffectEnd::Judged { .. } | EffectEnd::Decided { .. } | EffectEnd::Failed { .. },
        ) => false,
    };
    // Somebody who decides to leave it in its watch knows more than the probes.
    let is_left = operation.steps.iter().any(|step| matches!(step.end, EffectEnd::Decided { back: true, .. }));
    let why = match operation.steps.iter().find(is_bad) {
        Some(step) => failure(step)?,
        None if is_left => first_failure(operation)?,
        None => return None,
    };
    let reason = Text::new(&sanitize(why.as_bytes(), REASON_BYTES_MAX).replace(['\n', '\t'], " ")).ok()?;
    Some((operation.plan.target.tree, reason))
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
        // Why it was asked stands before it.
        (_, EffectEnd::Decided { .. }) => None,
        (Effect::Verified { .. } | Effect::Watched { .. }, EffectEnd::Judged { verdict: Verdict::Passing, .. }) => None,
        (Effect::Verified { .. } | Effect::Watched { .. }, EffectEnd::Judged { verdict, health }) => {
            Some(format!("{while_doing}: {}", judgement(*verdict, health)))
        }
        (Effect::Verified { .. } | Effect::Watched { .. }, EffectEnd::Ensured) => {
            Some(format!("{while_doing}: nothing was judged"))
        }
        (
            Effect::DeadManArmed { .. }
            | Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::CurrentLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Decided { .. }
            | Effect::Confirmed { .. },
            EffectEnd::Judged { .. },
        ) => Some(format!("{while_doing}: a judgement is no end of it")),
        (
            Effect::DeadManArmed { .. }
            | Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::CurrentLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Decided { .. }
            | Effect::Confirmed { .. },
            EffectEnd::Ensured,
        ) => None,
    }
}

fn judgement(verdict: Verdict, health: &Health) -> String {
    let mut parts = verdict::failures(health);
    if verdict == Verdict::Inconclusive {
        parts.extend(verdict::undecided(health));
    }
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
    Judged { verdict: Verdict, units_run: bool, action: Action },
    Decided { back: bool },
}

fn ending(operation: &Operation, end: &EffectEnd) -> Ending {
    match (&operation.phase, end) {
        (Phase::Verifying | Phase::Watching, EffectEnd::Judged { verdict, health }) => {
            let action = operation.plan.watch.map_or(Action::RollBack, |watch| trigger::of_watch(watch, health));
            Ending::Judged { verdict: *verdict, units_run: verdict::units_run(health), action }
        }
        // Nobody could judge, which proves nothing against the release.
        (
            Phase::Verifying | Phase::Watching,
            EffectEnd::Ensured | EffectEnd::Failed { .. } | EffectEnd::Decided { .. },
        ) => Ending::Judged { verdict: Verdict::Inconclusive, units_run: true, action: Action::Note },
        (Phase::Asking, EffectEnd::Decided { back, .. }) => Ending::Decided { back: *back },
        // A question that cannot be asked is no reason to leave anything.
        (Phase::Asking, EffectEnd::Ensured | EffectEnd::Failed { .. } | EffectEnd::Judged { .. }) => {
            Ending::Decided { back: false }
        }
        (
            Phase::Arming
            | Phase::Stopping
            | Phase::LinkingConfiguration
            | Phase::Switching
            | Phase::Starting
            | Phase::Confirming
            | Phase::Ended { .. },
            EffectEnd::Ensured,
        ) => Ending::Ensured,
        (
            Phase::Arming
            | Phase::Stopping
            | Phase::LinkingConfiguration
            | Phase::Switching
            | Phase::Starting
            | Phase::Confirming
            | Phase::Ended { .. },
            EffectEnd::Failed { .. } | EffectEnd::Judged { .. } | EffectEnd::Decided { .. },
        ) => Ending::Failed,
    }
}

fn after_ensured(operation: &Operation) -> Phase {
    match &operation.phase {
        Phase::Arming if operation.trigger == Trigger::External => Phase::Watching,
        Phase::Arming => Phase::Stopping,
        Phase::Stopping => links(operation),
        Phase::LinkingConfiguration => Phase::Switching,
        Phase::Switching => Phase::Starting,
        Phase::Starting => Phase::Verifying,
        Phase::Confirming => done(operation),
        // None comes here: what is judged or decided has an end of its own, and an ended operation is never stepped.
        Phase::Verifying | Phase::Watching | Phase::Asking | Phase::Ended { .. } => operation.phase.clone(),
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
        Phase::Arming => unarmed(operation),
        Phase::Stopping if operation.attempt == 0 && operation.recoveries == 0 => put_back(operation, Phase::Starting),
        Phase::Stopping => needs_operator(operation),
        Phase::LinkingConfiguration | Phase::Switching => {
            let first = links(operation);
            put_back(operation, first)
        }
        Phase::Starting if has_another(operation) => next_candidate(operation),
        Phase::Starting | Phase::Confirming => put_back(operation, Phase::Stopping),
        // None comes here, as above.
        Phase::Verifying | Phase::Watching | Phase::Asking | Phase::Ended { .. } => operation.phase.clone(),
    }
}

/// Ends what has touched nothing yet, unless another hand has deployed already: that is watched all the same.
fn unarmed(operation: &Operation) -> Phase {
    match operation.plan.from.clone() {
        _ if operation.trigger == Trigger::External => Phase::Watching,
        Some(release) => Phase::Ended { outcome: Outcome::PutBack { release, cause: causes(operation) } },
        None => needs_operator(operation),
    }
}

fn after_judgement(operation: &mut Operation, verdict: Verdict, units_run: bool, action: Action) -> Phase {
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
    if let Some(watch) = operation.plan.watch {
        return after_deploy(operation, watch, verdict, units_run, action);
    }
    match verdict {
        Verdict::Passing => done(operation),
        Verdict::ReleaseBad if has_another(operation) => next_candidate(operation),
        Verdict::ReleaseBad if !units_run => put_back(operation, Phase::Stopping),
        Verdict::ReleaseBad | Verdict::EnvironmentBad | Verdict::Inconclusive => unverified(operation, verdict),
    }
}

/// Goes on after a deployed release was judged: the second table of this module.
fn after_deploy(operation: &mut Operation, watch: Watch, verdict: Verdict, units_run: bool, action: Action) -> Phase {
    let is_watched = operation.phase == Phase::Watching;
    match verdict {
        Verdict::ReleaseBad if action == Action::RollBack => put_back(operation, Phase::Stopping),
        Verdict::ReleaseBad if !(units_run || is_watched) => put_back(operation, Phase::Stopping),
        Verdict::ReleaseBad if watch.ask_ms > 0 => Phase::Asking,
        Verdict::ReleaseBad => unverified(operation, verdict),
        Verdict::Passing | Verdict::EnvironmentBad | Verdict::Inconclusive if !is_watched => Phase::Watching,
        Verdict::Passing if watch.confirm_ms.is_some() => Phase::Confirming,
        Verdict::Passing => done(operation),
        Verdict::EnvironmentBad | Verdict::Inconclusive => unverified(operation, verdict),
    }
}

/// Goes on after somebody has decided, or nobody in time.
fn after_decision(operation: &mut Operation, back: bool) -> Phase {
    match (operation.plan.watch, back) {
        (Some(_), true) => put_back(operation, Phase::Stopping),
        (Some(_), false) => unverified(operation, Verdict::ReleaseBad),
        (None, true) => Phase::Stopping,
        (None, false) => unarmed(operation),
    }
}

fn done(operation: &Operation) -> Phase {
    match operation.trying().cloned() {
        Some(release) => Phase::Ended { outcome: Outcome::Done { release } },
        None => needs_operator(operation),
    }
}

fn unverified(operation: &Operation, verdict: Verdict) -> Phase {
    match operation.trying().cloned() {
        Some(release) => Phase::Ended { outcome: Outcome::Unverified { release, verdict, cause: causes(operation) } },
        None => needs_operator(operation),
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
        Phase::Starting | Phase::Verifying | Phase::Watching | Phase::Confirming => operation.trying().cloned(),
        Phase::Asking => operation.runs().cloned(),
        Phase::Switching => None,
        // A switch may have been made and not recorded before an agent died.
        Phase::Stopping | Phase::LinkingConfiguration if operation.recoveries > 0 => None,
        Phase::Arming | Phase::Stopping | Phase::LinkingConfiguration | Phase::Ended { .. } => {
            operation.steps.iter().rev().find_map(switched).unwrap_or_else(|| operation.plan.from.clone())
        }
    }
}

/// Tells where the link leads after a switch: nobody knows when it failed.
fn switched(step: &Step) -> Option<Option<ReleaseId>> {
    match (&step.effect, &step.end) {
        (Effect::CurrentLinked { release }, EffectEnd::Ensured) => Some(Some(release.clone())),
        (
            Effect::CurrentLinked { .. },
            EffectEnd::Judged { .. } | EffectEnd::Decided { .. } | EffectEnd::Failed { .. },
        ) => Some(None),
        (
            Effect::DeadManArmed { .. }
            | Effect::UnitsStopped { .. }
            | Effect::ConfigurationLinked { .. }
            | Effect::UnitsStarted { .. }
            | Effect::Verified { .. }
            | Effect::Watched { .. }
            | Effect::Decided { .. }
            | Effect::Confirmed { .. },
            _,
        ) => None,
    }
}
