//! The table of retention, and the order of versions.

use super::{at, id, observed};
use crate::engine::floor::{is_above, is_floor};
use crate::engine::retain::{Surroundings, Verdict, judge};
use crate::engine::target::{choose, fit};
use crate::model::host::ObservedComponent;
use crate::model::policy::Retention;

fn around() -> Surroundings {
    Surroundings { held: Vec::new(), is_short: false, now: at(2_000) }
}

#[test]
fn every_release_follows_the_table() {
    use Verdict::{Found, Good, Held, Pinned, Runs, Space, Stale, Surplus, Target, Young};
    const HOUR: i64 = 3_600;
    // Seven releases, 5 runs, all activated in order but the last two, which are never verified; two good ones are kept.
    let mut host = observed("1g 2gp 3gp 4gp 5gp 6p 7", "12345", "5");
    host.policy.fallbacks_max = 0;
    host.policy.retention = Retention { good_max: 2, unverified_secs: 30 * 24 * 3_600, adopted: false };
    let told = |host: &ObservedComponent, around: &Surroundings| -> Vec<Verdict> {
        judge(host, &fit(host), around).into_iter().map(|(_, verdict)| verdict).collect()
    };
    assert_eq!(told(&host, &around()), [Found, Surplus, Surplus, Target, Runs, Young, Found]);
    host.policy.retention.good_max = 4;
    assert_eq!(told(&host, &around()), [Found, Good, Good, Target, Runs, Young, Found]);
    host.policy.retention.good_max = 1;
    host.releases[1].pinned = true;
    let held = Surroundings { held: vec![id("r3")], ..around() };
    assert_eq!(told(&host, &held), [Found, Pinned, Held, Target, Runs, Young, Found]);
    host.policy.retention.adopted = true;
    assert_eq!(told(&host, &held), [Surplus, Pinned, Held, Target, Runs, Young, Young]);
    let short = Surroundings { is_short: true, ..around() };
    assert_eq!(told(&host, &short)[5..], [Young, Young], "somebody may be about to deploy it");
    let short = Surroundings { now: at(2_000 + HOUR), ..short };
    assert_eq!(told(&host, &short)[5..], [Space, Space]);
    let later = Surroundings { now: at(2_000 + 31 * 24 * HOUR), ..around() };
    assert_eq!(told(&host, &later)[5..], [Stale, Stale]);
}

#[test]
fn what_runs_and_where_a_rollback_would_go_always_stays() {
    for current in ["1", "2", "3", "4"] {
        for good_max in 1..4 {
            for flags in ["1gp 2gp 3gp 4gp", "1p 2gp 3p 4p", "1p 2p 3p 4p", "1gp 2gpq 3gpd 4p"] {
                let mut host = observed(flags, "1234", current);
                host.policy.retention = Retention { good_max, unverified_secs: 0, adopted: true };
                let target = choose(&super::request(), &host).ok().map(|choice| choice.target);
                let removed = judge(&host, &fit(&host), &around());
                let removed: Vec<_> = removed.iter().filter(|(_, verdict)| verdict.is_removed()).collect();
                assert!(removed.iter().all(|(id, _)| Some(id) != target.as_ref()), "{flags}, {current}: {removed:?}");
                assert!(removed.iter().all(|(id, _)| Some(id) != host.current.release()));
            }
        }
    }
}

#[test]
fn versions_are_ordered_by_their_numbers() {
    let version = |text: &str| text.parse().expect("a version");
    for (below, above) in
        [("2.4.0", "2.10.0"), ("2.4", "2.4.1"), ("2.4.0-rc1", "2.4.0"), ("v1.9", "2"), ("2.4.0-rc1", "2.4.1-rc1")]
    {
        assert!(is_above(Some(&version(above)), &version(below)), "{above} >= {below}");
        assert!(!is_above(Some(&version(below)), &version(above)), "{below} < {above}");
    }
    for (one, same) in [("2.4.0", "2.4"), ("v2.4.0", "2.4.0"), ("2.4.0+build5", "2.4.0")] {
        assert!(is_above(Some(&version(one)), &version(same)) && is_above(Some(&version(same)), &version(one)));
    }
    for unknown in ["main", "backup_20241112", "2.x"] {
        assert!(!is_above(Some(&version(unknown)), &version("1")) && !is_floor(&version(unknown)));
    }
    assert!(!is_above(None, &version("1")));
}
