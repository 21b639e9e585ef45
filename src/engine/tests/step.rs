//! The table of steps: every phase with every end, on every kind of attempt.

use super::{a_plan, at, health, id, operation, operation_id};
use crate::engine::step::{first_failure, next_effect, step, supersede};
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::{Health, UnitActive, Verdict};
use crate::model::operation::{Operation, Outcome, Phase, Step};

pub(super) fn judged(verdict: Verdict, units_run: bool) -> EffectEnd {
    let mut health: Health = health(verdict == Verdict::Passing);
    if !units_run {
        health.units[0].active = UnitActive::Failed;
    }
    EffectEnd::Judged { verdict, health }
}

pub(super) fn done(operation: &Operation, end: EffectEnd) -> Step {
    let effect = next_effect(operation).expect("the operation runs");
    Step { effect, began_at: at(6_100), duration_us: 10, end, recovered: operation.recoveries > 0 }
}

pub(super) fn ends() -> Vec<(&'static str, EffectEnd)> {
    vec![
        ("ensured", EffectEnd::Ensured),
        ("failed", EffectEnd::Failed { error: "no answer".to_owned() }),
        ("passing", judged(Verdict::Passing, true)),
        ("bad, up", judged(Verdict::ReleaseBad, true)),
        ("bad, down", judged(Verdict::ReleaseBad, false)),
        ("environment", judged(Verdict::EnvironmentBad, true)),
        ("inconclusive", judged(Verdict::Inconclusive, true)),
    ]
}

fn attempts() -> Vec<Operation> {
    let first = operation(&["r2", "r1"], Some("r3"), true);
    let last = Operation { attempt: 1, ..first.clone() };
    let bare = operation(&["r2"], None, true);
    let back = Operation { attempt: 2, ..first.clone() };
    let ill = Operation { attempt: 2, ..operation(&["r2", "r1"], Some("r3"), false) };
    vec![first, last, bare, back, ill]
}

pub(super) fn told(operation: &Operation) -> String {
    let trying = operation.trying().map(ToString::to_string).unwrap_or_default();
    match &operation.phase {
        Phase::Arming => format!("arm {trying}"),
        Phase::Stopping => format!("stop {trying}"),
        Phase::LinkingConfiguration => format!("config {trying}"),
        Phase::Switching => format!("switch {trying}"),
        Phase::Starting => format!("start {trying}"),
        Phase::Verifying => format!("verify {trying}"),
        Phase::Watching => format!("watch {trying}"),
        Phase::Asking => format!("ask {}", operation.runs().map(ToString::to_string).unwrap_or_default()),
        Phase::Confirming => format!("confirm {trying}"),
        Phase::Ended { outcome: Outcome::Done { release } } => format!("DONE {release}"),
        Phase::Ended { outcome: Outcome::Unverified { release, .. } } => format!("UNVERIFIED {release}"),
        Phase::Ended { outcome: Outcome::PutBack { release, .. } } => format!("BACK {release}"),
        Phase::Ended { outcome: Outcome::NeedsOperator { .. } } => "OPERATOR".to_owned(),
        Phase::Ended { outcome: Outcome::Superseded { .. } } => "SUPERSEDED".to_owned(),
    }
}

