//! Reads the history: head, records, lines by filter, what is remembered of a component, leases.

use std::fmt::Write as _;
use std::str::FromStr;

use rollback::model::digest::Digest;
use rollback::model::host::{Activation, Lease};
use rollback::model::ids::{ComponentName, Environment, OperationId};
use rollback::model::operation::ChainHead;
use rollback::model::record::{ChainedRecord, HistoryFilter, HistoryLine, Record};
use rollback::model::release::Quarantine;
use rollback::model::text::Text;
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use crate::ports::{Memory, StoredOperation};

use super::chain::{GENESIS, time_text};
use super::database::WorkError;
use super::projection::{EVIDENCE, from_word, word};

/// Lines or records that one call gives at most: a reply of a few megabytes, read in some tens of
/// milliseconds. Who wants more asks again.
pub const ROWS_MAX: u32 = 10_000;

/// Gives the head of the chain.
pub(crate) fn head(connection: &Connection) -> rusqlite::Result<ChainHead> {
    connection
        .prepare_cached("SELECT sequence, digest FROM records ORDER BY sequence DESC LIMIT 1")?
        .query_row([], |row| Ok(ChainHead { sequence: read_sequence(row, 0)?, digest: read_digest(row, 1)? }))
        .optional()
        .map(|head| head.unwrap_or(ChainHead { sequence: 0, digest: GENESIS }))
}

