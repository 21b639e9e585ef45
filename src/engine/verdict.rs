//! Judges a release after a change, relative to how the component did before it.

use crate::model::decision::Severity;
use crate::model::health::{Answer, Health, ProbeResult, UnitActive, UnitState, Verdict, Weight};

/// Judges what runs now.
///
/// Takes the health before the change, the health at the end of the stability window, and the units' states right
/// after the start, when the window began. Gives the verdict and its cause as one sentence, empty when it passes.
///
/// A unit that does not run, or that did not stay up with the same main process, is the release's fault. A required
/// probe is compared with the baseline. Advisory probes never decide; when something else does, they are not named. A
/// probe that cannot tell decides nothing either, as long as there is time: [`judge_at_end`] counts it.
#[must_use]
pub fn judge(baseline: &Health, after: &Health, before_window: &[UnitState]) -> (Verdict, String) {
    let mut release_bad: Vec<String> =
        after.units.iter().filter_map(|unit| unit_failure(unit, before_window)).collect();
    let mut environment_bad = Vec::new();
    for probe in required(after).filter(|probe| fails(probe)) {
        let failed_before = required(baseline).any(|before| before.name == probe.name && fails(before));
        let sentence = probe_failure(probe);
        if failed_before {
            environment_bad.push(format!("{sentence}, as before the change"));
        } else {
            release_bad.push(sentence);
        }
    }
    let unasked = unasked(baseline, after, before_window);
    if !release_bad.is_empty() {
        (Verdict::ReleaseBad, release_bad.join("; "))
    } else if !environment_bad.is_empty() {
        (Verdict::EnvironmentBad, environment_bad.join("; "))
    } else if !unasked.is_empty() {
        (Verdict::Inconclusive, unasked.join("; "))
    } else {
        (Verdict::Passing, String::new())
    }
}

/// Judges as [`judge`] does at the end of a watch: what no probe of it could tell until then leaves it inconclusive.
#[must_use]
pub fn judge_at_end(baseline: &Health, after: &Health, before_window: &[UnitState]) -> (Verdict, String) {
    let judged = judge(baseline, after, before_window);
    let open = undecided(after);
    if judged.0 != Verdict::Passing || open.is_empty() {
        return judged;
    }
    (Verdict::Inconclusive, open.join("; "))
}

/// Tells whether all units run and no required probe fails; probes that were not run or cannot tell do not count.
#[must_use]
pub fn is_healthy(health: &Health) -> bool {
    units_run(health) && !required(health).any(fails)
}

/// Tells whether all units run, whatever the probes say.
pub(super) fn units_run(health: &Health) -> bool {
    health.units.iter().all(|unit| unit.active == UnitActive::Active)
}

/// Names what is wrong in a health that was recorded without the states of its window's begin; empty when nothing is.
pub(super) fn failures(health: &Health) -> Vec<String> {
    let mut all: Vec<String> = health.units.iter().filter_map(|unit| unit_failure(unit, &[])).collect();
    all.extend(required(health).filter(|probe| fails(probe)).map(probe_failure));
    all
}

/// Names the required probes that cannot tell.
pub(super) fn undecided(health: &Health) -> Vec<String> {
    let open = required(health).filter(|probe| probe.answer == Answer::Undecided);
    open.map(|probe| format!("probe `{}` cannot tell: {}", probe.name, probe.detail)).collect()
}

fn fails(probe: &ProbeResult) -> bool {
    probe.answer == Answer::Failed
}

fn required(health: &Health) -> impl Iterator<Item = &ProbeResult> {
    // What is less than high warns or is noted, and decides nothing.
    health.probes.iter().filter(|probe| probe.weight == Weight::Required && probe.severity >= Severity::High)
}

fn probe_failure(probe: &ProbeResult) -> String {
    format!("probe `{}` fails: {}", probe.name, probe.detail)
}

fn unit_failure(unit: &UnitState, before_window: &[UnitState]) -> Option<String> {
    let name = &unit.name;
    if unit.active != UnitActive::Active {
        return Some(format!("unit `{name}` is {} ({})", active(unit.active), unit.sub));
    }
    let before = before_window.iter().find(|before| before.name == unit.name)?;
    if unit.restarts != before.restarts {
        return Some(format!("unit `{name}` was restarted by its manager while it was watched"));
    }
    if unit.invocation != before.invocation {
        return Some(format!("unit `{name}` was started again while it was watched"));
    }
    if unit.main_pid != before.main_pid {
        return Some(format!("the main process of unit `{name}` changed while it was watched"));
    }
    None
}

fn unasked(baseline: &Health, after: &Health, before_window: &[UnitState]) -> Vec<String> {
    let mut all: Vec<String> = before_window
        .iter()
        .filter(|before| after.units.iter().all(|unit| unit.name != before.name))
        .map(|before| format!("the state of unit `{}` is not known", before.name))
        .collect();
    all.extend(
        required(baseline)
            .filter(|before| after.probes.iter().all(|probe| probe.name != before.name))
            .map(|before| format!("probe `{}` was not asked", before.name)),
    );
    if after.units.is_empty() && required(after).next().is_none() && all.is_empty() {
        all.push("there is neither a unit nor a required probe to ask".to_owned());
    }
    all
}

fn active(active: UnitActive) -> &'static str {
    match active {
        UnitActive::Active => "active",
        UnitActive::Activating => "still starting",
        UnitActive::Deactivating => "stopping",
        UnitActive::Inactive => "not running",
        UnitActive::Failed => "failed",
    }
}
