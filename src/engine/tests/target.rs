//! The choice of the release to go back to, as a table and for random histories.

use proptest::prelude::*;

use super::{observed, request};
use crate::engine::target::choose;
use crate::model::host::ObservedComponent;
use crate::model::operation::Destination;
use crate::model::refusal::{PassedOver, Refusal, Unfit};
use crate::model::release::Integrity;

fn unfit(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::IsCurrent => "current",
        Unfit::NeverVerified => "unverified",
        Unfit::Quarantined { .. } => "quarantined",
        Unfit::Damaged { .. } => "damaged",
        Unfit::IntegrityUnknown { .. } => "unknown",
        Unfit::ConfigurationMissing { .. } => "unconfigured",
        Unfit::BelowFloor { .. } => "too old",
        Unfit::Gone => "gone",
    }
}

fn over(passed_over: &[PassedOver]) -> String {
    passed_over.iter().map(|passed| format!(" -{} {}", passed.release, unfit(&passed.unfit))).collect()
}

/// Tells a choice in one line: target, fallbacks, `-` each release passed over, `!` each warning's release.
fn told(to: &str, force: bool, observed: &ObservedComponent) -> String {
    let mut request = request();
    request.force = force;
    if !to.is_empty() {
        request.to = Destination::Named(to.to_owned());
    }
    match choose(&request, observed) {
        Ok(choice) => {
            let fallbacks: String = choice.fallbacks.iter().map(|id| format!(" {id}")).collect();
            let warnings: String = choice.warnings.iter().map(|text| format!(" !{}", &text[1..3])).collect();
            format!("{}{fallbacks}{}{warnings}", choice.target, over(&choice.passed_over))
        }
        Err(Refusal::NoTarget { passed_over }) => format!("NO_TARGET{}", over(&passed_over)),
        Err(Refusal::TargetUnfit { unfit: why, forceable, .. }) => {
            format!("TARGET_UNFIT {}{}", unfit(&why), if forceable { ", forceable" } else { "" })
        }
        Err(other) => other.code().to_owned(),
    }
}

#[test]
fn the_target_follows_the_table() {
    // Why, releases, activations, current, and what is chosen for `previous`.
    let table = [
        ("the one before", "1g 2g 3", "123", "3", "r2 r1"),
        ("a good current release changes nothing", "1g 2g 3g", "123", "3", "r2 r1"),
        ("never verified is passed over", "1g 2 3", "123", "3", "r1 -r2 unverified"),
        ("damaged is passed over", "1g 2gd 3", "123", "3", "r1 -r2 damaged"),
        ("unknown integrity is passed over", "1g 2gu 3", "123", "3", "r1 -r2 unknown"),
        ("quarantined is passed over", "1g 2gq 3", "123", "3", "r1 -r2 quarantined"),
        ("missing configuration is passed over", "1g 2gc 3", "123", "3", "r1 -r2 unconfigured"),
        ("gone is passed over", "1g 3", "123", "3", "r1 -r2 gone"),
        ("damage outranks quarantine", "1g 2gdq 3", "123", "3", "r1 -r2 damaged"),
        ("fallbacks skip the unfit as well", "1g 2gd 3g 4", "1234", "4", "r3 r1 -r2 damaged"),
        ("fallbacks are bounded", "1g 2g 3g 4", "1234", "4", "r3 r2"),
        ("age does not decide", "1g^ 2g 3", "123", "3", "r2 r1"),
        ("names do not decide", "9g 2g 3", "293", "3", "r9 r2"),
        ("only what was activated counts", "1g 2g 3 7g", "123", "3", "r2 r1"),
        ("activated twice counts once", "1g 2g 3", "12123", "3", "r2 r1"),
        ("what came after the current release is out", "1g 2g 3 4g", "1234", "3", "r2 r1"),
        ("after going back it goes further back", "1g 2g 3g", "1232", "2", "r1 r3 !r3"),
        ("with nothing older it returns to what was left", "2g 3g", "232", "2", "r3 !r3"),
        ("without a current release the last one that ran", "1g 2g", "12", "", "r2 r1"),
        ("an unrecorded current release", "1g 2g 3", "12", "3", "r2 r1"),
        ("all unfit", "1gd 2gq 3", "123", "3", "NO_TARGET -r2 quarantined -r1 damaged -r3 current"),
        ("one release", "3", "3", "3", "NO_TARGET -r3 current"),
        ("nothing at all", "", "", "", "NO_TARGET"),
        ("adopted: the newest before the current one", "1 2 3 4", "3", "3", "r2 r1 !r2 !r1"),
        ("adopted: no current release, the newest", "1 2 3", "", "", "r3 r2 !r3 !r2"),
        ("adopted: the current one was good", "1 2 3g", "3", "3", "r2 r1 !r2 !r1"),
        ("adopted: damaged and quarantined", "1 2q 3d 4", "4", "4", "r1 -r3 damaged -r2 quarantined !r1"),
        ("adopted: pushed ones were never run", "1 2p 3", "3", "3", "r1 !r1"),
        ("adopted: a blessed one comes first", "1g 2 3", "3", "3", "r1 r2 !r2"),
        ("adopted: nothing older", "3 4", "3", "3", "NO_TARGET -r4 unverified -r3 current"),
    ];
    for (why, releases, activations, current, expected) in table {
        assert_eq!(told("", false, &observed(releases, activations, current)), expected, "{why}");
        if !expected.starts_with("NO_TARGET") {
            let forced = told("", true, &observed(releases, activations, current));
            assert_eq!(forced, expected, "force does not change what the rules choose: {why}");
        }
    }
}

