//! Histories: operations with failures, crashes and power cuts in any order, against a trivial host in memory.
//!
//! After every history the outcome must name what `current` leads to, and what runs must be that release. A recovery
//! that is wrong on purpose shows that a history would tell.

use proptest::prelude::*;

use super::step::{done, judged};
use super::{at, operation};
use crate::engine::recover::{RECOVERIES_MAX, Recovery, recover};
use crate::engine::step::{begin, next_effect, step};
use crate::engine::verdict::is_healthy;
use crate::model::decision::{Severity, Undecided};
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::Verdict;
use crate::model::host::Current;
use crate::model::ids::ReleaseId;
use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::release::Integrity;
use crate::model::watch::Watch;

/// What happens to one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It works.
    Works,
    /// It fails, its state unchanged.
    Fails,
    /// It fails, although its state was reached.
    FailsLate,
    /// The release is judged so, as far as its units run.
    Judges(Verdict),
    /// A unit of the release has died when it is judged.
    Dies,
    /// The agent dies before the effect.
    CrashBefore,
    /// The agent dies after the effect and before it is recorded.
    CrashAfter,
    /// The power goes after the effect, which is kept.
    PowerKept,
    /// The power goes after the effect, and the disk forgets it.
    PowerLost,
    /// As `CrashBefore`, and the target is damaged when the agent returns.
    CrashDamaged,
}

const ACTIONS: [Action; 13] = [
    Action::Works,
    Action::Fails,
    Action::FailsLate,
    Action::Judges(Verdict::ReleaseBad),
    Action::Judges(Verdict::EnvironmentBad),
    Action::Judges(Verdict::Inconclusive),
    Action::Judges(Verdict::Passing),
    Action::Dies,
    Action::CrashBefore,
    Action::CrashAfter,
    Action::PowerKept,
    Action::PowerLost,
    Action::CrashDamaged,
];

/// A host as simple as it can be: where its links lead and the code of which release runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    link: Option<ReleaseId>,
    configuration: Option<ReleaseId>,
    runs: Option<ReleaseId>,
}

impl Host {
    fn ensure(&mut self, effect: &Effect) {
        match effect {
            Effect::UnitsStopped { .. } => self.runs = None,
            Effect::ConfigurationLinked { release } => self.configuration = Some(release.clone()),
            Effect::CurrentLinked { release } => self.link = Some(release.clone()),
            // A unit that runs already is left alone, whatever the link says by now.
            Effect::UnitsStarted { .. } => self.runs = self.runs.take().or_else(|| self.link.clone()),
            Effect::DeadManArmed { .. }
            | Effect::Verified { .. }
            | Effect::Watched { .. }
            | Effect::Decided { .. }
            | Effect::Confirmed { .. } => {}
        }
    }

    /// The units are enabled: the boot starts what `current` leads to.
    fn boot(&mut self) {
        self.runs = self.link.clone();
    }

    fn judge(&mut self, action: Action) -> EffectEnd {
        match action {
            Action::Dies => self.runs = None,
            Action::Works
            | Action::Fails
            | Action::FailsLate
            | Action::Judges(_)
            | Action::CrashBefore
            | Action::CrashAfter
            | Action::PowerKept
            | Action::PowerLost
            | Action::CrashDamaged => {}
        }
        match (action, &self.runs) {
            (Action::Fails | Action::FailsLate, _) => EffectEnd::Failed { error: "no answer".to_owned() },
            (_, None) => judged(Verdict::ReleaseBad, false),
            (Action::Judges(verdict), Some(_)) => judged(verdict, true),
            (
                Action::Works
                | Action::Dies
                | Action::CrashBefore
                | Action::CrashAfter
                | Action::PowerKept
                | Action::PowerLost
                | Action::CrashDamaged,
                Some(_),
            ) => judged(Verdict::Passing, true),
        }
    }

