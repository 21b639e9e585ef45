//! Derives the rows of the projections from one record: a pure function, shared by append and audit.

use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::effect::Effect;
use rollback::model::ids::{ComponentName, Environment, ReleaseId};
use rollback::model::operation::{Operation, OperationType, Outcome, Trigger};
use rollback::model::record::{Mark, Record, ResultWord};
use rollback::model::refusal::Refusal;
use rollback::model::release::Manifest;
use rollback::model::text::Text;
use rusqlite::types::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chain::time_text;
use super::schema::{ACTIVATIONS, ADOPTED, GOODS, OPERATIONS, PINS, QUARANTINES, STATES, Table};

/// One row of a projection: its table and the values of the table's columns after `sequence`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The table.
    pub(crate) table: &'static Table,
    /// The values, in the order of the table's columns.
    pub(crate) values: Vec<Value>,
}

/// What the rows of a record rest on besides the record: what earlier records have left.
pub(crate) trait Earlier {
    /// The largest time among the lines of operations before this record; none when there is no line.
    fn peak(&self) -> rusqlite::Result<Option<String>>;

    /// The tree digest with which a release was adopted last.
    fn adopted(
        &self,
        environment: &Environment,
        component: &ComponentName,
        release: &ReleaseId,
    ) -> rusqlite::Result<Option<Digest>>;

    /// Tells whether a digest is good already.
    fn is_good(&self, environment: &Environment, component: &ComponentName, tree: &Digest) -> rusqlite::Result<bool>;
}

/// What stands in the place of `ended` for the evidence of an operation: less than that of its start and its end.
pub(crate) const EVIDENCE: i64 = -1;

/// Derives the rows of a record that was written at `at`: one per table at most.
///
/// # Errors
/// When `earlier` cannot answer.
pub(crate) fn projection(record: &Record, at: Timestamp, earlier: &dyn Earlier) -> rusqlite::Result<Vec<Row>> {
    match record {
        Record::ReleaseAdopted { component, environment, manifest }
        | Record::ReleasePushed { component, environment, manifest } => {
            Ok(vec![adopted_row(environment, component, manifest)])
        }
        Record::ActivationFound { component, environment, release } => {
            Ok(vec![activation(environment, component, release, at, None)])
        }
        Record::OperationStarted { operation } => Ok(vec![state(operation, false)]),
        Record::OperationEnded { operation, .. } => ended(operation, at, earlier),
        Record::EvidenceSaved { operation, .. } => {
            Ok(vec![Row { table: &STATES, values: vec![text(&operation.to_string()), Value::Integer(EVIDENCE)] }])
        }
        Record::OperationRefused { operation, component, environment, actor, refusal } => {
            let line = Line {
                operation: operation.to_string(),
                at,
                environment: environment.as_ref(),
                component: component.as_ref(),
                operation_type: None,
                // Only people are refused here: what the agent begins by itself it has planned before.
                trigger: Trigger::Manual,
                actor,
                reason: None,
                from: None,
                to: None,
                result: ResultWord::Refused,
                cause: Some(Refusal::code(refusal)),
                duration_ms: 0,
            };
            Ok(vec![line.row(earlier)?])
        }
        Record::Quarantined { tree, reason, actor } => Ok(vec![quarantine(tree, reason, actor, at, false)]),
        Record::QuarantineLifted { tree, reason, actor } => Ok(vec![quarantine(tree, reason, actor, at, true)]),
        Record::ReleaseMarked { component, environment, tree, mark: Mark::Blessed, .. } => {
            let is_new = !earlier.is_good(environment, component, tree)?;
            Ok(is_new.then(|| good(environment, component, tree, at)).into_iter().collect())
        }
        Record::ReleaseMarked { component, environment, release, mark, .. } => {
            let pinned = Value::Integer(i64::from(*mark == Mark::Pinned));
            let values = vec![text(environment.as_str()), text(component.as_str()), text(release.as_str()), pinned];
            Ok(vec![Row { table: &PINS, values }])
        }
        Record::ReleaseRemoved { .. }
        | Record::AlertReceived { .. }
        | Record::PushRefused { .. }
        | Record::AgentStarted { .. }
        | Record::AccessDenied { .. }
        | Record::LeaseTakenOver { .. }
        | Record::ReleaseDamaged { .. }
        | Record::ConfigurationReloaded { .. } => Ok(Vec::new()),
    }
}

/// Writes a unit variant as the word that serde gives it.
pub(crate) fn word<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("unit variants become strings, not {other:?}"),
    }
}

/// Reads a word that [`word`] wrote.
///
/// # Errors
/// When no variant has that word.
pub(crate) fn from_word<T: DeserializeOwned>(word: String) -> Result<T, serde_json::Error> {
    serde_json::from_value(serde_json::Value::String(word))
}

struct Line<'a> {
    operation: String,
    at: Timestamp,
    environment: Option<&'a Environment>,
    component: Option<&'a ComponentName>,
    operation_type: Option<OperationType>,
    trigger: Trigger,
    actor: &'a str,
    reason: Option<&'a str>,
    from: Option<&'a ReleaseId>,
    to: Option<&'a ReleaseId>,
    result: ResultWord,
    cause: Option<&'a str>,
    duration_ms: u64,
}

