//! Judges a release by its units and probes, relative to how the one before it did.
//!
//! | before | after | verdict |
//! |---|---|---|
//! | any | a unit does not run, or is not the same start of it as at the window's begin | `release_bad` |
//! | passed, or never asked | a required probe fails | `release_bad` |
//! | failed | the same required probe fails | `environment_bad` |
//! | any | everything required passes | `passing` |
//!
//! `release_bad` wins over `environment_bad`. Advisory probes only report.

use crate::model::health::{Health, ProbeResult, UnitActive, UnitState, Verdict, Weight};

fn required(probe: &ProbeResult) -> bool {
    match probe.weight {
        Weight::Required => true,
        Weight::Advisory => false,
    }
}

/// Tells whether all units run and every required probe that was asked passes.
#[must_use]
pub fn is_healthy(health: &Health) -> bool {
    health.units.iter().all(|unit| unit.active == UnitActive::Active)
        && health.probes.iter().all(|probe| probe.passed || !required(probe))
}

/// Judges, and says why in one sentence, which is empty for `passing`.
///
/// `window` holds the units' states at the begin of the stability window.
#[must_use]
pub fn judge(baseline: &Health, after: &Health, window: &[UnitState]) -> (Verdict, String) {
    if let Some(cause) = after.units.iter().find_map(|unit| unstable(unit, window)) {
        return (Verdict::ReleaseBad, cause);
    }
    let failed: Vec<&ProbeResult> = after.probes.iter().filter(|p| required(p) && !p.passed).collect();
    let failed_before =
        |probe: &ProbeResult| baseline.probes.iter().any(|before| before.name == probe.name && !before.passed);
    let say = |probe: &ProbeResult| format!("probe `{}` fails: {}", probe.name, probe.detail);
    if let Some(probe) = failed.iter().find(|probe| !failed_before(probe)) {
        return (Verdict::ReleaseBad, say(probe));
    }
    if let Some(probe) = failed.first() {
        return (Verdict::EnvironmentBad, format!("{}, as it did before", say(probe)));
    }
    if after.units.is_empty() {
        return (Verdict::Inconclusive, "no unit could be asked".to_owned());
    }
    (Verdict::Passing, String::new())
}

fn unstable(unit: &UnitState, window: &[UnitState]) -> Option<String> {
    let name = &unit.name;
    if unit.active != UnitActive::Active {
        return Some(format!("unit `{name}` does not run: it is {}", unit.sub));
    }
    let begin = window.iter().find(|begin| begin.name == *name)?;
    if begin.active != UnitActive::Active {
        return Some(format!("unit `{name}` did not run when the stability window began: it was {}", begin.sub));
    }
    if unit.restarts != begin.restarts {
        return Some(format!("unit `{name}` was restarted {} times", unit.restarts.saturating_sub(begin.restarts)));
    }
    if unit.invocation != begin.invocation || unit.main_pid != begin.main_pid {
        return Some(format!("unit `{name}` is not the start that is verified: its main process changed"));
    }
    None
}
