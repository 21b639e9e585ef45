//! Units, probes and verdicts.

use super::{ConvertError, enum_words, list, name, word};
use crate::model::decision::Severity;
use crate::model::health::{Answer, Health, ProbeResult, UnitActive, UnitLoad, UnitState, Verdict, Weight};
use crate::wire::v1;

enum_words!(UnitLoad, v1::UnitLoad, "load", {
    Loaded <=> Loaded, Masked <=> Masked, NotFound <=> NotFound, Error <=> Error,
});
enum_words!(UnitActive, v1::UnitActive, "active", {
    Active <=> Active, Activating <=> Activating, Deactivating <=> Deactivating, Inactive <=> Inactive, Failed <=> Failed,
});
enum_words!(Severity, v1::Severity, "severity", {
    Low <=> Low, Medium <=> Medium, High <=> High, Critical <=> Critical,
});
enum_words!(Verdict, v1::Verdict, "verdict", {
    Passing <=> Passing, ReleaseBad <=> ReleaseBad, EnvironmentBad <=> EnvironmentBad, Inconclusive <=> Inconclusive,
});

/// Reads a severity; one that an older version did not send is the default.
pub(super) fn severity_in(field: &'static str, value: i32) -> Result<Severity, ConvertError> {
    match word::<v1::Severity>(field, value)? {
        v1::Severity::Unspecified => Ok(Severity::default()),
        severity => severity.try_into(),
    }
}

impl From<UnitState> for v1::UnitState {
    fn from(unit: UnitState) -> Self {
        Self {
            name: unit.name.to_string(),
            load: v1::UnitLoad::from(unit.load).into(),
            active: v1::UnitActive::from(unit.active).into(),
            sub: unit.sub,
            main_pid: unit.main_pid.unwrap_or(0),
            invocation: unit.invocation,
            restarts: unit.restarts,
        }
    }
}

impl TryFrom<v1::UnitState> for UnitState {
    type Error = ConvertError;

    fn try_from(unit: v1::UnitState) -> Result<Self, ConvertError> {
        Ok(Self {
            name: name("name", &unit.name)?,
            load: word::<v1::UnitLoad>("load", unit.load)?.try_into()?,
            active: word::<v1::UnitActive>("active", unit.active)?.try_into()?,
            sub: unit.sub,
            main_pid: (unit.main_pid != 0).then_some(unit.main_pid),
            invocation: unit.invocation,
            restarts: unit.restarts,
        })
    }
}

impl From<ProbeResult> for v1::ProbeResult {
    fn from(probe: ProbeResult) -> Self {
        Self {
            name: probe.name.to_string(),
            required: match probe.weight {
                Weight::Required => true,
                Weight::Advisory => false,
            },
            passed: probe.answer == Answer::Passed,
            tries: probe.tries,
            duration_ms: probe.duration_ms,
            detail: probe.detail,
            undecided: probe.answer == Answer::Undecided,
            severity: v1::Severity::from(probe.severity).into(),
        }
    }
}

impl TryFrom<v1::ProbeResult> for ProbeResult {
    type Error = ConvertError;

    fn try_from(probe: v1::ProbeResult) -> Result<Self, ConvertError> {
        Ok(Self {
            name: name("name", &probe.name)?,
            weight: if probe.required { Weight::Required } else { Weight::Advisory },
            answer: match (probe.undecided, probe.passed) {
                (true, _) => Answer::Undecided,
                (false, true) => Answer::Passed,
                (false, false) => Answer::Failed,
            },
            tries: probe.tries,
            duration_ms: probe.duration_ms,
            detail: probe.detail,
            severity: severity_in("severity", probe.severity)?,
        })
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        Self {
            units: health.units.into_iter().map(Into::into).collect(),
            probes: health.probes.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Health> for Health {
    type Error = ConvertError;

    fn try_from(health: v1::Health) -> Result<Self, ConvertError> {
        Ok(Self {
            units: list("units", health.units, TryInto::try_into)?,
            probes: list("probes", health.probes, TryInto::try_into)?,
        })
    }
}