/// Finds the newest state of an operation.
pub(crate) fn operation(connection: &Connection, id: OperationId) -> Result<Option<StoredOperation>, WorkError> {
    let found = connection
        .prepare_cached(
            "SELECT sequence, body FROM records WHERE sequence = \
             (SELECT sequence FROM states WHERE operation = ?1 ORDER BY ended DESC, sequence DESC LIMIT 1)",
        )?
        .query_row([id.to_string()], |row| Ok((read_sequence(row, 0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((sequence, body)) = found else { return Ok(None) };
    match read_body(sequence, &body)? {
        Record::OperationStarted { operation } => {
            Ok(Some(StoredOperation { operation: *operation, evidence: Vec::new(), ended: false }))
        }
        Record::OperationEnded { operation, mut evidence } => {
            // What was read after the end belongs to what was left first.
            if let (Some(first), Some(journal)) = (evidence.first_mut(), saved_later(connection, id)?) {
                first.journal = journal;
            }
            Ok(Some(StoredOperation { operation: *operation, evidence, ended: true }))
        }
        other => {
            let source = format!("it is `{}`, not a state of operation {id}", other.kind()).into();
            Err(WorkError::Value { sequence, source })
        }
    }
}

fn saved_later(connection: &Connection, id: OperationId) -> Result<Option<Vec<String>>, WorkError> {
    let found = connection
        .prepare_cached(
            "SELECT sequence, body FROM records WHERE sequence = \
             (SELECT sequence FROM states WHERE operation = ?1 AND ended = ?2 ORDER BY sequence DESC LIMIT 1)",
        )?
        .query_row(params![id.to_string(), EVIDENCE], |row| Ok((read_sequence(row, 0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((sequence, body)) = found else { return Ok(None) };
    match read_body(sequence, &body)? {
        Record::EvidenceSaved { journal, .. } => Ok(Some(journal)),
        _ => Ok(None),
    }
}

/// Gives the records after a sequence number, oldest first, at most `records_max` and [`ROWS_MAX`].
pub(crate) fn after(connection: &Connection, sequence: u64, records_max: u32) -> Result<Vec<ChainedRecord>, WorkError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, at, body, previous, digest FROM records WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let mut rows = statement.query(params![stored(sequence), records_max.min(ROWS_MAX)])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = read_sequence(row, 0)?;
        records.push(ChainedRecord {
            sequence,
            at: parsed(row, 1)?,
            record: read_body(sequence, &row.get::<_, String>(2)?)?,
            previous: read_digest(row, 3)?,
            digest: read_digest(row, 4)?,
        });
    }
    Ok(records)
}

/// Lists operations by filter, newest first, at most `filter.limit` and [`ROWS_MAX`]; a limit of 0 means no own limit.
pub(crate) fn list(connection: &Connection, filter: &HistoryFilter) -> Result<Vec<HistoryLine>, WorkError> {
    let (sql, values) = list_query(filter);
    let mut statement = connection.prepare_cached(&sql)?;
    let lines = statement.query_map(rusqlite::params_from_iter(values), read_line)?;
    Ok(lines.collect::<rusqlite::Result<_>>()?)
}

/// Activations that are remembered of a component at most, the newest: years of releases, read in a millisecond by every
/// plan.
const ACTIVATIONS_MAX: u32 = 1_000;

/// Gives what is remembered of a component: the newest [`ACTIVATIONS_MAX`] activations, oldest first, the digests that are
/// good, each since when it first was, newest first, the quarantines in force, and the releases that are pinned.
pub(crate) fn memory(
    connection: &Connection,
    environment: &Environment,
    component: &ComponentName,
) -> Result<Memory, WorkError> {
    let of = [environment.as_str(), component.as_str()];
    let mut activations = connection
        .prepare_cached(
            "SELECT sequence, release, at, operation FROM activations WHERE environment = ?1 AND component = ?2 \
             ORDER BY sequence DESC LIMIT ?3",
        )?
        .query_map(params![of[0], of[1], ACTIVATIONS_MAX], |row| {
            Ok(Activation {
                sequence: read_sequence(row, 0)?,
                release: parsed(row, 1)?,
                at: parsed(row, 2)?,
                operation: parsed_optional(row, 3)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    activations.reverse();
    let good = connection
        .prepare_cached("SELECT tree, at FROM goods WHERE environment = ?1 AND component = ?2 ORDER BY sequence DESC")?
        .query_map(of, |row| Ok((read_digest(row, 0)?, parsed(row, 1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let quarantines = connection
        .prepare_cached(
            "SELECT tree, reason, actor, at FROM \
             (SELECT *, max(sequence) AS newest FROM quarantines GROUP BY tree) WHERE NOT lifted ORDER BY newest",
        )?
        .query_map([], |row| {
            let reason = Text::new(&row.get::<_, String>(1)?).map_err(|error| unreadable(1, error))?;
            Ok((read_digest(row, 0)?, Quarantine { reason, by: row.get(2)?, since: parsed(row, 3)? }))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let pins = connection
        .prepare_cached(
            "SELECT release FROM (SELECT release, pinned, max(sequence) AS newest FROM pins \
             WHERE environment = ?1 AND component = ?2 GROUP BY release) WHERE pinned ORDER BY newest",
        )?
        .query_map(of, |row| parsed(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Memory { activations, good, quarantines, pins })
}

/// Gives all leases, by environment.
pub(crate) fn leases(connection: &Connection) -> Result<Vec<Lease>, WorkError> {
    let mut statement = connection.prepare_cached(
        "SELECT environment, operation, holder, reason, since, expires FROM leases ORDER BY environment",
    )?;
    let leases = statement.query_map([], |row| {
        Ok(Lease {
            environment: parsed(row, 0)?,
            operation: parsed(row, 1)?,
            holder: row.get(2)?,
            reason: row.get(3)?,
            since: parsed(row, 4)?,
            expires: parsed(row, 5)?,
            gives_way: false,
        })
    })?;
    Ok(leases.collect::<rusqlite::Result<_>>()?)
}

/// The index that gives the newest lines of a combination of filters, by which of environment, component, result and
/// actor are set; SQLite, left alone, may take one that fits only in part and read a million rows.
fn index(filter: &HistoryFilter) -> Option<&'static str> {
    let set =
        (filter.environment.is_some(), filter.component.is_some(), filter.result.is_some(), filter.actor.is_some());
    match set {
        (false, false, false, false) => None,
        (true, false, false, false) => Some("operations_e"),
        (false, true, false, false) => Some("operations_c"),
        (false, false, true, false) => Some("operations_r"),
        (false, false, false, true) => Some("operations_a"),
        (true, true, false, false) => Some("operations_ec"),
        (true, false, true, false) => Some("operations_er"),
        (true, false, false, true) => Some("operations_ea"),
        (false, true, true, false) => Some("operations_cr"),
        (false, true, false, true) => Some("operations_ca"),
        (false, false, true, true) => Some("operations_ra"),
        (true, true, true, false) => Some("operations_ecr"),
        (true, true, false, true) => Some("operations_eca"),
        (true, false, true, true) => Some("operations_era"),
        (false, true, true, true) => Some("operations_cra"),
        (true, true, true, true) => Some("operations_ecra"),
    }
}

/// Writes the query of a filter.
///
/// A time becomes a place in the sequence first. Nothing before the first row whose `peak` reaches `since` can be at or
/// after it. Nothing after the last row whose `peak` is below `until` can be before it, but for the few rows that were
/// written while the clock was behind, and those have an index of their own.
fn list_query(filter: &HistoryFilter) -> (String, Vec<Value>) {
    let mut sql = "SELECT operation, at, environment, component, operation_type, cause_of_start, actor, reason, \
                   from_release, to_release, result, cause, duration_ms FROM operations"
        .to_owned();
    if let Some(index) = index(filter) {
        sql.push_str(" INDEXED BY ");
        sql.push_str(index);
    }
    sql.push_str(" WHERE TRUE");
    let mut values = Vec::new();
    let mut add = |condition: &str, value: String| {
        values.push(Value::Text(value));
        let place = format!("?{}", values.len());
        sql.push_str(" AND ");
        sql.push_str(&condition.replace('?', &place));
    };
    if let Some(environment) = &filter.environment {
        add("environment = ?", environment.to_string());
    }
    if let Some(component) = &filter.component {
        add("component = ?", component.to_string());
    }
    if let Some(result) = filter.result {
        add("result = ?", word(result));
    }
    if let Some(actor) = &filter.actor {
        add("actor = ?", actor.clone());
    }
    if let Some(since) = filter.since {
        add(
            "at >= ? AND sequence >= \
             (SELECT sequence FROM operations WHERE peak >= ? ORDER BY peak, sequence LIMIT 1)",
            time_text(since),
        );
    }
    if let Some(until) = filter.until {
        add(
            "at < ? AND sequence <= max(\
             coalesce((SELECT sequence FROM operations WHERE peak < ? ORDER BY peak DESC, sequence DESC LIMIT 1), 0), \
             coalesce((SELECT max(sequence) FROM operations INDEXED BY operations_behind \
             WHERE at < peak AND at < ?), 0))",
            time_text(until),
        );
    }
    let limit = if filter.limit == 0 { ROWS_MAX } else { filter.limit.min(ROWS_MAX) };
    write!(sql, " ORDER BY sequence DESC LIMIT {limit}").expect("a string takes every text");
    (sql, values)
}

fn read_line(row: &Row<'_>) -> rusqlite::Result<HistoryLine> {
    let word = |at| row.get::<_, Option<String>>(at);
    Ok(HistoryLine {
        operation: parsed(row, 0)?,
        at: parsed(row, 1)?,
        environment: parsed_optional(row, 2)?,
        component: parsed_optional(row, 3)?,
        operation_type: word(4)?.map(|text| parsed_word(4, text)).transpose()?,
        trigger: parsed_word(5, row.get(5)?)?,
        actor: row.get(6)?,
        reason: row.get(7)?,
        from: parsed_optional(row, 8)?,
        to: parsed_optional(row, 9)?,
        result: parsed_word(10, row.get(10)?)?,
        cause: row.get(11)?,
        duration_ms: row.get::<_, i64>(12)?.unsigned_abs(),
    })
}

/// Reads the record of a body.
///
/// # Errors
/// When this version does not know such a record.
pub(crate) fn read_body(sequence: u64, body: &str) -> Result<Record, WorkError> {
    serde_json::from_str(body).map_err(|error| WorkError::Value { sequence, source: error.into() })
}

/// Writes a sequence number as SQLite takes it. One record a nanosecond reaches the limit in 292 years.
pub(crate) fn stored(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

pub(crate) fn read_sequence(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::unsigned_abs)
}

pub(crate) fn read_digest(row: &Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    row.get(at).map(Digest::from_bytes)
}

fn parsed<T>(row: &Row<'_>, at: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(at)?.parse().map_err(|error| unreadable(at, error))
}

fn parsed_optional<T>(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, Option<String>>(at)?.map(|text| text.parse().map_err(|error| unreadable(at, error))).transpose()
}

fn parsed_word<T: DeserializeOwned>(at: usize, text: String) -> rusqlite::Result<T> {
    from_word(text).map_err(|error| unreadable(at, error))
}

fn unreadable(at: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
}
