//! Deploys: the table of steps from the verification on, what is planned, and who may take over from a watch.

use super::step::{done, ends, told};
use super::{at, id, observed, operation_id, request};
use crate::engine::plan::{external, plan};
use crate::engine::recover::{Recovery, recover};
use crate::engine::step::{
    alert, begin, begin_alerted, begin_asking, begin_external, begin_watch, condemned, confirm, fired, investigate,
    next_effect, step, supersede, undecided,
};
use crate::model::decision::{Severity, Undecided};
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::Verdict;
use crate::model::host::{Current, Lease};
use crate::model::operation::{Destination, Operation, OperationType, Outcome, Phase, Request, Step, Trigger, Urgency};
use crate::model::policy::DeadManSwitch;
use crate::model::refusal::Refusal;
use crate::model::release::Integrity;
use crate::model::watch::{Moment, Watch, WatchTerms};

/// What the policy's defaults make of a watch.
const ASKED: Watch = Watch {
    lasts_ms: 0,
    auto: false,
    confirm_ms: None,
    dead_man: false,
    automatic_from: Severity::High,
    ask_ms: 600_000,
    undecided: Undecided::RollBack,
};

fn deploy_of(release: &str) -> Request {
    Request {
        to: Destination::Named(release.to_owned()),
        reason: None,
        deploy: Some(WatchTerms::default()),
        ..request()
    }
}

/// A deploy of `r3` over `r2`, which runs and is good.
fn deploy(watch: Watch) -> Operation {
    let mut plan = plan(&deploy_of("r3"), &observed("1g 2g 3", "12", "2"), at(5_000)).expect("it is planned");
    plan.watch = Some(watch);
    begin(plan, Trigger::Manual, "local:uid=0".to_owned(), at(6_000))
}

fn moment() -> Moment {
    Moment { boot: "a".to_owned(), since_boot_ms: 1, at: at(6_100) }
}

