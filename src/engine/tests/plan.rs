//! Guards, facts and plans.

use super::{at, health, id, observed, operation_id, request, unit};
use crate::engine::plan::{changes, facts, plan};
use crate::model::health::{UnitActive, UnitLoad};
use crate::model::host::{Configuration, Current, Lease, ObservedComponent, fence};
use crate::model::operation::{Destination, OperationType, Request, Urgency};
use crate::model::release::Integrity;

fn host() -> ObservedComponent {
    observed("1g 2g 3", "123", "3")
}

fn emergency() -> Request {
    Request { urgency: Urgency::Emergency, reason: None, ..request() }
}

fn lease(operation: u8, expires: i64) -> Lease {
    Lease {
        environment: "prod".parse().expect("valid"),
        operation: operation_id(operation),
        holder: "local:uid=0".to_owned(),
        reason: "another rollback".to_owned(),
        since: at(4_000),
        expires: at(expires),
        gives_way: false,
    }
}

fn code(request: &Request, observed: &ObservedComponent) -> &'static str {
    plan(request, observed, at(5_000)).map_or_else(|refusal| refusal.code(), |_| "planned")
}

#[test]
fn a_plan_says_everything_that_a_run_needs() {
    let observed = host();
    let plan = plan(&request(), &observed, at(5_000)).expect("nothing stands against it");
    assert_eq!(plan.operation_type, OperationType::Previous);
    assert_eq!(plan.from, Some(id("r3")));
    assert_eq!(plan.candidates, [id("r2"), id("r1")]);
    assert_eq!(plan.made_at, at(5_000));
    assert_eq!(plan.baseline, observed.health);
    assert_eq!(plan.fence, fence(&facts(&observed)));
    assert!(plan.configuration);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let checks: Vec<_> = plan.checks.iter().map(|check| format!("{}: {}", check.name, check.found)).collect();
    assert_eq!(
        checks,
        [
            "integrity: `r2` is intact, last read in full at 1970-01-01T00:50:00Z",
            "configuration: the configuration of `r2` is at hand and stands",
            "units: `web.service`, `worker.service` can be started",
            "lease: free",
            "baseline: 2 of 2 units active; 1 of 1 required probes pass",
        ]
    );
}

#[test]
fn guards_follow_the_table() {
    let with = |change: &dyn Fn(&mut ObservedComponent)| {
        let mut observed = host();
        change(&mut observed);
        observed
    };
    let load = |load| move |o: &mut ObservedComponent| o.health.units[1].load = load;
    // Why, the host, and the answers to a standard request and to an emergency.
    let table = [
        ("nothing stands against it", host(), "planned", "planned"),
        ("a directory as current", with(&|o| o.current = Current::NotALink), "CURRENT_UNUSABLE", "CURRENT_UNUSABLE"),
        ("no current", with(&|o| o.current = Current::Missing), "planned", "planned"),
        ("a masked unit", with(&load(UnitLoad::Masked)), "UNIT_UNUSABLE", "UNIT_UNUSABLE"),
        ("an unknown unit", with(&load(UnitLoad::NotFound)), "UNIT_UNUSABLE", "UNIT_UNUSABLE"),
        ("a broken unit file", with(&load(UnitLoad::Error)), "UNIT_UNUSABLE", "UNIT_UNUSABLE"),
        ("held", with(&|o| o.lease = Some(lease(2, 5_001))), "HELD", "planned"),
        ("a lease that ran out", with(&|o| o.lease = Some(lease(2, 5_000))), "planned", "planned"),
        ("its own lease", with(&|o| o.lease = Some(lease(1, 5_001))), "planned", "planned"),
        ("no target", with(&|o| o.releases.clear()), "NO_TARGET", "NO_TARGET"),
        ("policy wants force", with(&|o| o.policy.healthy_needs_force = true), "FORCE_NEEDED", "planned"),
    ];
    for (why, observed, standard, in_emergency) in table {
        assert_eq!(code(&request(), &observed), standard, "{why}");
        assert_eq!(code(&emergency(), &observed), in_emergency, "emergency: {why}");
    }
}