#[test]
fn a_release_that_is_named_follows_the_table() {
    // Why, releases, `--to`, the answer without and with force; activated are 1 to 4, current is 4.
    let table = [
        ("by identifier", "1g 2g 3g 4", "r2", "r2 r1", "r2 r1"),
        ("by version", "1g 2g 3g 4", "v2", "r2 r1", "r2 r1"),
        ("no such", "1g 2g 3g 4", "v9", "NO_SUCH_RELEASE", "NO_SUCH_RELEASE"),
        ("a path", "1g 2g 3g 4", "../r1", "NO_SUCH_RELEASE", "NO_SUCH_RELEASE"),
        ("the current one", "1g 2g 3g 4", "r4", "TARGET_UNFIT current", "TARGET_UNFIT current"),
        ("damaged", "1g 2gd 3g 4", "r2", "TARGET_UNFIT damaged", "TARGET_UNFIT damaged"),
        ("unknown", "1g 2gu 3g 4", "r2", "TARGET_UNFIT unknown", "TARGET_UNFIT unknown"),
        ("unconfigured", "1g 2gc 3g 4", "r2", "TARGET_UNFIT unconfigured", "TARGET_UNFIT unconfigured"),
        ("quarantined", "1g 2gq 3g 4", "r2", "TARGET_UNFIT quarantined, forceable", "r2 r1 !r2"),
        ("never verified", "1g 2 3g 4", "r2", "TARGET_UNFIT unverified, forceable", "r2 r1 !r2"),
        ("both", "1g 2q 3g 4", "r2", "TARGET_UNFIT quarantined, forceable", "r2 r1 !r2 !r2"),
        ("no verified history", "1 2 3 4", "r2", "r2 r1 !r2 !r1", "r2 r1 !r2 !r1"),
        ("not of the history", "1g 2g 3g 4 7g", "r7", "r7 r3", "r7 r3"),
        ("fallbacks are not forced", "1gq 2g 3g 4", "r2", "r2 -r1 quarantined", "r2 -r1 quarantined"),
    ];
    for (why, releases, to, plain, forced) in table {
        let observed = observed(releases, "1234", "4");
        assert_eq!(told(to, false, &observed), plain, "{why}");
        assert_eq!(told(to, true, &observed), forced, "forced: {why}");
    }
}

#[test]
fn a_version_of_two_releases_is_ambiguous_and_an_identifier_is_not() {
    let mut observed = observed("1g 2g 3", "123", "3");
    observed.releases[0].manifest.version = Some("v2".parse().expect("valid"));
    assert_eq!(told("v2", true, &observed), "AMBIGUOUS_RELEASE");
    assert_eq!(told("r2", false, &observed), "r2 r1");
}

#[test]
fn an_unknown_name_is_answered_with_the_newest_activation_first() {
    let mut request = request();
    request.to = Destination::Named("r8".to_owned());
    let Err(Refusal::NoSuchRelease { known, .. }) = choose(&request, &observed("1 2 3 9", "312", "2")) else {
        panic!("there is no r8");
    };
    assert_eq!(known.iter().map(ToString::to_string).collect::<Vec<_>>(), ["r2", "r1", "r3", "r9"]);
}

proptest! {
    #[test]
    fn what_is_chosen_is_fit_whatever_the_history(
        flags in prop::collection::vec("[gduqcp^]{0,3}", 0..9),
        activations in "[1-9]{0,14}",
        current in "[1-9]?",
        to in "(r[1-9])?",
        force: bool,
        fallbacks_max in 0_u32..4,
    ) {
        let releases: Vec<String> = flags.iter().zip(1..).map(|(flags, digit)| format!("{digit}{flags}")).collect();
        let mut observed = observed(&releases.join(" "), &activations, &current);
        observed.policy.fallbacks_max = fallbacks_max;
        let mut request = request();
        request.force = force;
        if !to.is_empty() {
            request.to = Destination::Named(to.clone());
        }
        let Ok(choice) = choose(&request, &observed) else { return Ok(()) };
        let mut candidates = vec![&choice.target];
        candidates.extend(&choice.fallbacks);
        prop_assert!(choice.fallbacks.len() <= usize::try_from(fallbacks_max).expect("small"));
        for (at, id) in candidates.iter().enumerate() {
            let release = observed.release(id).expect("only releases that are there are chosen");
            let is_forced = force && !to.is_empty() && at == 0;
            prop_assert!(observed.current.release() != Some(*id));
            let is_intact = matches!(release.integrity, Integrity::Intact { .. });
            prop_assert!(is_intact);
            prop_assert!(release.quarantine.is_none() || is_forced);
            prop_assert!(!candidates[..at].contains(id), "no candidate twice");
            prop_assert!(choice.passed_over.iter().all(|passed| passed.release != **id));
            // What was never verified is never chosen silently.
            let is_told = choice.warnings.iter().any(|text| text.contains(&format!("`{id}` was never verified")));
            prop_assert!(release.good_since.is_some() || is_told);
        }
    }
}

#[test]
fn without_a_verified_history_what_was_left_comes_last() {
    // 2 was deployed over 1 and left again; 3 runs.
    let host = observed("1 2 3g", "1213", "3");
    let choice = choose(&request(), &host).expect("there is something to go back to");
    assert_eq!((choice.target, choice.fallbacks), (super::id("r1"), vec![super::id("r2")]));
}
