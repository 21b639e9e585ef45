//! Every refusal, phase and outcome as one sentence; agent, client and docs share it.

use crate::model::effect::Effect;
use crate::model::health::{UnitLoad, Verdict};
use crate::model::host::Current;
use crate::model::ids::UnitName;
use crate::model::operation::{Outcome, Phase};
use crate::model::refusal::{Refusal, Unfit};
use crate::model::release::{Difference, DifferenceKind};
use crate::model::watch::Watch;

/// Says why nothing was begun.
#[must_use]
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoSuchComponent { component, environment, known } => {
            let wanted = match (environment, component) {
                (Some(environment), Some(component)) => format!("no component `{environment}/{component}`"),
                (None, Some(component)) => format!("no component `{component}`"),
                (Some(environment), None) => format!("no component in environment `{environment}`"),
                (None, None) => "no component".to_owned(),
            };
            format!("this agent has {wanted}; it has {}", quoted(known))
        }
        Refusal::AmbiguousComponent { matching } => {
            format!("{} components match: {}", matching.len(), quoted(matching))
        }
        Refusal::NoSuchRelease { wanted, known } => {
            format!("there is no release `{wanted}`; there is {}", quoted(known))
        }
        Refusal::AmbiguousRelease { wanted, matching } => {
            format!("{} releases have version `{wanted}`: {}", matching.len(), quoted(matching))
        }
        Refusal::NoTarget { passed_over } if passed_over.is_empty() => "there is no release to go back to".to_owned(),
        Refusal::NoTarget { passed_over } => {
            let reasons: Vec<String> =
                passed_over.iter().map(|p| format!("`{}` {}", p.release, unfit(&p.unfit))).collect();
            format!("there is no release to go back to: {}", reasons.join("; "))
        }
        Refusal::TargetUnfit { release, unfit: why, .. } => format!("release `{release}` {}", unfit(why)),
        Refusal::ReasonNeeded { current } => {
            format!("the current release `{current}` is healthy, and leaving it needs a reason")
        }
        Refusal::ForceNeeded { current } => {
            format!(
                "the current release `{current}` is healthy, and the policy of this component demands force to leave it"
            )
        }
        Refusal::CurrentUnusable { current: state, path } => format!("`{path}` {}", current(state)),
        Refusal::UnitUnusable { unit, load } => {
            format!("unit `{unit}` {}, so it could not be started again", unit_load(*load))
        }
        Refusal::Held { lease } => format!(
            "environment `{}` is held by operation {} of {} since {} until {}: {}",
            lease.environment, lease.operation, lease.holder, lease.since, lease.expires, lease.reason
        ),
        Refusal::HostChanged { changes } => {
            format!("the host has changed since the plan was made: {}", changes.join("; "))
        }
        Refusal::NeedsOperator { operation, what } => format!("operation {operation} waits for an operator: {what}"),
        Refusal::OfferUnfit { release, why } => format!("`{release}` cannot be laid down: {why}"),
        Refusal::NameTaken { release } => format!("there is another release `{release}`, with other files"),
        Refusal::NoRoom { what, needed, free, spared } => {
            format!(
                "the releases' disk is short of {what}: {needed} are needed, {free} are free, and {spared} of these are spared"
            )
        }
        Refusal::PushRuns { release } => format!("the files of `{release}` are being pushed by somebody else"),
        Refusal::NotReady { cause } => format!("the agent cannot begin an operation: {cause}"),
    }
}

