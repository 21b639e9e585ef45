//! The tables of failures and of actions.

use crate::engine::trigger::{FAILURES, action, severity};
use crate::model::decision::{Action, Severity};

#[test]
fn every_severity_leads_to_what_the_table_says() {
    use Action::{Ask, Note, RollBack, Warn};
    // Automatic from critical · from high · not automatic.
    let table = [
        (Severity::Critical, [RollBack, RollBack, Ask]),
        (Severity::High, [Ask, RollBack, Ask]),
        (Severity::Medium, [Warn, Warn, Warn]),
        (Severity::Low, [Note, Note, Note]),
    ];
    assert_eq!(table.map(|(severity, _)| severity), {
        let mut all = Severity::ALL;
        all.reverse();
        all
    });
    for (severity, expected) in table {
        let found = [Some(Severity::Critical), Some(Severity::High), None].map(|from| action(severity, from));
        assert_eq!(found, expected, "{severity:?}");
    }
}

#[test]
fn every_kind_of_failure_stands_once_in_the_table() {
    let mut kinds: Vec<&str> = FAILURES.iter().map(|(kind, _, _)| *kind).collect();
    kinds.sort_unstable();
    let all = kinds.len();
    kinds.dedup();
    assert_eq!(kinds.len(), all);
    assert_eq!((severity("latency"), severity("what nobody knows")), (Severity::High, Severity::Critical));
}
