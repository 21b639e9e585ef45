//! The tree report of an operation, and the summary of a plan: what on-call people read.

use std::fmt::Write as _;

use jiff::Timestamp;
use rollback::explain;
use rollback::model::effect::EffectEnd;
use rollback::model::health::{Answer, Health, UnitActive, Weight};
use rollback::model::operation::{Destination, Evidence, Operation, Trigger, Urgency};
use rollback::model::plan::Plan;

use super::printer::safe;
use super::words::{age, duration};

/// A line with lines below it.
struct Node {
    text: String,
    below: Vec<Node>,
}

fn node(text: impl Into<String>, below: Vec<Node>) -> Node {
    Node { text: safe(&text.into()).replace('\n', " "), below }
}

fn leaf(text: impl Into<String>) -> Node {
    node(text, Vec::new())
}

fn draw(out: &mut String, nodes: &[Node], indent: &str) {
    for (at, node) in nodes.iter().enumerate() {
        let last = at + 1 == nodes.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        // Writing to a string cannot fail.
        writeln!(out, "{indent}{branch}{}", node.text).ok();
        draw(out, &node.below, &format!("{indent}{below}"));
    }
}

fn tree(title: &str, nodes: &[Node]) -> String {
    let mut out = format!("{}\n", safe(title));
    draw(&mut out, nodes, "");
    out
}

fn title(plan: &Plan) -> String {
    let kind = match (plan.request.urgency, &plan.request.to) {
        _ if plan.request.deploy.is_some() => "deploy",
        (Urgency::Emergency, _) => "emergency rollback",
        (Urgency::Standard, Destination::Previous) => "rollback to the last good release",
        (Urgency::Standard, Destination::Named(_)) => "rollback to a named release",
    };
    format!("{}: {}/{}: {kind}", plan.host, plan.environment, plan.component)
}

fn decision(plan: &Plan, now: Timestamp) -> Vec<Node> {
    let from = plan.from.as_ref().map_or("nothing".to_owned(), |id| format!("`{id}`"));
    let target = plan.target_release().map_or_else(String::new, |id| format!("`{id}`"));
    let version = plan.target.version.as_ref().map(|v| format!(", version {v}")).unwrap_or_default();
    let good = match plan.target.good_since {
        Some(since) => format!("good since {}", age(since, now)),
        None => "never verified".to_owned(),
    };
    let read = plan.target.read_at.map(|at| format!(", read in full {} ago", age(at, now))).unwrap_or_default();
    let made = format!(
        "{target}{version}, {} old, {good}{read}, tree {}",
        age(plan.target.created_at, now),
        plan.target.tree.short()
    );
    let passed =
        plan.passed_over.iter().map(|p| leaf(format!("passed over `{}`: it {}", p.release, explain::unfit(&p.unfit))));
    let fallbacks: Vec<String> = plan.candidates.iter().skip(1).map(|id| format!("`{id}`")).collect();
    let mut nodes =
        vec![node(format!("decision: {from} → {target}"), passed.collect()), leaf(format!("target: {made}"))];
    if !fallbacks.is_empty() {
        nodes.push(leaf(format!("if it does not come up: {}", fallbacks.join(", then "))));
    }
    nodes.push(node(
        "checks",
        plan.checks.iter().map(|check| leaf(format!("{}: {}", check.name, check.found))).collect(),
    ));
    if let Some(watch) = &plan.watch {
        nodes.push(leaf(format!("watch: {}", explain::watch(watch))));
    }
    if !plan.warnings.is_empty() {
        nodes.push(node("warnings", plan.warnings.iter().map(|warning| leaf(warning.as_str())).collect()));
    }
    nodes
}

/// Prints a plan: what a run would do.
#[must_use]
pub fn plan(plan: &Plan, now: Timestamp) -> String {
    let mut nodes = decision(plan, now);
    let steps = plan.effects().iter().map(|effect| leaf(explain::effect(effect))).collect();
    nodes.push(node("would do", steps));
    nodes.push(leaf(format!("operation {}", plan.request.operation)));
    tree(&title(plan), &nodes)
}

