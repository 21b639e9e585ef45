//! Prints a report as a table for people and as JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::{Goal, Report, Row, Samples};
use crate::machine::Machine;

/// Writes the table in Markdown, so that it can be put into a page as it is.
pub(crate) fn text(machine: &Machine, load_after: &str, report: &Report) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!(
        "Kernel {}, {}, {}, {}, {}; load before {}, after {load_after}.\n",
        machine.kernel, machine.cpus, machine.memory, machine.file_system, machine.systemd, machine.load_before
    ));
    line("| figure | ours: median [min–max] | against: median [min–max] | ratio | goal | met |".to_owned());
    line("|---|---|---|---|---|---|".to_owned());
    report.rows.iter().for_each(|row| line(row_text(row)));
    if !report.skipped.is_empty() {
        line(String::new());
    }
    for (name, reason) in &report.skipped {
        line(format!("skipped: {name}: {reason}"));
    }
    text
}

fn row_text(row: &Row) -> String {
    let floor = row.floor.as_ref().map_or_else(
        || "–".to_owned(),
        |(name, samples)| format!("{name}: {}", samples_text(samples, row.unit, row.goal)),
    );
    let ratio = row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
    let goal = match row.goal {
        Goal::Ratio(most) => format!("≤ {most} ×"),
        Goal::RatioOfP99(most) => format!("p99 ≤ {most} ×"),
        Goal::AtMost(most) => format!("≤ {most} {}", row.unit),
        Goal::None => "–".to_owned(),
    };
    let met = match row.is_met() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "–",
    };
    format!(
        "| {} {} | {} | {floor} | {ratio} | {goal} | {met} |",
        row.figure,
        row.what,
        samples_text(&row.ours, row.unit, row.goal)
    )
}

fn samples_text(samples: &Samples, unit: &str, goal: Goal) -> String {
    if samples.count() == 1 {
        return format!("{} {unit}", short(samples.median()));
    }
    let mut text = format!("{} [{}–{}] {unit}", short(samples.median()), short(samples.min()), short(samples.max()));
    if let Goal::RatioOfP99(_) = goal {
        write!(text, ", p99 {}", short(samples.p99())).expect("a string takes every write");
    }
    text
}

/// Three digits that count, and whole numbers as they are.
fn short(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Writes the report as JSON.
pub(crate) fn json(machine: &Machine, load_after: &str, report: &Report) -> Value {
    let samples = |samples: &Samples| {
        json!({
            "median": samples.median(), "min": samples.min(), "max": samples.max(), "p99": samples.p99(),
            "count": samples.count(),
        })
    };
    let rows: Vec<Value> = report
        .rows
        .iter()
        .map(|row| {
            json!({
                "figure": row.figure,
                "what": row.what,
                "unit": row.unit,
                "ours": samples(&row.ours),
                "against": row.floor.as_ref().map(|(name, floor)| json!({ "name": name, "samples": samples(floor) })),
                "ratio": row.ratio(),
                "goal": row.goal,
                "met": row.is_met(),
            })
        })
        .collect();
    let skipped: Vec<Value> =
        report.skipped.iter().map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
    json!({ "machine": machine, "load_after": load_after, "rows": rows, "skipped": skipped })
}