#[test]
fn every_phase_from_the_verification_on_follows_the_table() {
    let watch = |auto, confirm_ms| Watch { lasts_ms: 1_000, auto, confirm_ms, dead_man: false, ..ASKED };
    let modes = [watch(true, None), watch(false, None), watch(true, Some(1_000)), watch(false, Some(1_000))];
    // Phase, ends, then: automatic · not automatic · automatic, to be confirmed · not automatic, to be confirmed.
    let table = [
        (Phase::Verifying, vec!["passing", "environment", "inconclusive", "ensured", "failed"], ["watch r3"; 4]),
        (Phase::Verifying, vec!["bad, up"], ["stop r2", "ask r3", "stop r2", "ask r3"]),
        (Phase::Verifying, vec!["bad, down"], ["stop r2"; 4]),
        (Phase::Watching, vec!["passing"], ["DONE r3", "DONE r3", "confirm r3", "confirm r3"]),
        (Phase::Watching, vec!["bad, up", "bad, down"], ["stop r2", "ask r3", "stop r2", "ask r3"]),
        (Phase::Watching, vec!["environment", "inconclusive", "ensured", "failed"], ["UNVERIFIED r3"; 4]),
        (Phase::Confirming, vec!["ensured"], ["DONE r3"; 4]),
        (
            Phase::Confirming,
            vec!["failed", "passing", "bad, up", "bad, down", "environment", "inconclusive"],
            ["stop r2"; 4],
        ),
    ];
    let mut cells = 0;
    for (phase, names, expected) in table {
        for (name, end) in ends().into_iter().filter(|(name, _)| names.contains(name)) {
            for (watch, expected) in modes.into_iter().zip(expected) {
                let before = Operation { phase: phase.clone(), ..deploy(watch) };
                let ended = done(&before, end.clone());
                assert_eq!(told(&step(before, ended)), expected, "{phase:?}, {name}, {watch:?}");
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 3 * ends().len() * modes.len(), "every cell was looked at");
}

#[test]
fn a_deploy_has_one_candidate_and_needs_no_reason() {
    let host = observed("1g 2g 3", "12", "2");
    let made = plan(&deploy_of("r3"), &host, at(5_000)).expect("it is planned");
    assert_eq!((made.operation_type, &made.from), (OperationType::Deploy, &Some(id("r2"))));
    assert_eq!(made.candidates, [id("r3")]);
    assert_eq!(made.watch, Some(Watch { lasts_ms: 300_000, auto: true, confirm_ms: None, dead_man: true, ..ASKED }));
    let terms = WatchTerms { lasts_ms: Some(60_000), auto: Some(false), confirm_ms: Some(2_000) };
    let made = plan(&Request { deploy: Some(terms), ..deploy_of("r3") }, &host, at(5_000)).expect("it is planned");
    assert_eq!(
        made.watch,
        Some(Watch { lasts_ms: 60_000, auto: false, confirm_ms: Some(2_000), dead_man: true, ..ASKED })
    );
}

#[test]
fn what_runs_or_is_quarantined_or_damaged_is_not_deployed() {
    for (releases, code, forced) in
        [("2g 3q", "TARGET_UNFIT", true), ("2g 3d", "TARGET_UNFIT", false), ("2g 3c", "TARGET_UNFIT", false)]
    {
        let host = observed(releases, "2", "2");
        let refusal = plan(&deploy_of("r3"), &host, at(5_000)).expect_err("it is unfit");
        assert_eq!(refusal.code(), code, "{releases}");
        let again = plan(&Request { force: true, ..deploy_of("r3") }, &host, at(5_000));
        assert_eq!(again.is_ok(), forced, "{releases}");
    }
    let refusal = plan(&deploy_of("r2"), &observed("2g", "2", "2"), at(5_000)).expect_err("it runs");
    assert_eq!(refusal.code(), "TARGET_UNFIT");
}

#[test]
fn who_only_waits_gives_way_to_an_operator() {
    let mut host = observed("1g 2g 3", "123", "3");
    let lease = |gives_way| Lease {
        environment: "prod".parse().expect("valid"),
        operation: operation_id(7),
        holder: "local:uid=0".to_owned(),
        reason: String::new(),
        since: at(4_000),
        expires: at(9_000),
        gives_way,
    };
    host.lease = Some(lease(true));
    assert_eq!(plan(&request(), &host, at(5_000)).map(|plan| plan.takes_over), Ok(Some(operation_id(7))));
    host.lease = Some(lease(false));
    assert!(matches!(plan(&request(), &host, at(5_000)), Err(Refusal::Held { .. })));
}

#[test]
fn another_hand_is_watched_from_where_it_is() {
    let host = observed("1g 2g 3", "12", "3");
    let plan = external(&deploy_of("r3"), &host, Some(id("r2")), at(5_000)).expect("it is planned");
    let operation = begin_external(plan, "local:another-hand".to_owned(), at(6_000), None);
    assert_eq!((operation.trigger, told(&operation)), (Trigger::External, "arm r3".to_owned()));
    // Without the switch it is watched all the same.
    for (_, end) in ends() {
        let armed = done(&operation, end);
        assert_eq!(told(&step(operation.clone(), armed)), "watch r3");
    }
    let armed = done(&operation, EffectEnd::Ensured);
    let operation = step(operation, armed);
    let bad = done(&operation, super::step::judged(Verdict::ReleaseBad, true));
    assert_eq!(told(&step(operation, bad)), "stop r2");
}

#[test]
fn the_first_begin_and_the_first_confirmation_count() {
    let operation = deploy(Watch { lasts_ms: 1, auto: true, confirm_ms: None, dead_man: false, ..ASKED });
    assert_eq!(confirm(operation.clone(), "alice".to_owned()), operation, "there is no watch yet");
    let begun = begin_watch(operation, moment());
    let later = Moment { since_boot_ms: 9, ..moment() };
    let confirmed = confirm(confirm(begin_watch(begun, later), "alice".to_owned()), "bob".to_owned());
    let watched = confirmed.watched.expect("it has begun");
    assert_eq!((watched.began, watched.confirmed_by.as_deref()), (moment(), Some("alice")));
}

#[test]
fn what_fails_its_watch_is_quarantined_and_what_could_not_be_judged_is_not() {
    let watch = Watch { lasts_ms: 1_000, auto: true, confirm_ms: None, dead_man: false, ..ASKED };
    for (phase, verdict, condemned_for) in [
        (Phase::Verifying, Verdict::ReleaseBad, Some("verifying `r3`: probe `http` fails: HTTP 500")),
        (Phase::Watching, Verdict::ReleaseBad, Some("watching `r3`: probe `http` fails: HTTP 500")),
        (Phase::Watching, Verdict::EnvironmentBad, None),
        (Phase::Watching, Verdict::Inconclusive, None),
        (Phase::Watching, Verdict::Passing, None),
    ] {
        let before = Operation { phase, ..deploy(watch) };
        let judged = done(&before, super::step::judged(verdict, true));
        let after = step(before, judged);
        let found = condemned(&after);
        assert_eq!(found.as_ref().map(|(_, reason)| reason.as_str()), condemned_for);
        assert!(found.is_none_or(|(tree, _)| tree == after.plan.target.tree));
    }
    // A rollback condemns nothing: its target was good once.
    let rollback = Operation { phase: Phase::Verifying, ..super::operation(&["r2"], Some("r3"), true) };
    let judged = done(&rollback, super::step::judged(Verdict::ReleaseBad, true));
    assert_eq!(condemned(&step(rollback, judged)), None);
}

#[test]
fn a_watch_from_which_another_hand_has_gone_on_is_over() {
    let waiting = Operation {
        phase: Phase::Watching,
        ..deploy(Watch { lasts_ms: 1, auto: true, confirm_ms: None, dead_man: false, ..ASKED })
    };
    let intact = Integrity::Intact { read_at: at(1) };
    let Recovery::Finish(ended) = recover(waiting, &Current::Release(id("r1")), &intact) else {
        panic!("there is nothing left to watch")
    };
    let Some(Outcome::Unverified { release, cause, .. }) = ended.outcome() else { panic!("{:?}", ended.phase) };
    assert_eq!(*release, id("r1"));
    assert_eq!(cause, "its watch did not end: `current` leads to release `r1`");
}

#[test]
fn a_deploy_is_armed_first_and_not_begun_when_that_fails() {
    let plan = plan(&deploy_of("r3"), &observed("1g 2g 3", "12", "2"), at(5_000)).expect("it is planned");
    assert_eq!(plan.effects().first(), Some(&Effect::DeadManArmed { release: id("r2") }));
    let operation = begin(plan, Trigger::Manual, "local:uid=0".to_owned(), at(6_000));
    assert_eq!(next_effect(&operation), Some(Effect::DeadManArmed { release: id("r2") }));
    for (name, end) in ends() {
        let armed = done(&operation, end);
        let expected = if name == "ensured" { "stop r3" } else { "BACK r2" };
        assert_eq!(told(&step(operation.clone(), armed)), expected, "{name}");
    }
    for current in ["r2", "r3"] {
        let intact = Integrity::Intact { read_at: at(1) };
        let recovery = recover(operation.clone(), &Current::Release(id(current)), &intact);
        assert!(matches!(&recovery, Recovery::Resume(again) if again.phase == Phase::Arming), "{recovery:?}");
    }
}

#[test]
fn what_does_not_go_back_by_itself_is_not_armed() {
    let mut host = observed("1g 2g 3", "12", "2");
    let armed = |host: &_, auto, confirm_ms| {
        let terms = WatchTerms { lasts_ms: None, auto: Some(auto), confirm_ms };
        let plan = plan(&Request { deploy: Some(terms), ..deploy_of("r3") }, host, at(5_000)).expect("it is planned");
        plan.armed().is_some()
    };
    assert_eq!(
        [armed(&host, true, None), armed(&host, false, None), armed(&host, false, Some(2_000))],
        [true, false, true]
    );
    host.policy.dead_man = DeadManSwitch::Off;
    assert!(!armed(&host, true, None));
    let mut nothing_to_put_back = deploy(Watch { lasts_ms: 1, auto: true, confirm_ms: None, dead_man: true, ..ASKED });
    nothing_to_put_back.plan.from = None;
    assert_eq!(nothing_to_put_back.plan.armed(), None);
}

#[test]
fn a_switch_that_fired_ends_what_it_brought_back_and_the_agent_does_the_rest() {
    let watched = Watch { lasts_ms: 1_000, auto: true, confirm_ms: None, dead_man: true, ..ASKED };
    let waiting = Operation { phase: Phase::Watching, ..deploy(watched) };
    let took = |end| Step {
        effect: Effect::CurrentLinked { release: id("r2") },
        began_at: at(7_000),
        duration_us: 1,
        end,
        recovered: false,
    };
    let failed = EffectEnd::Failed { error: "no space".to_owned() };
    for (steps, expected) in [
        (vec![took(EffectEnd::Ensured)], "BACK r2"),
        (vec![took(EffectEnd::Ensured), took(failed)], "stop r2"),
        (Vec::new(), "stop r2"),
    ] {
        let after = fired(waiting.clone(), at(7_000), steps);
        assert_eq!(told(&after), expected);
        assert!(condemned(&after).is_none(), "that the agent was dead proves nothing against the release");
        let judged_meanwhile =
            Operation { phase: Phase::Ended { outcome: Outcome::Done { release: id("r3") } }, ..waiting.clone() };
        assert_ne!(told(&fired(judged_meanwhile, at(7_000), Vec::new())), "DONE r3", "it does not run any more");
    }
    let ended = fired(waiting.clone(), at(7_000), vec![took(EffectEnd::Ensured)]);
    let Some(Outcome::PutBack { cause, .. }) = ended.outcome() else { panic!("{:?}", ended.phase) };
    let told_why = "watching `r3`: the watch had not ended by its deadline, and the dead-man's switch went back";
    assert_eq!(cause, told_why);
    assert_eq!(fired(ended.clone(), at(8_000), Vec::new()), ended);
    let superseded = supersede(waiting, operation_id(7));
    assert_eq!(fired(superseded.clone(), at(8_000), Vec::new()), superseded);
}

#[test]
fn what_is_quarantined_and_deployed_by_another_hand_is_put_back_at_once() {
    let host = observed("1g 2g 3q", "12", "3");
    let plan = external(&deploy_of("r3"), &host, Some(id("r2")), at(5_000)).expect("it is planned");
    let why = Some("`r3` is quarantined".to_owned());
    let operation = begin_external(plan.clone(), "local:another-hand".to_owned(), at(6_000), why.clone());
    assert_eq!(told(&operation), "stop r2");
    assert!(condemned(&operation).is_none(), "it is quarantined already");
    let mut stays = plan;
    stays.watch = Some(Watch { lasts_ms: 1_000, auto: false, confirm_ms: None, dead_man: false, ..ASKED });
    assert_eq!(told(&begin_external(stays, "local:another-hand".to_owned(), at(6_000), why)), "watch r3");
}

#[test]
fn past_its_limit_the_agent_goes_back_only_when_somebody_asks_for_it() {
    let mut host = observed("1g 2g 3", "12", "2");
    let auto = |host: &_, auto| {
        let terms = WatchTerms { auto, ..WatchTerms::default() };
        let plan = plan(&Request { deploy: Some(terms), ..deploy_of("r3") }, host, at(5_000)).expect("it is planned");
        (plan.watch.is_some_and(|watch| watch.auto), plan.warnings.len())
    };
    host.automatic_rollbacks = 2;
    assert_eq!(
        (auto(&host, None), auto(&host, Some(true)), auto(&host, Some(false))),
        ((true, 0), (true, 0), (false, 0))
    );
    host.automatic_rollbacks = 3;
    assert_eq!((auto(&host, None), auto(&host, Some(true))), ((false, 1), (true, 0)));
}

#[test]
fn a_floor_is_passed_by_break_glass_alone() {
    let mut host = observed("1g 2g 3g", "123", "3");
    host.policy.floor = Some("2".parse().expect("a version"));
    let mut chosen = plan(&request(), &host, at(5_000)).expect("r2 is above it");
    assert_eq!(chosen.candidates, [id("r2")], "what is below it is no fallback either");
    host.policy.floor = Some("3".parse().expect("a version"));
    for (force, break_glass, passes) in
        [(false, false, false), (true, false, false), (false, true, false), (true, true, true)]
    {
        let to = Destination::Named("r2".to_owned());
        let asked = Request { to, force, break_glass, ..request() };
        match plan(&asked, &host, at(5_000)) {
            Ok(made) => {
                assert!(passes, "{asked:?}");
                chosen = made;
            }
            Err(refusal) => assert!(!passes && refusal.code() == "TARGET_UNFIT", "{refusal:?}"),
        }
    }
    assert!(chosen.warnings.iter().any(|warning| warning.contains("below the floor 3")), "{:?}", chosen.warnings);
    let emergency = Request { urgency: Urgency::Emergency, force: true, break_glass: true, ..request() };
    assert!(matches!(plan(&emergency, &host, at(5_000)), Err(Refusal::NoTarget { .. })), "nobody named it");
}

#[test]
fn what_is_not_left_by_itself_asks_and_the_answer_counts() {
    let watched = Watch { lasts_ms: 1_000, auto: true, ..ASKED };
    let severe = |severity, automatic_from, auto| {
        let watch = Watch { automatic_from, auto, ..watched };
        let before = Operation { phase: Phase::Watching, ..deploy(watch) };
        let mut end = super::step::judged(Verdict::ReleaseBad, true);
        if let EffectEnd::Judged { health, .. } = &mut end {
            health.probes[0].severity = severity;
        }
        let judged = done(&before, end);
        step(before, judged)
    };
    // The severity of what fails, from which severity it is automatic, whether it is: then.
    for (severity, from, auto, expected) in [
        (Severity::Critical, Severity::Critical, true, "stop r2"),
        (Severity::Critical, Severity::Critical, false, "ask r3"),
        (Severity::High, Severity::Critical, true, "ask r3"),
        (Severity::High, Severity::High, true, "stop r2"),
        (Severity::High, Severity::High, false, "ask r3"),
    ] {
        assert_eq!(told(&severe(severity, from, auto)), expected, "{severity:?}, {from:?}, {auto}");
    }
    let asking = severe(Severity::High, Severity::Critical, true);
    let answered = |back| {
        let end = EffectEnd::Decided { back, why: "alice said so".to_owned() };
        let decided = done(&asking, end);
        told(&step(asking.clone(), decided))
    };
    assert_eq!((answered(true), answered(false)), ("stop r2".to_owned(), "UNVERIFIED r3".to_owned()));
    assert!(undecided(&asking), "nobody answers at night");
    let stays = Operation {
        plan: crate::model::plan::Plan {
            watch: Some(Watch { undecided: Undecided::Stay, ..watched }),
            ..asking.plan.clone()
        },
        ..asking.clone()
    };
    assert!(!undecided(&stays) && !undecided(&severe(Severity::High, Severity::High, false)));
    let nobody = severe(Severity::Critical, Severity::Critical, false);
    let silent = Watch { ask_ms: 0, auto: false, ..watched };
    let mut alone = Operation { phase: Phase::Watching, ..deploy(silent) };
    let bad = done(&alone, super::step::judged(Verdict::ReleaseBad, true));
    alone = step(alone, bad);
    assert_eq!((told(&nobody), told(&alone)), ("ask r3".to_owned(), "UNVERIFIED r3".to_owned()));
    let begun = begin_asking(begin_asking(asking, moment(), 10), moment(), 99);
    assert_eq!(investigate(begun, 5).asked.map(|asked| asked.lasts_ms), Some(15), "asked once, put off once");
}

#[test]
fn an_alert_asks_and_never_goes_back_by_itself() {
    let watched = Watch { lasts_ms: 1_000, auto: true, ..ASKED };
    let waiting = Operation { phase: Phase::Watching, ..deploy(watched) };
    let alerted = alert(waiting, at(7_000), "alert (critical) by pager: checkout fails".to_owned());
    assert_eq!(told(&alerted), "ask r3");
    for (back, reason) in [(true, Some("watching `r3`: alert (critical) by pager: checkout fails")), (false, None)] {
        let decided = done(&alerted, EffectEnd::Decided { back, why: "alice".to_owned() });
        let found = condemned(&step(alerted.clone(), decided));
        assert_eq!(found.as_ref().map(|(_, reason)| reason.as_str()), reason, "what was left by word is bad");
    }
    assert_eq!(alert(alerted.clone(), at(7_000), "again".to_owned()), alerted);
    let busy = Operation { phase: Phase::Starting, ..deploy(watched) };
    assert_eq!(alert(busy.clone(), at(7_000), "too early".to_owned()), busy);
    // Without a deploy it is a rollback that asks first.
    let plan = plan(&request(), &observed("1g 2g 3", "123", "3"), at(5_000)).expect("it is planned");
    let asking = begin_alerted(plan, "pager".to_owned(), at(6_000), "alert (high): checkout fails".to_owned());
    assert_eq!((told(&asking), asking.trigger), ("ask r3".to_owned(), Trigger::Alert));
    assert!(!undecided(&asking), "it never goes back by itself");
    for (back, expected) in [(true, "stop r2"), (false, "BACK r3")] {
        let decided = done(&asking, EffectEnd::Decided { back, why: "alice".to_owned() });
        assert_eq!(told(&step(asking.clone(), decided)), expected);
    }
}
