//! From a request and an observed component to a plan, or to a refusal.

use jiff::Timestamp;

use super::target::Choice;
use super::verdict::is_healthy;
use super::{guard, target};
use crate::explain;
use crate::model::host::{Configuration, Fact, ObservedComponent, ObservedRelease, fence};
use crate::model::ids::OperationId;
use crate::model::operation::{Request, Urgency};
use crate::model::plan::{Check, Plan, TargetFacts};
use crate::model::refusal::{Refusal, Unfit};
use crate::model::release::Integrity;

/// Plans a rollback. The same request and observation give the same plan.
///
/// # Errors
/// When a rule forbids it; see [`super::guard`] and [`super::target`] for the rules in their order.
pub fn plan(request: &Request, observed: &ObservedComponent, now: Timestamp) -> Result<Plan, Refusal> {
    guard::current_is_usable(observed)?;
    guard::units_are_usable(observed)?;
    let takes_over = guard::lease_is_free(request, observed, now)?;
    let choice = target::choose(request, observed)?;
    guard::leaving_is_justified(request, observed)?;
    let Some(release) = observed.release(&choice.target) else {
        return Err(Refusal::TargetUnfit { release: choice.target, unfit: Unfit::Gone, forceable: false });
    };
    let facts = facts(observed);
    let checks = checks(request, observed, release, takes_over);
    let mut warnings = choice.warnings.clone();
    warnings.extend(takes_over.map(|operation| format!("takes the lease over from operation {operation}")));
    if observed.current.release().is_none() {
        warnings.push(format!("`current` {}; it is repaired", explain::current(&observed.current)));
    }
    Ok(Plan {
        request: request.clone(),
        host: observed.host.clone(),
        component: observed.name.clone(),
        environment: observed.environment.clone(),
        operation_type: request.operation_type(),
        made_at: now,
        from: observed.current.release().cloned(),
        target: target_facts(release),
        candidates: candidates(&choice),
        passed_over: choice.passed_over,
        checks,
        warnings,
        units: observed.units().iter().map(|unit| unit.name.clone()).collect(),
        configuration: !matches!(release.configuration, Configuration::NotKept),
        timeouts: observed.timeouts,
        baseline: observed.health.clone(),
        fence: fence(&facts),
        facts,
        takes_over,
    })
}

fn candidates(choice: &Choice) -> Vec<crate::model::ids::ReleaseId> {
    let mut all = vec![choice.target.clone()];
    all.extend(choice.fallbacks.iter().cloned());
    all
}

fn target_facts(release: &ObservedRelease) -> TargetFacts {
    TargetFacts {
        version: release.manifest.version.clone(),
        created_at: release.manifest.created_at,
        good_since: release.good_since,
        read_at: match &release.integrity {
            Integrity::Intact { read_at } => Some(*read_at),
            Integrity::Damaged { .. } | Integrity::Unknown { .. } => None,
        },
        tree: release.manifest.tree,
    }
}

fn checks(
    request: &Request,
    observed: &ObservedComponent,
    release: &ObservedRelease,
    takes_over: Option<OperationId>,
) -> Vec<Check> {
    let check = |name: &str, found: String| Check { name: name.to_owned(), found };
    let integrity = format!("`{}` is intact, {}", release.id(), release.manifest.tree.short());
    let configuration = match &release.configuration {
        Configuration::NotKept => "the component keeps none".to_owned(),
        Configuration::Frozen => "the frozen copy is at hand and stands".to_owned(),
        Configuration::Missing(cause) => cause.clone(),
    };
    let names: Vec<_> = observed.units().iter().map(|unit| unit.name.clone()).collect();
    let lease = match takes_over {
        None => format!("environment `{}` is free", observed.environment),
        Some(operation) => format!("held by operation {operation}, taken over"),
    };
    let baseline = match request.urgency {
        Urgency::Emergency => "not asked in an emergency".to_owned(),
        Urgency::Standard if is_healthy(&observed.health) => "the current release is healthy".to_owned(),
        Urgency::Standard => "the current release is not healthy".to_owned(),
    };
    vec![
        check("integrity", integrity),
        check("configuration", configuration),
        check("units", format!("{} can be started", explain::units(&names))),
        check("lease", lease),
        check("baseline", baseline),
    ]
}

/// Lists what a plan relies on; what may change without mattering (process ids, latencies, leases) is not among it.
#[must_use]
pub fn facts(observed: &ObservedComponent) -> Vec<Fact> {
    let fact = |subject: String, value: String| Fact { subject, value };
    let mut facts = vec![
        fact("current".to_owned(), explain::current(&observed.current)),
        fact(
            "last activation".to_owned(),
            observed.activations.iter().map(|a| a.sequence).max().map_or("none".to_owned(), |s| s.to_string()),
        ),
        fact(
            "policy".to_owned(),
            format!(
                "{} fallbacks, healthy needs force: {}, full reading: {}",
                observed.policy.fallbacks_max, observed.policy.healthy_needs_force, observed.policy.full_read
            ),
        ),
    ];
    for release in &observed.releases {
        let integrity = match &release.integrity {
            Integrity::Intact { .. } => "intact",
            Integrity::Damaged { .. } => "damaged",
            Integrity::Unknown { .. } => "not to be judged",
        };
        let configuration = match &release.configuration {
            Configuration::NotKept => "no configuration kept",
            Configuration::Frozen => "configuration frozen",
            Configuration::Missing(_) => "configuration missing",
        };
        let good = if release.good_since.is_some() { "good" } else { "never verified" };
        let quarantine = if release.quarantine.is_some() { "quarantined" } else { "not quarantined" };
        let tree = release.manifest.tree.short();
        facts.push(fact(
            format!("release {}", release.id()),
            format!("{tree}, {integrity}, {good}, {quarantine}, {configuration}"),
        ));
    }
    for unit in observed.units() {
        facts.push(fact(format!("unit {}", unit.name), format!("{:?}", unit.load).to_lowercase()));
    }
    facts.sort();
    facts
}

/// Says what differs between the facts of a plan and those of now, one line each.
#[must_use]
pub fn changes(planned: &[Fact], now: &[Fact]) -> Vec<String> {
    let value = |facts: &[Fact], subject: &str| {
        facts.iter().find(|fact| fact.subject == subject).map(|fact| fact.value.clone())
    };
    let mut subjects: Vec<&str> = planned.iter().chain(now).map(|fact| fact.subject.as_str()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let changed = |subject: &str| match (value(planned, subject), value(now, subject)) {
        (Some(was), Some(is)) if was == is => None,
        (Some(was), Some(is)) => Some(format!("{subject}: was `{was}`, is `{is}`")),
        (Some(was), None) => Some(format!("{subject}: was `{was}`, is gone")),
        (None, Some(is)) => Some(format!("{subject}: is new, `{is}`")),
        (None, None) => None,
    };
    subjects.into_iter().filter_map(changed).collect()
}
