//! Probes and units: what is asked, what was seen, and the verdict.

use serde::{Deserialize, Serialize};

use super::decision::Severity;
use super::ids::{ProbeName, UnitName};

/// Whether a probe decides or only reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Its failure is the release's failure.
    Required,
    /// Its failure is reported.
    Advisory,
}

/// What came of asking a probe. As JSON it is `true`, `false` or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Option<bool>", from = "Option<bool>")]
pub enum Answer {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It cannot tell: there are no data, or a limit is exceeded and not for long enough yet.
    Undecided,
}

impl From<Answer> for Option<bool> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Passed => Some(true),
            Answer::Failed => Some(false),
            Answer::Undecided => None,
        }
    }
}

impl From<Option<bool>> for Answer {
    fn from(passed: Option<bool>) -> Self {
        match passed {
            Some(true) => Self::Passed,
            Some(false) => Self::Failed,
            None => Self::Undecided,
        }
    }
}

/// What one probe said, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The probe.
    pub name: ProbeName,
    /// Whether it decides.
    pub weight: Weight,
    /// What came of it after its consecutive tries.
    #[serde(rename = "passed")]
    pub answer: Answer,
    /// How many tries were made.
    pub tries: u32,
    /// How long the last try took, in milliseconds.
    pub duration_ms: u64,
    /// What it saw, made safe to print: `HTTP 200`, `connection refused`.
    pub detail: String,
    /// How bad its failure is.
    #[serde(default)]
    pub severity: Severity,
}

/// The state of a unit as a service manager tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// The unit.
    pub name: UnitName,
    /// Whether the manager knows it and lets it start.
    pub load: UnitLoad,
    /// Whether it runs.
    pub active: UnitActive,
    /// The manager's own finer word: `running`, `exited`, `auto-restart`, ….
    pub sub: String,
    /// The process id of the main process, when there is one.
    pub main_pid: Option<u32>,
    /// The identifier of this start of the unit, 32 hexadecimal digits; empty when it never ran.
    pub invocation: String,
    /// How often the manager has restarted it by itself.
    pub restarts: u32,
}

/// Whether a unit can be started at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitLoad {
    /// It is loaded.
    Loaded,
    /// An administrator has masked it.
    Masked,
    /// There is no such unit.
    NotFound,
    /// Its file is in error.
    Error,
}

/// Whether a unit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitActive {
    /// It runs.
    Active,
    /// It is being started.
    Activating,
    /// It is being stopped.
    Deactivating,
    /// It does not run.
    Inactive,
    /// It ended in failure.
    Failed,
}

/// What units and probes say together about the running release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// One state per unit.
    pub units: Vec<UnitState>,
    /// One result per probe; empty when none were run.
    pub probes: Vec<ProbeResult>,
}

/// The judgement of a release after a change, relative to the baseline before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything required passes.
    Passing,
    /// What passed before fails now.
    ReleaseBad,
    /// What failed before fails still: the release is not to blame.
    EnvironmentBad,
    /// Nothing required could be asked.
    Inconclusive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_stored_as_they_were_before_there_were_three() {
        for (json, answer) in [("true", Answer::Passed), ("false", Answer::Failed), ("null", Answer::Undecided)] {
            let text = format!(
                r#"{{"name":"it","weight":"required","passed":{json},"tries":1,"duration_ms":2,"detail":"words","severity":"critical"}}"#
            );
            let read: ProbeResult = serde_json::from_str(&text).expect("a result");
            assert_eq!(read.answer, answer);
            assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
        }
    }
}