/// Says what to do about a refusal, one line each.
#[must_use]
pub fn hints(refusal: &Refusal) -> Vec<String> {
    let hint: &[&str] = match refusal {
        Refusal::NoSuchComponent { .. } => &["`rbctl status` lists the components"],
        Refusal::AmbiguousComponent { .. } => &["name one with `--component` and `--environment`"],
        Refusal::NoSuchRelease { .. } => &["`rbctl releases` lists the releases"],
        Refusal::AmbiguousRelease { .. } => &["name one by its identifier: `--to ID`"],
        Refusal::NoTarget { .. } => &[
            "`rbctl releases` shows the state of each release",
            "`--to ID --force` goes to a release that is intact but quarantined or never verified",
        ],
        Refusal::TargetUnfit { unfit: Unfit::BelowFloor { .. }, .. } => &[
            "choose a newer release: `rbctl releases` lists them",
            "the role break-glass passes the floor with `--force`, and so does root: `rbctl --local`",
        ],
        Refusal::TargetUnfit { forceable: true, .. } => &["`--force` overrides this and is recorded"],
        Refusal::TargetUnfit { forceable: false, .. } => &["choose another release: `rbctl releases` lists them"],
        Refusal::ReasonNeeded { .. } => &["say why: `--reason TEXT`"],
        Refusal::ForceNeeded { .. } => &["`--force --reason TEXT` leaves it and is recorded"],
        Refusal::CurrentUnusable { .. } => {
            &["move it away by hand; nothing that is not a link is ever deleted", "then run the same command again"]
        }
        Refusal::UnitUnusable { load: UnitLoad::Masked, unit } => {
            return vec![format!("`systemctl unmask {unit}` on the host")];
        }
        Refusal::UnitUnusable { unit, .. } => return vec![format!("`systemctl status {unit}` on the host says why")],
        Refusal::Held { lease } => {
            return vec![
                format!("`rbctl show {}` shows what it does", lease.operation),
                "`--emergency` takes the lease over and is recorded in both".to_owned(),
            ];
        }
        Refusal::HostChanged { .. } => &["make a new plan: `rbctl plan`"],
        Refusal::NeedsOperator { operation, .. } => {
            return vec![
                format!("`rbctl show {operation}` shows what happened"),
                "`--emergency` begins all the same and is recorded".to_owned(),
            ];
        }
        Refusal::OfferUnfit { .. } => &["nothing of it was laid down; mend what is pushed"],
        Refusal::NameTaken { .. } => &["push it under another name: `--name`; a release is never overwritten"],
        Refusal::NoRoom { .. } => &["nothing was written; make room on the host"],
        Refusal::PushRuns { .. } => &["wait for it; the same command then finds the release there"],
        Refusal::NotReady { .. } => &["`rbctl status` says what is wrong with the agent"],
    };
    hint.iter().map(|line| (*line).to_owned()).collect()
}

/// Continues a sentence whose subject is a release: `was passed over because …` without the subject.
#[must_use]
pub fn unfit(unfit: &Unfit) -> String {
    match unfit {
        Unfit::IsCurrent => "is the one that runs".to_owned(),
        Unfit::NeverVerified => "was never verified".to_owned(),
        Unfit::Quarantined { reason, by, since } => format!("is quarantined since {since} by {by}: {reason}"),
        Unfit::Damaged { differences, more } => format!("is damaged: {}", damage(differences, *more)),
        Unfit::IntegrityUnknown { cause } => format!("cannot be proved intact: {cause}"),
        Unfit::ConfigurationMissing { cause } => format!("has no configuration to go back with: {cause}"),
        Unfit::BelowFloor { version: Some(version), floor } => {
            format!("has version {version}, below the floor {floor}")
        }
        Unfit::BelowFloor { version: None, floor } => format!("has no version, and the floor is {floor}"),
        Unfit::Gone => "is gone from the disk".to_owned(),
    }
}

/// Lists what differs in a release.
#[must_use]
pub fn damage(differences: &[Difference], more: u64) -> String {
    let mut parts: Vec<String> = differences.iter().map(|d| format!("`{}` {}", d.path, difference(d.what))).collect();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

/// Says what differs at an entry, without the entry.
#[must_use]
pub fn difference(kind: DifferenceKind) -> &'static str {
    match kind {
        DifferenceKind::Missing => "is missing",
        DifferenceKind::Added => "was added",
        DifferenceKind::Content => "has other content",
        DifferenceKind::Mode => "has another mode",
        DifferenceKind::Type => "has another type",
        DifferenceKind::Target => "leads elsewhere",
    }
}

