//! Plans an operation: from a request and an observed component to a plan, or to a refusal.

use jiff::Timestamp;

use super::target::Choice;
use super::{guard, target, verdict};
use crate::explain;
use crate::model::health::{Answer, UnitActive, UnitLoad, Weight};
use crate::model::host::{self, Configuration, Current, Fact, ObservedComponent, ObservedRelease};
use crate::model::ids::{OperationId, ReleaseId};
use crate::model::operation::Request;
use crate::model::plan::{Check, Plan, TargetFacts};
use crate::model::policy::{DeadManSwitch, ExternalDeploys, Policy};
use crate::model::refusal::Refusal;
use crate::model::release::Integrity;
use crate::model::watch::{Watch, WatchTerms};

/// Plans what a request would do to a component as it was observed; `now` is the host's wall clock.
///
/// The same plan serves the dry run and the run. Its fence is the digest of [`facts`].
///
/// # Errors
/// The first guard that does not hold, in the order of: `current`, units, lease, target, healthy current.
pub fn plan(request: &Request, observed: &ObservedComponent, now: Timestamp) -> Result<Plan, Refusal> {
    guard::current(observed)?;
    guard::units(observed)?;
    let takes_over = guard::lease(request, observed, now)?;
    let choice = target::choose(request, observed)?;
    guard::healthy(request, observed)?;
    made(request, observed, choice, takes_over, now)
}

/// Plans the watch of a release that another hand has made current, and the way back to `from`, which ran before.
///
/// Nothing is guarded: what is done is done, and the plan only says how it is judged.
///
/// # Errors
/// When the release that `current` leads to is not known.
pub fn external(
    request: &Request,
    observed: &ObservedComponent,
    from: Option<ReleaseId>,
    now: Timestamp,
) -> Result<Plan, Refusal> {
    let Some(target) = observed.current.release().cloned() else {
        return Err(Refusal::NoTarget { passed_over: Vec::new() });
    };
    let choice = Choice { target, fallbacks: Vec::new(), passed_over: Vec::new(), warnings: Vec::new() };
    Ok(Plan { from, ..made(request, observed, choice, None, now)? })
}

/// Fills in what a deploy leaves open about its watch. Who asks for the automatic rollback has it, also past its limit.
fn watch(terms: WatchTerms, policy: &Policy, is_spent: bool) -> Watch {
    let auto = terms.auto.unwrap_or(policy.auto && !is_spent);
    Watch {
        lasts_ms: terms.lasts_ms.unwrap_or(policy.watch_ms),
        auto,
        confirm_ms: terms.confirm_ms,
        // What does not go back by itself does not do so behind the agent's back either.
        dead_man: policy.dead_man == DeadManSwitch::Armed && (auto || terms.confirm_ms.is_some()),
        automatic_from: policy.automatic_from,
        ask_ms: policy.ask_ms,
        undecided: policy.undecided,
    }
}

fn made(
    request: &Request,
    observed: &ObservedComponent,
    choice: Choice,
    takes_over: Option<OperationId>,
    now: Timestamp,
) -> Result<Plan, Refusal> {
    let Some(release) = observed.release(&choice.target) else {
        return Err(Refusal::NoTarget { passed_over: choice.passed_over });
    };
    let mut warnings = choice.warnings;
    warnings.extend(host_warnings(observed, takes_over));
    let limit = observed.policy.limit;
    let is_spent = observed.automatic_rollbacks >= limit.count_max;
    let watch = request.deploy.map(|terms| watch(terms, &observed.policy, is_spent));
    if is_spent && watch.is_some_and(|watch| !watch.auto) {
        let count = observed.automatic_rollbacks;
        warnings.push(format!(
            "the agent went back by itself {count} times within {} s: what fails now stays until somebody decides",
            limit.window_secs
        ));
    }
    let facts = facts(observed);
    let mut candidates = vec![choice.target];
    candidates.extend(choice.fallbacks);
    Ok(Plan {
        watch,
        request: request.clone(),
        host: observed.host.clone(),
        component: observed.name.clone(),
        environment: observed.environment.clone(),
        operation_type: request.operation_type(),
        made_at: now,
        from: observed.current.release().cloned(),
        candidates,
        target: target_facts(release),
        passed_over: choice.passed_over,
        checks: checks(release, observed, takes_over),
        warnings,
        units: observed.units().iter().map(|unit| unit.name.clone()).collect(),
        configuration: match release.configuration {
            Configuration::Frozen => true,
            Configuration::NotKept | Configuration::Missing(_) => false,
        },
        timeouts: observed.timeouts,
        baseline: observed.health.clone(),
        fence: host::fence(&facts),
        facts,
        takes_over,
    })
}

/// Lists what a plan relies on, in an order that does not depend on the order of observation.
///
/// What moves by itself (process ids, latencies, the lease, times of reading) is left out.
#[must_use]
pub fn facts(observed: &ObservedComponent) -> Vec<Fact> {
    let fact = |subject: String, value: String| Fact { subject, value };
    let mut facts = vec![fact("current".to_owned(), explain::current(&observed.current))];
    let mut releases: Vec<&ObservedRelease> = observed.releases.iter().collect();
    releases.sort_by_key(|release| release.id());
    facts.extend(releases.into_iter().map(|release| fact(format!("release {}", release.id()), release_value(release))));
    let newest = observed.activations.iter().map(|activation| activation.sequence).max();
    facts.push(fact("last activation".to_owned(), newest.map_or("none".to_owned(), |sequence| sequence.to_string())));
    facts.extend(observed.units().iter().map(|unit| fact(format!("unit {}", unit.name), load(unit.load).to_owned())));
    let policy = &observed.policy;
    facts.push(fact(
        "policy".to_owned(),
        format!(
            "{} fallbacks, healthy needs force: {}, full read: {}, lease {} s, watch {} ms, automatic: {}, \
             dead-man's switch {}, floor {}, {}",
            policy.fallbacks_max,
            policy.healthy_needs_force,
            policy.full_read,
            policy.lease_secs,
            policy.watch_ms,
            policy.auto,
            match policy.dead_man {
                DeadManSwitch::Armed => "armed",
                DeadManSwitch::Off => "off",
            },
            policy.floor.as_ref().map_or("none", |floor| floor.as_str()),
            match policy.external {
                ExternalDeploys::Watch => "external deploys are watched",
                ExternalDeploys::Note => "external deploys are noted",
            }
        ),
    ));
    facts
}

