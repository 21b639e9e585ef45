//! Lines of the history and what is counted of them.

use std::collections::BTreeMap;

use super::{at, id, operation, operation_id};
use crate::engine::history::line;
use crate::engine::stats::{Counts, count};
use crate::engine::step::supersede;
use crate::model::health::Verdict;
use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::record::{HistoryLine, ResultWord};

fn ended(outcome: Outcome) -> Operation {
    Operation { phase: Phase::Ended { outcome }, ..operation(&["r2"], Some("r3"), true) }
}

fn lines_of(outcomes: Vec<Outcome>) -> Vec<HistoryLine> {
    outcomes.into_iter().filter_map(|outcome| line(&ended(outcome), at(6_002))).collect()
}

fn done() -> Outcome {
    Outcome::Done { release: id("r2") }
}

fn put_back() -> Outcome {
    Outcome::PutBack { release: id("r3"), cause: "no start".to_owned() }
}

#[test]
fn a_line_tells_how_an_operation_ended() {
    let unverified =
        Outcome::Unverified { release: id("r2"), verdict: Verdict::Inconclusive, cause: "unknown".to_owned() };
    let needs = Outcome::NeedsOperator { release: None, cause: "no disk".to_owned() };
    let superseded = Outcome::Superseded { by: operation_id(9) };
    for (outcome, result, to, cause) in [
        (done(), ResultWord::Done, Some("r2"), None),
        (unverified, ResultWord::Unverified, Some("r2"), Some("unknown")),
        (put_back(), ResultWord::PutBack, Some("r3"), Some("no start")),
        (needs, ResultWord::NeedsOperator, None, Some("no disk")),
        (superseded, ResultWord::Superseded, None, None),
    ] {
        let line = line(&ended(outcome), at(6_002)).expect("it has ended");
        assert_eq!((line.result, line.to, line.cause.as_deref()), (result, to.map(id), cause));
        assert_eq!((line.at, line.duration_ms), (at(6_000), 2_000));
        assert_eq!((line.from, line.reason.as_deref()), (Some(id("r3")), Some("5xx since the deploy")));
    }
}

#[test]
fn a_running_operation_has_no_line_and_a_clock_set_back_gives_no_negative_duration() {
    let running = operation(&["r2"], Some("r3"), true);
    assert_eq!(line(&running, at(6_002)), None);
    let ended = supersede(running, operation_id(9));
    assert_eq!(line(&ended, at(5_000)).map(|line| line.duration_ms), Some(0));
}

#[test]
fn refused_and_superseded_operations_do_not_lower_the_success_rate() {
    let mut lines = lines_of(vec![done(), done(), done(), put_back(), Outcome::Superseded { by: operation_id(9) }]);
    lines.push(HistoryLine { result: ResultWord::Refused, environment: None, ..lines[0].clone() });
    lines.push(HistoryLine { result: ResultWord::Refused, ..lines[0].clone() });
    let counts = count(&lines);
    let prod = &counts[&"prod".parse().expect("valid")];
    assert_eq!(counts.len(), 1);
    assert_eq!(prod.success_rate(), Some(0.75));
    assert_eq!(prod.durations_ms, [2_000, 2_000, 2_000]);
    assert_eq!(prod.reasons, BTreeMap::from([("5xx since the deploy".to_owned(), 6)]));
    assert_eq!(prod.results[&ResultWord::Refused], 1);
    assert_eq!(Counts::default().success_rate(), None);
}

#[test]
fn counts_of_two_hosts_add_up() {
    let lines = lines_of(vec![done(), put_back(), done()]);
    let all = count(&lines);
    let mut merged = count(&lines[..1]).remove(&"prod".parse().expect("valid")).expect("counted");
    merged.merge(count(&lines[1..]).remove(&"prod".parse().expect("valid")).expect("counted"));
    assert_eq!(Some(&merged), all.values().next());
}

#[test]
fn percentiles_are_durations_that_were_measured() {
    let counts = |durations_ms: Vec<u64>| Counts { durations_ms, ..Counts::default() };
    let hundred = counts((1..=100).rev().collect());
    for (p, expected) in [(0.0, 1), (1.0, 1), (50.0, 50), (95.0, 95), (99.0, 99), (99.5, 100), (100.0, 100)] {
        assert_eq!(hundred.percentile(p), Some(expected), "{p}");
    }
    assert_eq!(counts(vec![7]).percentile(50.0), Some(7));
    assert_eq!(counts(vec![]).percentile(50.0), None);
    assert_eq!(hundred.percentile(f64::NAN), None);
    assert_eq!(hundred.percentile(101.0), None);
}