    /// Performs an effect under an action and gives its end; none when the agent died.
    fn perform(&mut self, effect: &Effect, action: Action) -> Option<EffectEnd> {
        let before = self.clone();
        match action {
            Action::CrashBefore | Action::CrashDamaged => return None,
            Action::CrashAfter => {
                self.ensure(effect);
                return None;
            }
            Action::PowerKept => {
                self.ensure(effect);
                self.boot();
                return None;
            }
            Action::PowerLost => {
                *self = before;
                self.boot();
                return None;
            }
            Action::Works | Action::Fails | Action::FailsLate | Action::Judges(_) | Action::Dies => {}
        }
        match (effect, action) {
            (Effect::Verified { .. } | Effect::Watched { .. }, _) => Some(self.judge(action)),
            (Effect::Decided { .. }, _) => {
                Some(EffectEnd::Decided { back: action == Action::Works, why: "somebody said so".to_owned() })
            }
            (_, Action::Fails) => Some(EffectEnd::Failed { error: "refused".to_owned() }),
            (_, Action::FailsLate) => {
                self.ensure(effect);
                Some(EffectEnd::Failed { error: "not confirmed".to_owned() })
            }
            (
                Effect::DeadManArmed { .. }
                | Effect::UnitsStopped { .. }
                | Effect::ConfigurationLinked { .. }
                | Effect::CurrentLinked { .. }
                | Effect::UnitsStarted { .. }
                | Effect::Confirmed { .. },
                _,
            ) => {
                self.ensure(effect);
                Some(EffectEnd::Ensured)
            }
        }
    }
}

type Recoverer = fn(Operation, &Current, &Integrity) -> Recovery;

/// Runs an operation under actions, and under success when they are used up.
fn run(mut operation: Operation, actions: &[Action], recover: Recoverer) -> Result<(Operation, Host), String> {
    let from = operation.plan.from.clone();
    let mut host = Host { link: from.clone(), configuration: from.clone(), runs: from };
    let mut actions = actions.iter().copied();
    // Each attempt has at most nine effects, and each recovery can begin one attempt anew.
    let bound = 9 * (operation.plan.candidates.len() + 1 + usize::try_from(RECOVERIES_MAX).expect("small")) * 2;
    for _ in 0..bound {
        let Some(effect) = next_effect(&operation) else { return Ok((operation, host)) };
        let action = actions.next().unwrap_or(Action::Works);
        operation = match host.perform(&effect, action) {
            Some(end) => {
                let done = done(&operation, end);
                step(operation, done)
            }
            None => {
                let target = match action {
                    Action::CrashDamaged => Integrity::Damaged { differences: Vec::new(), more: 1 },
                    Action::Works
                    | Action::Fails
                    | Action::FailsLate
                    | Action::Judges(_)
                    | Action::Dies
                    | Action::CrashBefore
                    | Action::CrashAfter
                    | Action::PowerKept
                    | Action::PowerLost => Integrity::Intact { read_at: at(1) },
                };
                let current = host.link.clone().map_or(Current::Missing, Current::Release);
                match recover(operation, &current, &target) {
                    Recovery::Finish(operation)
                    | Recovery::Resume(operation)
                    | Recovery::Undo(operation)
                    | Recovery::NeedsOperator(operation) => operation,
                }
            }
        };
    }
    Err(format!("no end after {bound} effects: {:?}", operation.phase))
}

/// Says what an outcome claims that the host does not show.
fn lie(operation: &Operation, host: &Host) -> Option<String> {
    let outcome = operation.outcome()?;
    let (release, is_up) = match outcome {
        Outcome::Done { release } => (release, true),
        // What is unverified, or put back as broken as it was, may have died under the last probe.
        Outcome::Unverified { release, .. } => (release, false),
        Outcome::PutBack { release, .. } => (release, is_healthy(&operation.plan.baseline)),
        Outcome::NeedsOperator { release: Some(release), .. } => {
            return (host.link.as_ref() != Some(release)).then(|| format!("{outcome:?}, but {host:?}"));
        }
        Outcome::NeedsOperator { release: None, .. } => return None,
        Outcome::Superseded { .. } => return Some("nobody took over".to_owned()),
    };
    let is_linked = host.link.as_ref() == Some(release)
        && (!operation.plan.configuration || host.configuration.as_ref() == Some(release));
    let is_run = host.runs.as_ref().map_or(!is_up, |runs| runs == release);
    (!(is_linked && is_run)).then(|| format!("{outcome:?}, but {host:?}"))
}

/// Where an operation with that plan begins.
fn begun_at(operation: &Operation) -> Phase {
    begin(operation.plan.clone(), operation.trigger, operation.actor.clone(), operation.accepted_at).phase
}