/// Compares the facts of a plan with those of now, one line for each that differs; empty when the plan still holds.
#[must_use]
pub fn changes(planned: &[Fact], now: &[Fact]) -> Vec<String> {
    let value = |facts: &[Fact], subject: &str| {
        facts.iter().find(|fact| fact.subject == subject).map(|fact| fact.value.clone())
    };
    let mut changes = Vec::new();
    for Fact { subject, value: was } in planned {
        match value(now, subject) {
            Some(is) if is == *was => {}
            Some(is) => changes.push(format!("{subject}: was {was}, is {is}")),
            None => changes.push(format!("{subject}: was {was}, is gone")),
        }
    }
    for Fact { subject, value: is } in now {
        if value(planned, subject).is_none() {
            changes.push(format!("{subject}: was not there, is {is}"));
        }
    }
    changes
}

fn release_value(release: &ObservedRelease) -> String {
    let integrity = match release.integrity {
        Integrity::Intact { .. } => "intact",
        Integrity::Damaged { .. } => "damaged",
        Integrity::Unknown { .. } => "not provable",
    };
    let good = if release.good_since.is_some() { "good" } else { "never verified" };
    let quarantine = if release.quarantine.is_some() { ", quarantined" } else { "" };
    let configuration = match (&release.configuration, release.manifest.configuration) {
        (Configuration::NotKept, _) => "no configuration kept".to_owned(),
        (Configuration::Missing(_), _) => "configuration missing".to_owned(),
        (Configuration::Frozen, Some(digest)) => format!("configuration {digest}"),
        (Configuration::Frozen, None) => "configuration frozen".to_owned(),
    };
    format!("tree {}, {integrity}, {good}{quarantine}, {configuration}", release.manifest.tree)
}

fn load(load: UnitLoad) -> &'static str {
    match load {
        UnitLoad::Loaded => "loaded",
        UnitLoad::Masked => "masked",
        UnitLoad::NotFound => "not found",
        UnitLoad::Error => "in error",
    }
}

fn target_facts(release: &ObservedRelease) -> TargetFacts {
    TargetFacts {
        version: release.manifest.version.clone(),
        created_at: release.manifest.created_at,
        good_since: release.good_since,
        read_at: match release.integrity {
            Integrity::Intact { read_at } => Some(read_at),
            Integrity::Damaged { .. } | Integrity::Unknown { .. } => None,
        },
        tree: release.manifest.tree,
    }
}

fn host_warnings(observed: &ObservedComponent, takes_over: Option<OperationId>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(operation) = takes_over {
        warnings.push(format!("the lease of operation {operation} is taken over"));
    }
    match &observed.current {
        Current::Release(id) => {
            if let Some(Configuration::Missing(cause)) = observed.release(id).map(|release| &release.configuration) {
                warnings.push(format!("`{id}` could not be put back, its configuration is not at hand: {cause}"));
            }
        }
        Current::Missing | Current::Dangling(_) | Current::Outside(_) | Current::NotALink => warnings.push(format!(
            "`current` {}, so there is nothing to put back when this fails",
            explain::current(&observed.current)
        )),
    }
    warnings
}

fn checks(release: &ObservedRelease, observed: &ObservedComponent, takes_over: Option<OperationId>) -> Vec<Check> {
    let check = |name: &str, found: String| Check { name: name.to_owned(), found };
    let id = release.id();
    let integrity = match &release.integrity {
        Integrity::Intact { read_at } => format!("`{id}` is intact, last read in full at {read_at}"),
        Integrity::Damaged { .. } => format!("`{id}` is damaged"),
        Integrity::Unknown { why } => format!("`{id}` cannot be proved intact: {why}"),
    };
    let configuration = match &release.configuration {
        Configuration::Frozen => format!("the configuration of `{id}` is at hand and stands"),
        Configuration::NotKept => "no configuration is kept for this component".to_owned(),
        Configuration::Missing(cause) => format!("the configuration of `{id}` is missing: {cause}"),
    };
    let names: Vec<_> = observed.units().iter().map(|unit| unit.name.clone()).collect();
    let lease = takes_over.map_or("free".to_owned(), |operation| format!("held by operation {operation}, taken over"));
    vec![
        check("integrity", integrity),
        check("configuration", configuration),
        check("units", format!("{} can be started", explain::units(&names))),
        check("lease", lease),
        check("baseline", baseline(observed)),
    ]
}

fn baseline(observed: &ObservedComponent) -> String {
    let health = &observed.health;
    let active = health.units.iter().filter(|unit| unit.active == UnitActive::Active).count();
    let required = health.probes.iter().filter(|probe| probe.weight == Weight::Required);
    let (passed, failed): (Vec<_>, Vec<_>) = required.partition(|probe| probe.answer == Answer::Passed);
    let probes = passed.len() + failed.len();
    let mut found = vec![format!("{active} of {} units active", health.units.len())];
    if probes > 0 {
        found.push(format!("{} of {probes} required probes pass", passed.len()));
    }
    found.extend(verdict::failures(health));
    found.join("; ")
}