/// Says where `current` leads, without its path.
#[must_use]
pub fn current(current: &Current) -> String {
    match current {
        Current::Release(id) => format!("leads to release `{id}`"),
        Current::Missing => "is missing".to_owned(),
        Current::Dangling(target) => format!("leads to `{target}`, which does not exist"),
        Current::Outside(target) => format!("leads to `{target}`, which is no release of the component"),
        Current::NotALink => "is not a link but a file or a directory".to_owned(),
    }
}

fn unit_load(load: UnitLoad) -> &'static str {
    match load {
        UnitLoad::Loaded => "is loaded",
        UnitLoad::Masked => "is masked",
        UnitLoad::NotFound => "does not exist",
        UnitLoad::Error => "has a unit file in error",
    }
}

/// Says what an effect does, in the present: `switching to `r1``.
#[must_use]
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::DeadManArmed { release } => format!("arming the dead-man's switch, which goes back to `{release}`"),
        Effect::UnitsStopped { units } => format!("stopping {}", quoted(units)),
        Effect::ConfigurationLinked { release } => format!("linking the configuration of `{release}`"),
        Effect::CurrentLinked { release } => format!("switching `current` to `{release}`"),
        Effect::UnitsStarted { units } => format!("starting {}", quoted(units)),
        Effect::Verified { release } => format!("verifying `{release}`"),
        Effect::Watched { release } => format!("watching `{release}`"),
        Effect::Decided { release } => format!("waiting for a decision about `{release}`"),
        Effect::Confirmed { release } => format!("waiting for `{release}` to be confirmed"),
    }
}

/// Says how a release is watched.
#[must_use]
pub fn watch(watch: &Watch) -> String {
    let end = if watch.auto { "goes back by itself when it fails" } else { "stays when it fails" };
    let confirm =
        watch.confirm_ms.map(|millis| format!(", and goes back unless confirmed within {} s", millis / 1_000));
    let dead_man = if watch.dead_man { ", a dead-man's switch stands behind it" } else { "" };
    format!("{} s, {end}{}{dead_man}", watch.lasts_ms / 1_000, confirm.unwrap_or_default())
}

/// Says what an operation does next.
#[must_use]
pub fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Arming => "the dead-man's switch is being armed".to_owned(),
        Phase::Stopping => "the units are being stopped".to_owned(),
        Phase::LinkingConfiguration => "the configuration is being linked".to_owned(),
        Phase::Switching => "`current` is being switched".to_owned(),
        Phase::Starting => "the units are being started".to_owned(),
        Phase::Verifying => "the release is being verified".to_owned(),
        Phase::Watching => "the release is being watched".to_owned(),
        Phase::Asking => "a decision is needed: `rbctl decide`".to_owned(),
        Phase::Confirming => "the release waits to be confirmed".to_owned(),
        Phase::Ended { outcome: end } => outcome(end),
    }
}

/// Says how an operation ended and what runs now.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { release } => format!("done: `{release}` runs and is verified"),
        Outcome::Unverified { release, verdict: judged, cause } => {
            format!("not verified: `{release}` runs, {}: {cause}", verdict(*judged))
        }
        Outcome::PutBack { release, cause } => format!("failed and put back: `{release}` runs again: {cause}"),
        Outcome::NeedsOperator { release: Some(release), cause } => {
            format!("manual intervention required: `current` leads to `{release}`: {cause}")
        }
        Outcome::NeedsOperator { release: None, cause } => {
            format!("manual intervention required: what `current` leads to is unknown: {cause}")
        }
        Outcome::Superseded { by } => format!("taken over by operation {by}"),
    }
}

/// Says what a verdict means.
#[must_use]
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passing => "everything required passes",
        Verdict::ReleaseBad => "the release fails what the one before it passed",
        Verdict::EnvironmentBad => "what fails now failed before as well, so the release is not to blame",
        Verdict::Inconclusive => "nothing proves that it is well",
    }
}

fn quoted<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ")
}

/// Names units in a sentence.
#[must_use]
pub fn units(units: &[UnitName]) -> String {
    quoted(units)
}
