//! The table of recoveries: every phase with every `current`.

use super::{at, id, operation};
use crate::engine::recover::{RECOVERIES_MAX, Recovery, recover};
use crate::model::host::Current;
use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::release::Integrity;

fn told(recovery: &Recovery) -> String {
    let (word, operation) = match recovery {
        Recovery::Finish(operation) => return format!("finish {}", operation.recoveries),
        Recovery::NeedsOperator(operation) => {
            let Some(Outcome::NeedsOperator { .. }) = operation.outcome() else {
                panic!("an operator is needed, but the operation says {:?}", operation.phase);
            };
            return "operator".to_owned();
        }
        Recovery::Resume(operation) => ("resume", operation),
        Recovery::Undo(operation) => ("undo", operation),
    };
    assert_eq!(operation.recoveries, 1);
    let trying = operation.trying().map(ToString::to_string).unwrap_or_default();
    match operation.phase {
        Phase::Stopping => format!("{word} stop {trying}"),
        Phase::Starting => format!("{word} start {trying}"),
        Phase::Asking => format!("{word} ask {trying}"),
        Phase::Arming => format!("{word} arm {trying}"),
        Phase::LinkingConfiguration
        | Phase::Switching
        | Phase::Verifying
        | Phase::Watching
        | Phase::Confirming
        | Phase::Ended { .. } => {
            panic!("no recovery leads to {:?}", operation.phase)
        }
    }
}

fn currents() -> [Current; 7] {
    [
        Current::Release(id("r2")),
        Current::Release(id("r3")),
        Current::Release(id("r9")),
        Current::Missing,
        Current::Dangling("releases/gone".to_owned()),
        Current::Outside("/srv/other".to_owned()),
        Current::NotALink,
    ]
}

const VERIFYING_AND_AFTER: [Phase; 3] = [Phase::Verifying, Phase::Watching, Phase::Confirming];
const BEFORE_VERIFYING: [Phase; 4] = [Phase::Stopping, Phase::LinkingConfiguration, Phase::Switching, Phase::Starting];

fn in_phase(phase: &Phase, attempt: usize, from: Option<&str>) -> Operation {
    Operation { phase: phase.clone(), attempt, ..operation(&["r2"], from, true) }
}

#[test]
fn every_phase_and_current_follows_the_table() {
    let intact = Integrity::Intact { read_at: at(1) };
    for current in currents() {
        for phase in BEFORE_VERIFYING.iter().chain(&VERIFYING_AND_AFTER) {
            let expected = match (&current, phase) {
                (Current::NotALink, _) => "operator",
                (Current::Release(release), Phase::Verifying | Phase::Watching | Phase::Confirming)
                    if *release == id("r2") =>
                {
                    "resume start r2"
                }
                (_, Phase::Watching | Phase::Confirming) => "finish 0",
                (_, _) => "resume stop r2",
            };
            let recovery = recover(in_phase(phase, 0, Some("r3")), &current, &intact);
            assert_eq!(told(&recovery), expected, "{phase:?}, {current:?}");
        }
    }
}

#[test]
fn a_target_that_is_not_intact_is_never_resumed() {
    let damaged = Integrity::Damaged { differences: Vec::new(), more: 1 };
    let unknown = Integrity::Unknown { why: "no manifest".to_owned() };
    for target in [&damaged, &unknown] {
        for current in currents() {
            for phase in BEFORE_VERIFYING.iter().chain([&Phase::Verifying]) {
                let is_link = current != Current::NotALink;
                let recovery = recover(in_phase(phase, 0, Some("r3")), &current, target);
                assert_eq!(
                    told(&recovery),
                    if is_link { "undo stop r3" } else { "operator" },
                    "{phase:?}, {current:?}"
                );
                let recovery = recover(in_phase(phase, 0, None), &current, target);
                assert_eq!(told(&recovery), "operator", "{phase:?}, {current:?}, nothing to put back");
            }
        }
    }
}

#[test]
fn what_is_put_back_may_be_damaged_because_it_ran_before() {
    let damaged = Integrity::Damaged { differences: Vec::new(), more: 1 };
    for phase in BEFORE_VERIFYING {
        let recovery = recover(in_phase(&phase, 1, Some("r3")), &Current::Release(id("r2")), &damaged);
        assert_eq!(told(&recovery), "resume stop r3", "{phase:?}");
    }
    let recovery = recover(in_phase(&Phase::Verifying, 1, Some("r3")), &Current::Release(id("r3")), &damaged);
    assert_eq!(told(&recovery), "resume start r3");
}

#[test]
fn an_ended_operation_is_finished_whatever_is_found() {
    let phase = Phase::Ended { outcome: Outcome::Done { release: id("r2") } };
    for current in currents() {
        let unknown = Integrity::Unknown { why: String::new() };
        assert_eq!(told(&recover(in_phase(&phase, 0, Some("r3")), &current, &unknown)), "finish 0");
    }
}

#[test]
fn recoveries_come_to_an_end() {
    let intact = Integrity::Intact { read_at: at(1) };
    let current = Current::Release(id("r3"));
    let mut operation = in_phase(&Phase::Starting, 0, Some("r3"));
    for _ in 0..RECOVERIES_MAX {
        let Recovery::Resume(resumed) = recover(operation, &current, &intact) else { panic!("resumed until then") };
        operation = resumed;
    }
    let Recovery::NeedsOperator(ended) = recover(operation, &current, &intact) else { panic!("no end") };
    let Some(Outcome::NeedsOperator { release, cause }) = ended.outcome() else { panic!("no outcome") };
    assert_eq!(*release, Some(id("r3")));
    assert!(cause.contains("28 times"), "{cause}");
}

#[test]
fn a_question_goes_on_and_nothing_is_touched_before_its_answer() {
    let intact = Integrity::Intact { read_at: at(1) };
    // A rollback that asks first: what is left runs still.
    let asking = in_phase(&Phase::Asking, 0, Some("r3"));
    assert_eq!(told(&recover(asking.clone(), &Current::Release(id("r3")), &intact)), "resume ask r2");
    assert_eq!(told(&recover(asking, &Current::Release(id("r9")), &intact)), "finish 0");
}
