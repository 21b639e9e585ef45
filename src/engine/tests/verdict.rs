//! Verdicts as a table.

use super::{health, probe, unit};
use crate::engine::verdict::{is_healthy, judge, judge_at_end};
use crate::model::health::{Answer, Health, ProbeResult, UnitActive, UnitState, Verdict, Weight};

fn of(units: Vec<UnitState>, probes: Vec<ProbeResult>) -> Health {
    Health { units, probes }
}

fn changed(change: impl Fn(&mut UnitState)) -> Vec<UnitState> {
    let mut unit = unit("web.service");
    change(&mut unit);
    vec![unit]
}

fn advisory(name: &str, passed: bool) -> ProbeResult {
    ProbeResult { weight: Weight::Advisory, ..probe(name, passed) }
}

#[test]
fn verdicts_follow_the_table() {
    use Verdict::{EnvironmentBad, Inconclusive, Passing, ReleaseBad};
    let up = || vec![unit("web.service")];
    // Why, probes before, units after, probes after, the verdict and a word of the cause.
    let table = [
        ("units alone", vec![], up(), vec![], Passing, ""),
        ("all pass", vec![probe("http", true)], up(), vec![probe("http", true)], Passing, ""),
        ("mended", vec![probe("http", false)], up(), vec![probe("http", true)], Passing, ""),
        ("newly fails", vec![probe("http", true)], up(), vec![probe("http", false)], ReleaseBad, "HTTP 500"),
        ("still fails", vec![probe("http", false)], up(), vec![probe("http", false)], EnvironmentBad, "as before"),
        ("never asked before", vec![], up(), vec![probe("http", false)], ReleaseBad, "`http`"),
        (
            "an advisory probe before does not excuse",
            vec![advisory("http", false)],
            up(),
            vec![probe("http", false)],
            ReleaseBad,
            "`http`",
        ),
        ("advisory only reports", vec![], up(), vec![advisory("latency", false)], Passing, ""),
        ("not asked after", vec![probe("http", true)], up(), vec![], Inconclusive, "was not asked"),
        ("unit unknown after", vec![], vec![], vec![], Inconclusive, "`web.service` is not known"),
        ("unit failed", vec![], changed(|u| u.active = UnitActive::Failed), vec![], ReleaseBad, "failed"),
        ("unit inactive", vec![], changed(|u| u.active = UnitActive::Inactive), vec![], ReleaseBad, "not running"),
        ("unit starting", vec![], changed(|u| u.active = UnitActive::Activating), vec![], ReleaseBad, "starting"),
        ("unit stopping", vec![], changed(|u| u.active = UnitActive::Deactivating), vec![], ReleaseBad, "stopping"),
        ("restarted", vec![], changed(|u| u.restarts = 1), vec![], ReleaseBad, "restarted by its manager"),
        ("started again", vec![], changed(|u| u.invocation = "b".repeat(32)), vec![], ReleaseBad, "started again"),
        ("other process", vec![], changed(|u| u.main_pid = Some(8)), vec![], ReleaseBad, "main process"),
        (
            "bad release outranks bad environment",
            vec![probe("http", true), probe("db", false)],
            up(),
            vec![probe("http", false), probe("db", false)],
            ReleaseBad,
            "`http`",
        ),
        (
            "a bad environment does not excuse a unit",
            vec![probe("db", false)],
            changed(|u| u.restarts = 1),
            vec![probe("db", false)],
            ReleaseBad,
            "restarted",
        ),
    ];
    for (why, before, units, after, verdict, word) in table {
        let (judged, cause) = judge(&of(up(), before), &of(units, after), &up());
        assert_eq!(judged, verdict, "{why}: {cause}");
        assert!(cause.contains(word), "{why}: {cause}");
        assert_eq!(cause.is_empty(), judged == Passing, "{why}: {cause}");
    }
}

#[test]
fn what_cannot_be_told_counts_at_the_end_alone() {
    let open = |weight| ProbeResult { weight, answer: Answer::Undecided, ..probe("errors", false) };
    let up = || vec![unit("web.service")];
    let before = of(up(), vec![open(Weight::Required)]);
    let after = of(up(), vec![probe("http", true), open(Weight::Required)]);
    assert_eq!(judge(&before, &after, &up()).0, Verdict::Passing);
    let (verdict, cause) = judge_at_end(&before, &after, &up());
    assert_eq!((verdict, cause.as_str()), (Verdict::Inconclusive, "probe `errors` cannot tell: HTTP 500"));
    assert!(is_healthy(&after));
    let advisory = of(up(), vec![probe("http", true), open(Weight::Advisory)]);
    assert_eq!(judge_at_end(&of(up(), vec![]), &advisory, &up()).0, Verdict::Passing);
    // Before the change nothing was known: that is no excuse.
    let failed = of(up(), vec![probe("errors", false)]);
    assert_eq!(judge_at_end(&before, &failed, &up()).0, Verdict::ReleaseBad);
}

#[test]
fn nothing_to_ask_proves_nothing() {
    assert_eq!(judge(&of(vec![], vec![]), &of(vec![], vec![]), &[]).0, Verdict::Inconclusive);
}

#[test]
fn a_component_is_healthy_when_units_run_and_required_probes_pass() {
    assert!(is_healthy(&health(true)));
    assert!(!is_healthy(&health(false)));
    assert!(is_healthy(&of(vec![unit("web.service")], vec![advisory("latency", false)])));
    assert!(!is_healthy(&of(changed(|u| u.active = UnitActive::Failed), vec![probe("http", true)])));
}