fn health(health: &Health) -> Vec<Node> {
    let units = health.units.iter().map(|unit| {
        let pid = unit.main_pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        let mark = if unit.active == UnitActive::Active { "ok" } else { "FAILED" };
        leaf(format!("{mark}  unit {}: {}{pid}, {} restarts", unit.name, unit.sub, unit.restarts))
    });
    let probes = health.probes.iter().map(|probe| {
        let mark = match (probe.answer, probe.weight) {
            (Answer::Passed, _) => "ok",
            (Answer::Undecided, _) => "unknown",
            (Answer::Failed, Weight::Required) => "FAILED",
            (Answer::Failed, Weight::Advisory) => "advisory",
        };
        leaf(format!("{mark}  probe {}: {} ({} ms)", probe.name, probe.detail, probe.duration_ms))
    });
    units.chain(probes).collect()
}

fn steps(operation: &Operation) -> Vec<Node> {
    let one = |step: &rollback::model::operation::Step| {
        let again = if step.recovered { ", after a crash" } else { "" };
        let text = format!("{}  {}{again}", explain::effect(&step.effect), duration(step.duration_us));
        match &step.end {
            EffectEnd::Ensured => leaf(text),
            EffectEnd::Judged { verdict, health: found } => {
                let mut below = vec![leaf(explain::verdict(*verdict))];
                below.extend(health(found));
                node(text, below)
            }
            EffectEnd::Decided { why, .. } => node(text, vec![leaf(why.clone())]),
            EffectEnd::Failed { error } => node(text, vec![leaf(format!("FAILED  {error}"))]),
        }
    };
    operation.steps.iter().map(one).collect()
}

/// Prints an operation from its trigger to its result.
#[must_use]
pub fn operation(operation: &Operation, evidence: &[Evidence], now: Timestamp) -> String {
    let plan = &operation.plan;
    let trigger = match operation.trigger {
        Trigger::Manual => "manual",
        Trigger::Alert => "an alert from outside",
        Trigger::External => "`current` was switched by another hand",
    };
    let reason = plan.request.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let force = if plan.request.force { ", forced" } else { "" };
    let mut nodes = vec![leaf(format!("trigger: {trigger}{force}, by {}{reason}", operation.actor))];
    nodes.extend(decision(plan, now));
    nodes.push(node("steps", steps(operation)));
    if operation.recoveries > 0 {
        nodes.push(leaf(format!("taken up again after a crash {} times", operation.recoveries)));
    }
    let confirmed = operation.watched.as_ref().and_then(|watched| watched.confirmed_by.as_ref());
    nodes.extend(confirmed.map(|by| leaf(format!("confirmed by {by}"))));
    nodes.extend(operation.took_over.map(|other| leaf(format!("took the lease over from operation {other}"))));
    for saved in evidence {
        let of = saved.release.as_ref().map_or("what ran".to_owned(), |id| format!("`{id}`"));
        let mut below = health(&saved.health);
        below.extend(saved.processes.iter().map(|line| leaf(line.as_str())));
        if !saved.journal.is_empty() {
            below.push(node(
                "last lines of its journal",
                saved.journal.iter().map(|line| leaf(line.as_str())).collect(),
            ));
        }
        nodes.push(node(format!("evidence of {of}"), below));
    }
    nodes.push(leaf(format!("result: {}", explain::phase(&operation.phase))));
    nodes.push(leaf(format!("operation {}", operation.id)));
    tree(&title(plan), &nodes)
}

/// Prints units and probes as one short cell: `ok`, or what fails.
#[must_use]
pub fn health_cell(found: &Health) -> String {
    let unit =
        found.units.iter().find(|unit| unit.active != UnitActive::Active).map(|u| format!("{} {}", u.name, u.sub));
    let probe =
        found.probes.iter().find(|probe| probe.answer == Answer::Failed).map(|p| format!("{}: {}", p.name, p.detail));
    unit.or(probe).unwrap_or_else(|| "ok".to_owned())
}