impl Line<'_> {
    fn row(&self, earlier: &dyn Earlier) -> rusqlite::Result<Row> {
        let at = time_text(self.at);
        let peak = earlier.peak()?.map_or_else(|| at.clone(), |peak| peak.max(at.clone()));
        let values = vec![
            text(&self.operation),
            Value::Text(at),
            Value::Text(peak),
            optional(self.environment),
            optional(self.component),
            self.operation_type.map_or(Value::Null, |kind| Value::Text(word(kind))),
            Value::Text(word(self.trigger)),
            text(self.actor),
            optional(self.reason.as_ref()),
            optional(self.from),
            optional(self.to),
            Value::Text(word(self.result)),
            optional(self.cause.as_ref()),
            Value::Integer(i64::try_from(self.duration_ms).unwrap_or(i64::MAX)),
        ];
        Ok(Row { table: &OPERATIONS, values })
    }
}

fn ended(operation: &Operation, at: Timestamp, earlier: &dyn Earlier) -> rusqlite::Result<Vec<Row>> {
    let plan = &operation.plan;
    let Some(outcome) = operation.outcome() else {
        // An operation that is recorded as ended without an outcome has none of an outcome's consequences.
        return Ok(vec![state(operation, true)]);
    };
    let (result, to, cause) = match outcome {
        Outcome::Done { release } => (ResultWord::Done, Some(release), None),
        Outcome::Unverified { release, cause, .. } => (ResultWord::Unverified, Some(release), Some(cause.as_str())),
        Outcome::PutBack { release, cause } => (ResultWord::PutBack, Some(release), Some(cause.as_str())),
        Outcome::NeedsOperator { release, cause } => {
            (ResultWord::NeedsOperator, release.as_ref(), Some(cause.as_str()))
        }
        Outcome::Superseded { .. } => (ResultWord::Superseded, None, None),
    };
    let line = Line {
        operation: operation.id.to_string(),
        at: operation.accepted_at,
        environment: Some(&plan.environment),
        component: Some(&plan.component),
        operation_type: Some(plan.operation_type),
        trigger: operation.trigger,
        actor: &operation.actor,
        reason: plan.request.reason.as_ref().map(rollback::model::text::Text::as_str),
        from: plan.from.as_ref(),
        to,
        result,
        cause,
        duration_ms: duration_ms(operation, at),
    };
    let mut rows = vec![line.row(earlier)?, state(operation, true)];
    if let Some(release) = activated(operation, outcome) {
        rows.push(activation(&plan.environment, &plan.component, release, at, Some(operation.id.to_string())));
    }
    if let Outcome::Done { release } = outcome {
        let tree = if plan.candidates.first() == Some(release) {
            Some(plan.target.tree)
        } else {
            earlier.adopted(&plan.environment, &plan.component, release)?
        };
        if let Some(tree) = tree
            && !earlier.is_good(&plan.environment, &plan.component, &tree)?
        {
            rows.push(good(&plan.environment, &plan.component, &tree, at));
        }
    }
    Ok(rows)
}

/// Tells which release an outcome has made current: a release that was put back counts only when `current` had moved.
fn activated<'a>(operation: &Operation, outcome: &'a Outcome) -> Option<&'a ReleaseId> {
    match outcome {
        Outcome::Done { release } | Outcome::Unverified { release, .. } => Some(release),
        Outcome::PutBack { release, .. } => {
            let switched = operation.steps.iter().any(|step| matches!(step.effect, Effect::CurrentLinked { .. }));
            switched.then_some(release)
        }
        Outcome::NeedsOperator { release, .. } => release.as_ref(),
        Outcome::Superseded { .. } => None,
    }
}

/// Takes the time by the wall clock, and the sum of the steps when that clock has gone back in between.
fn duration_ms(operation: &Operation, at: Timestamp) -> u64 {
    let steps_ms = operation.steps.iter().map(|step| step.duration_us).sum::<u64>() / 1_000;
    let wall_ms = at.as_millisecond().saturating_sub(operation.accepted_at.as_millisecond());
    u64::try_from(wall_ms).unwrap_or(0).max(steps_ms)
}

fn good(environment: &Environment, component: &ComponentName, tree: &Digest, at: Timestamp) -> Row {
    let values = vec![text(environment.as_str()), text(component.as_str()), blob(tree), text(&time_text(at))];
    Row { table: &GOODS, values }
}

fn quarantine(tree: &Digest, reason: &Text, actor: &str, at: Timestamp, lifted: bool) -> Row {
    let values =
        vec![blob(tree), text(reason.as_str()), text(actor), text(&time_text(at)), Value::Integer(i64::from(lifted))];
    Row { table: &QUARANTINES, values }
}

fn adopted_row(environment: &Environment, component: &ComponentName, manifest: &Manifest) -> Row {
    let values =
        vec![text(environment.as_str()), text(component.as_str()), text(manifest.id.as_str()), blob(&manifest.tree)];
    Row { table: &ADOPTED, values }
}

fn activation(
    environment: &Environment,
    component: &ComponentName,
    release: &ReleaseId,
    at: Timestamp,
    operation: Option<String>,
) -> Row {
    let values = vec![
        text(environment.as_str()),
        text(component.as_str()),
        text(release.as_str()),
        text(&time_text(at)),
        operation.map_or(Value::Null, Value::Text),
    ];
    Row { table: &ACTIVATIONS, values }
}

fn state(operation: &Operation, ended: bool) -> Row {
    Row { table: &STATES, values: vec![text(&operation.id.to_string()), Value::Integer(i64::from(ended))] }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn optional<T: AsRef<str>>(value: Option<&T>) -> Value {
    value.map_or(Value::Null, |value| text(value.as_ref()))
}

fn blob(digest: &Digest) -> Value {
    Value::Blob(digest.as_bytes().to_vec())
}
