//! Decides what a failure leads to: one table from failures to severities, and one from severities to actions.
//!
//! | severity | the rollback is automatic from it | otherwise |
//! |---|---|---|
//! | critical | roll back | ask |
//! | high | roll back | ask |
//! | medium | warn | warn |
//! | low | note | note |
//!
//! An alert from outside never rolls back by itself: what would roll back asks.

use crate::model::decision::{Action, Severity};
use crate::model::health::{Answer, Health, UnitActive, Weight};
use crate::model::watch::Watch;

/// A kind of failure, its severity unless a probe's own `severity` says otherwise, and what it is.
pub const FAILURES: [(&str, Severity, &str); 11] = [
    ("unit", Severity::Critical, "a unit does not run, was restarted, or has another main process or start"),
    ("http", Severity::Critical, "an `http` probe fails so many times in a row"),
    ("tcp", Severity::Critical, "a `tcp` probe fails so many times in a row"),
    ("exec", Severity::Critical, "an `exec` probe, a configuration check or a connection to a database, fails"),
    ("log", Severity::Critical, "a critical line stands in the journal of the units too often"),
    ("error rate", Severity::Critical, "a `metric` probe finds too many errors for too long"),
    ("latency", Severity::High, "a `metric` probe finds a quantile too high for too long"),
    ("query", Severity::High, "a query to a Prometheus server gives too much for too long"),
    ("resource", Severity::High, "memory or CPU is too much, or grows too fast"),
    ("smoke", Severity::Critical, "a smoke check fails"),
    ("advisory", Severity::Low, "an advisory probe fails"),
];

/// Gives the severity of a kind of failure.
#[must_use]
pub fn severity(kind: &str) -> Severity {
    FAILURES.iter().find(|(known, _, _)| *known == kind).map_or(Severity::Critical, |(_, severity, _)| *severity)
}

/// Gives what a failure of that severity leads to when the automatic rollback covers it from `automatic_from` on, if at all.
#[must_use]
pub fn action(severity: Severity, automatic_from: Option<Severity>) -> Action {
    match severity {
        Severity::Critical | Severity::High if automatic_from.is_some_and(|from| severity >= from) => Action::RollBack,
        Severity::Critical | Severity::High => Action::Ask,
        Severity::Medium => Action::Warn,
        Severity::Low => Action::Note,
    }
}

/// Gives what the failures of a deployed release lead to.
#[must_use]
pub fn of_watch(watch: Watch, health: &Health) -> Action {
    action(worst(health), watch.auto.then_some(watch.automatic_from))
}

/// Gives the severity of the worst that fails: of a unit, whatever its state says; else of the required probes.
///
/// A unit that runs again after a restart shows no failure by itself, so what fails nowhere else is the units' failure.
fn worst(health: &Health) -> Severity {
    if health.units.iter().any(|unit| unit.active != UnitActive::Active) {
        return severity("unit");
    }
    let failing = health.probes.iter().filter(|probe| {
        probe.weight == Weight::Required && probe.answer == Answer::Failed && probe.severity >= Severity::High
    });
    failing.map(|probe| probe.severity).max().unwrap_or_else(|| severity("unit"))
}