#[test]
fn leaving_a_healthy_release_needs_a_reason_and_leaving_a_failing_one_does_not() {
    let silent = Request { reason: None, ..request() };
    assert_eq!(code(&silent, &host()), "REASON_NEEDED");
    let mut failing = host();
    failing.health = health(false);
    assert_eq!(code(&silent, &failing), "planned");
    failing.policy.healthy_needs_force = true;
    assert_eq!(code(&silent, &failing), "planned");
    let mut down = host();
    down.health.units[0].active = UnitActive::Failed;
    assert_eq!(code(&silent, &down), "planned");
    let mut nowhere = host();
    nowhere.current = Current::Dangling("gone".to_owned());
    assert_eq!(code(&silent, &nowhere), "planned");
    let mut strict = host();
    strict.policy.healthy_needs_force = true;
    assert_eq!(code(&Request { force: true, ..request() }, &strict), "planned");
    assert_eq!(code(&Request { force: true, ..silent }, &strict), "REASON_NEEDED");
}

#[test]
fn an_emergency_takes_a_lease_over_and_says_so() {
    let mut observed = host();
    observed.lease = Some(lease(2, 9_000));
    let plan = plan(&emergency(), &observed, at(5_000)).expect("an emergency passes a lease");
    assert_eq!(plan.takes_over, Some(operation_id(2)));
    assert_eq!(plan.warnings, [format!("the lease of operation {} is taken over", operation_id(2))]);
    assert_eq!(plan.operation_type, OperationType::Emergency);
}

#[test]
fn a_plan_warns_when_nothing_could_be_put_back() {
    let mut observed = host();
    observed.current = Current::Outside("/srv/old".to_owned());
    let outside = plan(&request(), &observed, at(5_000)).expect("planned");
    assert!(outside.warnings[0].contains("nothing to put back"), "{:?}", outside.warnings);
    let mut observed = host();
    observed.releases[2].configuration = Configuration::Missing("gone".to_owned());
    let unconfigured = plan(&request(), &observed, at(5_000)).expect("planned");
    assert!(unconfigured.warnings[0].contains("`r3` could not be put back"), "{:?}", unconfigured.warnings);
}

#[test]
fn facts_do_not_move_by_themselves() {
    let before = facts(&host());
    let mut later = host();
    later.releases.reverse();
    later.observed_at = at(9_000);
    later.lease = Some(lease(3, 9_000));
    later.health.probes.clear();
    later.health.units[0].main_pid = Some(99);
    later.health.units[0].active = UnitActive::Failed;
    later.releases[0].integrity = Integrity::Intact { read_at: at(8_000) };
    assert_eq!(facts(&later), before);
    assert!(changes(&before, &facts(&later)).is_empty());
}

#[test]
fn every_change_that_counts_is_told_by_name() {
    let with = |change: &dyn Fn(&mut ObservedComponent)| {
        let mut observed = host();
        change(&mut observed);
        changes(&facts(&host()), &facts(&observed))
    };
    let only = |changes: Vec<String>| {
        assert_eq!(changes.len(), 1, "{changes:?}");
        changes.into_iter().next().expect("there is one")
    };
    let current = only(with(&|o| o.current = Current::Release(id("r2"))));
    assert_eq!(current, "current: was leads to release `r3`, is leads to release `r2`");
    assert!(only(with(&|o| drop(o.releases.remove(0)))).ends_with("is gone"));
    assert!(only(with(&|o| o.releases.push(super::release("7")))).starts_with("release r7: was not there, is tree "));
    let damaged = only(with(&|o| o.releases[1].integrity = Integrity::Unknown { why: "x".to_owned() }));
    assert!(damaged.starts_with("release r2: was tree") && damaged.contains("not provable"), "{damaged}");
    assert!(only(with(&|o| o.releases[1] = super::release("2gq"))).contains("quarantined"));
    assert!(only(with(&|o| o.releases[1] = super::release("2"))).contains("never verified"));
    assert!(only(with(&|o| o.releases[1] = super::release("2gc"))).contains("configuration missing"));
    assert!(only(with(&|o| drop(o.activations.pop()))).starts_with("last activation: was 3, is 2"));
    assert!(
        only(with(&|o| o.health.units[0].load = UnitLoad::Masked)).contains("unit web.service: was loaded, is masked")
    );
    assert!(only(with(&|o| o.health.units.push(unit("new.service")))).starts_with("unit new.service: was not there"));
    assert!(only(with(&|o| o.policy.fallbacks_max = 2)).starts_with("policy: was 1 fallbacks"));
}

#[test]
fn a_named_target_is_specific() {
    let named = Request { to: Destination::Named("v1".to_owned()), ..request() };
    let plan = plan(&named, &host(), at(5_000)).expect("planned");
    assert_eq!((plan.operation_type, plan.target_release()), (OperationType::Specific, Some(&id("r1"))));
}