/// Every kind of operation: one or two candidates, with or without a release to put back, baseline and configuration;
/// and deploys, which are watched and confirmed.
fn kinds() -> Vec<Operation> {
    let mut kinds = Vec::new();
    for candidates in [&["r2"][..], &["r2", "r1"]] {
        for from in [Some("r3"), None] {
            for (baseline, configuration) in [(true, true), (false, true), (true, false)] {
                let mut kind = operation(candidates, from, baseline);
                kind.plan.configuration = configuration;
                kinds.push(kind);
            }
            let mut deploy = operation(&["r2"], from, true);
            deploy.plan.watch = Some(Watch {
                lasts_ms: 1_000,
                auto: true,
                confirm_ms: Some(1_000),
                dead_man: true,
                automatic_from: Severity::High,
                ask_ms: 600_000,
                undecided: Undecided::RollBack,
            });
            kinds.push(Operation { phase: begun_at(&deploy), ..deploy });
        }
    }
    kinds
}

fn sweep(recover: Recoverer, faults: usize) -> Result<usize, String> {
    let mut runs = 0;
    for kind in kinds() {
        // Faults at any two places of the first twelve effects, of every kind.
        for first in 0..12 {
            for second in first + 1..13 {
                for one in ACTIONS {
                    for other in ACTIONS {
                        let mut actions = [Action::Works; 13];
                        actions[first] = one;
                        if faults > 1 {
                            actions[second] = other;
                        }
                        let (operation, host) = run(kind.clone(), &actions, recover)?;
                        if let Some(lie) = lie(&operation, &host) {
                            return Err(format!("{actions:?}: {lie}"));
                        }
                        runs += 1;
                        if faults == 1 {
                            break;
                        }
                    }
                }
                if faults == 1 {
                    break;
                }
            }
        }
    }
    Ok(runs)
}

#[test]
fn every_pair_of_faults_ends_in_an_outcome_that_is_true() {
    let runs = sweep(recover, 2).unwrap_or_else(|lie| panic!("{lie}"));
    assert!(runs > 10_000, "{runs} histories");
}

/// A recovery that goes on in the phase where it was, as if nothing had moved meanwhile.
fn careless(mut operation: Operation, _: &Current, _: &Integrity) -> Recovery {
    operation.recoveries += 1;
    Recovery::Resume(operation)
}

#[test]
fn a_careless_recovery_is_caught() {
    assert!(sweep(careless, 1).is_err());
}

#[test]
fn one_fault_never_needs_an_operator_when_there_is_something_to_put_back() {
    for kind in kinds().into_iter().filter(|kind| kind.plan.from.is_some()) {
        for place in 0..12 {
            for fault in ACTIONS {
                let mut actions = [Action::Works; 12];
                actions[place] = fault;
                let (operation, host) = run(kind.clone(), &actions, recover).unwrap_or_else(|error| panic!("{error}"));
                let is_up = host.runs.is_some();
                assert!(is_up, "{fault:?} at {place}: {:?}", operation.outcome());
                let needs_operator = matches!(operation.outcome(), Some(Outcome::NeedsOperator { .. }));
                assert!(!needs_operator, "{fault:?} at {place}: {:?}", operation.outcome());
            }
        }
    }
}

#[test]
fn an_agent_that_dies_at_every_effect_ends_with_an_operator() {
    for kind in kinds() {
        let (operation, host) =
            run(kind, &[Action::CrashAfter; 100], recover).unwrap_or_else(|error| panic!("{error}"));
        let Some(Outcome::NeedsOperator { release, .. }) = operation.outcome() else { panic!("{operation:?}") };
        assert_eq!(*release, host.link);
        assert_eq!(operation.recoveries, RECOVERIES_MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_history_ends_in_an_outcome_that_is_true(
        kind in prop::sample::select(kinds()),
        actions in prop::collection::vec(prop::sample::select(ACTIONS.to_vec()), 0..80),
    ) {
        let (operation, host) = run(kind, &actions, recover).map_err(TestCaseError::fail)?;
        prop_assert_eq!(lie(&operation, &host), None);
        let tried = operation.plan.candidates.iter().chain(&operation.plan.from);
        let is_known = host.link.is_none() || tried.clone().any(|release| host.link.as_ref() == Some(release));
        prop_assert!(is_known, "{:?} leads elsewhere", host.link);
        prop_assert!(operation.attempt <= operation.plan.candidates.len());
    }
}