#[test]
fn every_phase_and_end_follows_the_table() {
    const ANY_JUDGEMENT: [&str; 5] = ["passing", "bad, up", "bad, down", "environment", "inconclusive"];
    // Phase, ends, then: first of two candidates · last one · only one with nothing to put back · putting back · the
    // same after a baseline that was not healthy. What is left is r3; the candidates are r2, r1.
    let misfit = |end| [&[end][..], &ANY_JUDGEMENT[..]].concat();
    let operator = "OPERATOR";
    let table = [
        (Phase::Stopping, vec!["ensured"], ["config r2", "config r1", "config r2", "config r3", "config r3"]),
        (Phase::Stopping, misfit("failed"), ["start r3", operator, operator, operator, operator]),
        (
            Phase::LinkingConfiguration,
            vec!["ensured"],
            ["switch r2", "switch r1", "switch r2", "switch r3", "switch r3"],
        ),
        (Phase::LinkingConfiguration, misfit("failed"), ["config r3", "config r3", operator, operator, operator]),
        (Phase::Switching, vec!["ensured"], ["start r2", "start r1", "start r2", "start r3", "start r3"]),
        (Phase::Switching, misfit("failed"), ["config r3", "config r3", operator, operator, operator]),
        (Phase::Starting, vec!["ensured"], ["verify r2", "verify r1", "verify r2", "verify r3", "verify r3"]),
        (Phase::Starting, misfit("failed"), ["stop r1", "stop r3", operator, operator, operator]),
        (Phase::Verifying, vec!["passing"], ["DONE r2", "DONE r1", "DONE r2", "BACK r3", "BACK r3"]),
        (Phase::Verifying, vec!["bad, up"], ["stop r1", "UNVERIFIED r1", "UNVERIFIED r2", operator, "BACK r3"]),
        (Phase::Verifying, vec!["bad, down"], ["stop r1", "stop r3", operator, operator, "BACK r3"]),
        (
            Phase::Verifying,
            vec!["environment", "inconclusive", "ensured", "failed"],
            ["UNVERIFIED r2", "UNVERIFIED r1", "UNVERIFIED r2", operator, "BACK r3"],
        ),
    ];
    let mut cells = 0;
    for (phase, names, expected) in table {
        for (name, end) in ends().into_iter().filter(|(name, _)| names.contains(name)) {
            for (mut before, expected) in attempts().into_iter().zip(expected) {
                before.phase = phase.clone();
                let attempt = before.attempt;
                let step_done = done(&before, end.clone());
                let after = step(before, step_done.clone());
                assert_eq!(told(&after), expected, "{phase:?}, {name}, attempt {attempt}");
                assert_eq!(after.steps, [step_done]);
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 5 * ends().len() * attempts().len(), "every cell was looked at");
}

#[test]
fn an_ended_operation_is_neither_stepped_nor_superseded() {
    let running = operation(&["r2"], Some("r3"), true);
    let stray = done(&running, EffectEnd::Ensured);
    let mut ended = running;
    ended.phase = Phase::Ended { outcome: Outcome::Done { release: id("r2") } };
    assert_eq!(next_effect(&ended), None);
    assert_eq!(step(ended.clone(), stray), ended);
    assert_eq!(supersede(ended.clone(), operation_id(9)), ended);
}

#[test]
fn a_superseded_operation_says_by_which() {
    let ended = supersede(operation(&["r2"], Some("r3"), true), operation_id(9));
    assert_eq!(ended.outcome(), Some(&Outcome::Superseded { by: operation_id(9) }));
}

#[test]
fn the_run_performs_what_the_dry_run_shows() {
    let plan = a_plan();
    for configuration in [true, false] {
        let mut operation = operation(&["r2", "r1"], Some("r3"), true);
        operation.plan.configuration = configuration;
        let shown = operation.plan.effects();
        let mut performed = Vec::new();
        while let Some(effect) = next_effect(&operation) {
            let end = match effect {
                Effect::Verified { .. } | Effect::Watched { .. } => judged(Verdict::Passing, true),
                Effect::DeadManArmed { .. }
                | Effect::UnitsStopped { .. }
                | Effect::ConfigurationLinked { .. }
                | Effect::CurrentLinked { .. }
                | Effect::UnitsStarted { .. }
                | Effect::Decided { .. }
                | Effect::Confirmed { .. } => EffectEnd::Ensured,
            };
            performed.push(effect);
            let done = done(&operation, end);
            operation = step(operation, done);
        }
        assert_eq!(performed, shown);
        assert_eq!(operation.outcome(), Some(&Outcome::Done { release: id("r2") }));
    }
    let stop = &plan.effects()[0];
    let stopped: Vec<_> = plan.units.iter().rev().cloned().collect();
    assert_eq!(*stop, Effect::UnitsStopped { units: stopped }, "what started last stops first");
}

#[test]
fn every_failure_is_told_and_the_first_one_first() {
    let mut op = operation(&["r2"], Some("r3"), true);
    op.phase = Phase::Starting;
    assert_eq!(first_failure(&op), None);
    let failed = |op: &Operation, error: &str| done(op, EffectEnd::Failed { error: error.to_owned() });
    let first = failed(&op, "unit is masked");
    op = step(op, first);
    let second = failed(&op, "no answer from the manager");
    op = step(op, second);
    let Some(Outcome::NeedsOperator { release, cause }) = op.outcome() else { panic!("{:?}", op.phase) };
    assert_eq!(
        cause,
        "starting `web.service`, `worker.service`: unit is masked; then stopping `worker.service`, `web.service`: no \
         answer from the manager"
    );
    assert_eq!(first_failure(&op).as_deref(), Some("starting `web.service`, `worker.service`: unit is masked"));
    // No switch is among the steps, so the link is where it was.
    assert_eq!(*release, Some(id("r3")));
}

#[test]
fn a_verdict_is_told_with_what_it_rests_on() {
    for (end, expected) in [
        (judged(Verdict::ReleaseBad, true), "verifying `r2`: probe `http` fails: HTTP 500"),
        (
            judged(Verdict::ReleaseBad, false),
            "verifying `r2`: unit `web.service` is failed (running); probe `http` fails: HTTP 500",
        ),
        (
            EffectEnd::Judged { verdict: Verdict::Inconclusive, health: health(true) },
            "verifying `r2`: nothing proves that it is well",
        ),
    ] {
        let mut operation = operation(&["r2"], Some("r3"), true);
        operation.phase = Phase::Verifying;
        let done = done(&operation, end);
        assert_eq!(first_failure(&step(operation, done)).as_deref(), Some(expected));
    }
}
