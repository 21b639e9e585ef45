//! Checks the whole history: every record follows from the one before it, every projection from its record.

use std::collections::HashMap;

use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::ids::{ComponentName, Environment, ReleaseId};
use rollback::model::operation::ChainHead;
use rollback::model::record::Record;
use rusqlite::types::Value;
use rusqlite::{Connection, Row};

use crate::ports::ChainAudit;

use super::chain::{GENESIS, digest};
use super::database::WorkError;
use super::projection::{Earlier, Row as Projected, projection};
use super::queries::{read_body, read_sequence};
use super::schema::{OPERATIONS, PROJECTIONS, Table};

/// Columns of `records` in the query below.
const RECORD_COLUMNS: usize = 6;

/// Recomputes the whole chain and compares the projections with it; stops at the first difference.
///
/// It cannot see that the newest records were cut off: compare the head with one that was seen before.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn audit(connection: &Connection) -> Result<ChainAudit, WorkError> {
    let mut statement = connection.prepare(&query())?;
    let mut rows = statement.query([])?;
    let mut check = Check::default();
    while let Some(row) = rows.next()? {
        if let Some(why) = check.follow(row)? {
            return Ok(ChainAudit::Broken { sequence: check.head.sequence + 1, why });
        }
    }
    if let Some(orphan) = orphan(connection)? {
        return Ok(orphan);
    }
    Ok(ChainAudit::Sound(check.head))
}

/// Every record with its rows in all projections, in the order of the chain: joins by primary key only.
fn query() -> String {
    let columns = PROJECTIONS.iter().flat_map(|table| {
        std::iter::once("sequence")
            .chain(table.columns.iter().copied())
            .map(move |column| format!("{}.{column}", table.name))
    });
    let joins = PROJECTIONS
        .iter()
        .map(|table| format!("LEFT JOIN {0} ON {0}.sequence = records.sequence", table.name))
        .collect::<Vec<_>>();
    format!(
        "SELECT records.sequence, records.at, records.kind, records.body, records.previous, records.digest, {} \
         FROM records {} ORDER BY records.sequence",
        columns.collect::<Vec<_>>().join(", "),
        joins.join(" ")
    )
}

/// The check with what it has seen so far.
struct Check {
    head: ChainHead,
    seen: Seen,
}

impl Default for Check {
    fn default() -> Self {
        Self { head: ChainHead { sequence: 0, digest: GENESIS }, seen: Seen::default() }
    }
}

impl Check {
    /// Checks one record; gives what is wrong with it, or moves the head to it.
    fn follow(&mut self, row: &Row<'_>) -> Result<Option<String>, WorkError> {
        let sequence = read_sequence(row, 0)?;
        if sequence != self.head.sequence + 1 {
            return Ok(Some(format!("it is missing, the next one is {sequence}")));
        }
        let (Ok(at), Ok(kind), Ok(body)) = (text(row, 1), text(row, 2), text(row, 3)) else {
            return Ok(Some("it is not stored as text".to_owned()));
        };
        if row.get::<_, [u8; 32]>(4).ok() != Some(*self.head.digest.as_bytes()) {
            return Ok(Some("it does not follow the record before it".to_owned()));
        }
        let digest = digest(&self.head.digest, sequence, at, body);
        if row.get::<_, [u8; 32]>(5).ok() != Some(*digest.as_bytes()) {
            return Ok(Some("it is not what was written".to_owned()));
        }
        let record = match read_body(sequence, body) {
            Ok(record) => record,
            Err(error) => return Ok(Some(rollback::chain::Chain(&error).to_string())),
        };
        if kind != record.kind() {
            return Ok(Some(format!("its kind is stored as `{kind}` and is `{}`", record.kind())));
        }
        let Ok(at) = at.parse::<Timestamp>() else { return Ok(Some("its time cannot be read".to_owned())) };
        let expected = projection(&record, at, &self.seen)?;
        if let Some(table) = differing(row, &expected)? {
            return Ok(Some(format!("its row in `{}` differs from it", table.name)));
        }
        self.seen.note(&record, &expected);
        self.head = ChainHead { sequence, digest };
        Ok(None)
    }
}

fn text<'a>(row: &'a Row<'_>, at: usize) -> Result<&'a str, rusqlite::types::FromSqlError> {
    row.get_ref(at).map_err(|_| rusqlite::types::FromSqlError::InvalidType)?.as_str()
}

/// Finds the first projection whose row is not the expected one.
fn differing(row: &Row<'_>, expected: &[Projected]) -> rusqlite::Result<Option<&'static Table>> {
    let mut at = RECORD_COLUMNS;
    for table in PROJECTIONS {
        let present = row.get::<_, Option<i64>>(at)?.is_some();
        let same = match expected.iter().find(|row| row.table == table) {
            None => !present,
            Some(expected) => {
                let mut same = present;
                for (offset, value) in expected.values.iter().enumerate() {
                    same = same && row.get::<_, Value>(at + 1 + offset)? == *value;
                }
                same
            }
        };
        if !same {
            return Ok(Some(table));
        }
        at += 1 + table.columns.len();
    }
    Ok(None)
}

/// Finds a row of a projection that has no record.
fn orphan(connection: &Connection) -> Result<Option<ChainAudit>, WorkError> {
    for table in PROJECTIONS {
        let sql = format!(
            "SELECT min(sequence) FROM {0} \
             WHERE NOT EXISTS (SELECT 1 FROM records WHERE records.sequence = {0}.sequence)",
            table.name
        );
        if let Some(sequence) = connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))? {
            let why = format!("`{}` has a row for it, and there is no such record", table.name);
            return Ok(Some(ChainAudit::Broken { sequence: sequence.unsigned_abs(), why }));
        }
    }
    Ok(None)
}

/// What earlier records have left, as the records themselves tell it.
#[derive(Default)]
struct Seen {
    peak: Option<String>,
    adopted: HashMap<(Environment, ComponentName, ReleaseId), Digest>,
}

impl Seen {
    fn note(&mut self, record: &Record, rows: &[Projected]) {
        if let Record::ReleaseAdopted { component, environment, manifest } = record {
            self.adopted.insert((environment.clone(), component.clone(), manifest.id.clone()), manifest.tree);
        }
        let peak_at = OPERATIONS.columns.iter().position(|column| *column == "peak");
        for row in rows.iter().filter(|row| *row.table == OPERATIONS) {
            if let Some(Value::Text(peak)) = peak_at.and_then(|at| row.values.get(at)) {
                self.peak = Some(peak.clone());
            }
        }
    }
}

impl Earlier for Seen {
    fn peak(&self) -> rusqlite::Result<Option<String>> {
        Ok(self.peak.clone())
    }

    fn adopted(
        &self,
        environment: &Environment,
        component: &ComponentName,
        release: &ReleaseId,
    ) -> rusqlite::Result<Option<Digest>> {
        Ok(self.adopted.get(&(environment.clone(), component.clone(), release.clone())).copied())
    }
}
