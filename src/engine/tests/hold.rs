//! How long a probe must fail, as a table, and that no order of results makes it count early.

use jiff::Timestamp;
use proptest::prelude::*;

use super::{operation, probe};
use crate::engine::hold::{Failing, GAP_MS, Holding, hold};
use crate::engine::step::{begin_watch, note_failing};
use crate::model::health::{Answer, Health, ProbeResult};
use crate::model::watch::Moment;

fn at(boot: &str, second: u64) -> Moment {
    let wall = i64::try_from(second).expect("a small number");
    Moment {
        boot: boot.to_owned(),
        since_boot_ms: second * 1_000,
        at: Timestamp::from_second(1_000_000 + wall).expect("in range"),
    }
}

fn result(answer: Answer) -> ProbeResult {
    ProbeResult { answer, ..probe("errors", true) }
}

#[test]
fn a_probe_counts_when_it_has_failed_for_its_time() {
    use Answer::{Failed, Passed, Undecided};
    let failing = |since, seen| Some(Failing { since: at("a", since), seen: at("a", seen) });
    let gap = GAP_MS / 1_000;
    // Why, what it says, for how long it must, what was kept, what counts, since when it fails then.
    let table = [
        ("it passes", Passed, 60, failing(0, 100), Passed, None),
        ("it begins to fail", Failed, 60, None, Undecided, Some(100)),
        ("it needs no time", Failed, 0, None, Failed, Some(100)),
        ("it fails on", Failed, 60, failing(41, 99), Undecided, Some(41)),
        ("it has failed for its time", Failed, 60, failing(40, 99), Failed, Some(40)),
        ("it cannot tell", Undecided, 60, None, Undecided, None),
        ("it cannot tell for a moment", Undecided, 60, failing(0, 90), Undecided, Some(0)),
        ("it cannot tell for long", Undecided, 60, failing(0, 0), Undecided, Some(0).filter(|_| gap >= 100)),
    ];
    for (why, answer, for_secs, kept, counts, since) in table {
        let (judged, keeps) = hold(result(answer), for_secs * 1_000, kept, &at("a", 100));
        assert_eq!(judged.answer, counts, "{why}");
        assert_eq!(keeps.map(|failing| failing.since), since.map(|second| at("a", second)), "{why}");
    }
    let (_, lost) = hold(result(Undecided), 60_000, failing(0, 0), &at("a", gap + 1));
    assert_eq!(lost, None);
}

#[test]
fn the_time_goes_on_over_a_reboot() {
    let since = Failing { since: at("a", 100), seen: at("a", 100) };
    let after = Moment { since_boot_ms: 5, ..at("b", 400) };
    let (judged, _) = hold(result(Answer::Failed), 300_000, Some(since), &after);
    assert_eq!((judged.answer, judged.detail.as_str()), (Answer::Failed, "HTTP 200, for 5m"));
}

#[test]
fn a_watch_keeps_since_when_a_probe_fails_and_goes_on_with_it() {
    use Answer::{Failed, Passed, Undecided};
    let mut holding = Holding::default();
    let mut health = Health { units: Vec::new(), probes: Vec::new() };
    // What it says and when, what counts in the health then, what is to be kept.
    let table = [
        (Undecided, 10, Undecided, None),
        (Passed, 11, Passed, None),
        // Without data it has passed still.
        (Undecided, 12, Passed, None),
        (Failed, 13, Undecided, Some(Some(13))),
        (Failed, 14, Undecided, None),
        (Undecided, 15, Undecided, None),
        (Passed, 16, Passed, Some(None)),
        (Failed, 20, Undecided, Some(Some(20))),
        (Failed, 80, Failed, None),
    ];
    for (answer, now, counts, kept) in table {
        let kept = kept.map(|since| (result(answer).name, since.map(|second| at("a", second))));
        assert_eq!(holding.take(&mut health, result(answer), 60_000, &at("a", now)), kept, "{now}");
        assert_eq!(health.probes.iter().map(|probe| probe.answer).collect::<Vec<_>>(), [counts], "{now}");
    }
    // One that needs no time has nothing to go on with.
    assert_eq!(Holding::default().take(&mut health, result(Failed), 0, &at("a", 90)), None);
    // The next agent, an hour later.
    let watched = note_failing(
        begin_watch(operation(&["b"], Some("a"), true), at("a", 5)),
        result(Failed).name,
        Some(at("a", 20)),
    );
    let mut next = Holding::resume(&watched, &at("b", 4_000));
    assert_eq!(next.take(&mut health, result(Undecided), 60_000, &at("b", 4_001)), None);
    assert_eq!(next.take(&mut health, result(Failed), 60_000, &at("b", 4_002)), None);
    assert_eq!(health.probes[0].answer, Failed);
    let healed = note_failing(watched, result(Passed).name, None);
    assert!(healed.watched.is_some_and(|watched| watched.failing.is_empty()));
}

proptest! {
    #[test]
    fn it_never_counts_before_it_was_seen_failing_for_its_time(
        answers in prop::collection::vec((0_u8..3, 1_u64..90), 1..40), for_secs in 1_u64..300,
    ) {
        let (mut now, mut kept, mut first) = (0, None, None);
        for (answer, step) in answers {
            now += step;
            let answer = [Answer::Passed, Answer::Failed, Answer::Undecided][usize::from(answer)];
            match answer {
                Answer::Passed => first = None,
                Answer::Failed => { first.get_or_insert(now); }
                Answer::Undecided => {}
            }
            let (judged, keeps) = hold(result(answer), for_secs * 1_000, kept, &at("a", now));
            kept = keeps;
            if judged.answer == Answer::Failed {
                prop_assert!(first.is_some_and(|first| now - first >= for_secs));
            }
            prop_assert_eq!(judged.answer == Answer::Passed, answer == Answer::Passed);
        }
    }
}
