//! Checks the whole history: every record follows from the one before it, every projection from its record.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rayon::prelude::*;
use rollback::model::digest::Digest;
use rollback::model::ids::{ComponentName, Environment, ReleaseId};
use rollback::model::operation::ChainHead;
use rollback::model::record::Record;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use crate::ports::ChainAudit;

use super::chain::{GENESIS, digest};
use super::database::WorkError;
use super::projection::{Earlier, Row as Projected, projection};
use super::queries::{read_body, read_sequence};
use super::schema::{GOODS, OPERATIONS, PROJECTIONS, Table};

/// Records that are read before they are parsed and hashed on all cores: a few megabytes.
const BATCH: usize = 1_024;

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
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(row) = rows.next()? else { break };
            batch.push(Stored::read(row)?);
        }
        if batch.is_empty() {
            break;
        }
        let parsed: Vec<Result<Parsed, String>> = batch.par_iter().map(Parsed::new).collect();
        for (stored, parsed) in batch.iter().zip(parsed) {
            if let Some(why) = check.follow(stored, parsed)? {
                return Ok(ChainAudit::Broken { sequence: check.head.sequence + 1, why });
            }
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
    fn follow(&mut self, stored: &Stored, parsed: Result<Parsed, String>) -> Result<Option<String>, WorkError> {
        if stored.sequence != self.head.sequence + 1 {
            return Ok(Some(format!("it is missing, the next one is {}", stored.sequence)));
        }
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Some(why)),
        };
        if parsed.previous != self.head.digest {
            return Ok(Some("it does not follow the record before it".to_owned()));
        }
        let expected = projection(&parsed.record, parsed.at, &self.seen)?;
        if let Some(table) = differing(&stored.projected, &expected) {
            return Ok(Some(format!("its row in `{}` differs from it", table.name)));
        }
        self.seen.note(&parsed.record, &expected);
        self.head = ChainHead { sequence: stored.sequence, digest: parsed.digest };
        Ok(None)
    }
}

/// A record as it is stored, with its rows in the projections.
struct Stored {
    sequence: u64,
    /// Time, kind, body, previous and digest, whatever their types are.
    columns: [Value; 5],
    /// The values of its row in each projection after `sequence`; none where it has no row.
    projected: Vec<Option<Vec<Value>>>,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let columns = [value(row, 1)?, value(row, 2)?, value(row, 3)?, value(row, 4)?, value(row, 5)?];
        let mut at = 1 + columns.len();
        let mut projected = Vec::with_capacity(PROJECTIONS.len());
        for table in PROJECTIONS {
            let present = row.get::<_, Option<i64>>(at)?.is_some();
            let values = || (1..=table.columns.len()).map(|offset| value(row, at + offset)).collect();
            projected.push(present.then(values).transpose()?);
            at += 1 + table.columns.len();
        }
        Ok(Self { sequence: read_sequence(row, 0)?, columns, projected })
    }
}

/// Reads a value of any type; text that is not UTF-8 becomes bytes, and so differs from whatever was written.
fn value(row: &Row<'_>, at: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) => {
            String::from_utf8(bytes.to_vec()).map_or_else(|error| Value::Blob(error.into_bytes()), Value::Text)
        }
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

/// A record that is what its digest says.
struct Parsed {
    at: Timestamp,
    record: Record,
    previous: Digest,
    digest: Digest,
}

impl Parsed {
    /// Judges a stored record by itself.
    fn new(stored: &Stored) -> Result<Self, String> {
        let [Value::Text(at), Value::Text(kind), Value::Text(body), Value::Blob(previous), Value::Blob(found)] =
            &stored.columns
        else {
            return Err("a part of it is not of its type".to_owned());
        };
        let Ok(previous) = <[u8; 32]>::try_from(previous.as_slice()).map(Digest::from_bytes) else {
            return Err("it does not follow the record before it".to_owned());
        };
        let digest = digest(&previous, stored.sequence, at, body);
        if found != digest.as_bytes() {
            return Err("it is not what was written".to_owned());
        }
        let record = read_body(stored.sequence, body).map_err(|error| rollback::chain::Chain(&error).to_string())?;
        if kind != record.kind() {
            return Err(format!("its kind is stored as `{kind}` and is `{}`", record.kind()));
        }
        let at = at.parse().map_err(|error| format!("its time cannot be read: {error}"))?;
        Ok(Self { at, record, previous, digest })
    }
}

/// Finds the first projection whose row is not the expected one.
fn differing(stored: &[Option<Vec<Value>>], expected: &[Projected]) -> Option<&'static Table> {
    let same = |table: &Table, values: &Option<Vec<Value>>| {
        expected.iter().find(|row| row.table == table).map(|row| &row.values) == values.as_ref()
    };
    PROJECTIONS.into_iter().zip(stored).find(|(table, values)| !same(table, values)).map(|(table, _)| table)
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
    /// Environment, component and tree, as the rows have them.
    good: HashSet<(String, String, Vec<u8>)>,
}

impl Seen {
    fn note(&mut self, record: &Record, rows: &[Projected]) {
        if let Record::ReleaseAdopted { component, environment, manifest }
        | Record::ReleasePushed { component, environment, manifest } = record
        {
            self.adopted.insert((environment.clone(), component.clone(), manifest.id.clone()), manifest.tree);
        }
        for row in rows {
            match row.values.as_slice() {
                [_, _, Value::Text(peak), ..] if *row.table == OPERATIONS => self.peak = Some(peak.clone()),
                [Value::Text(environment), Value::Text(component), Value::Blob(tree), _] if *row.table == GOODS => {
                    self.good.insert((environment.clone(), component.clone(), tree.clone()));
                }
                _ => {}
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

    fn is_good(&self, environment: &Environment, component: &ComponentName, tree: &Digest) -> rusqlite::Result<bool> {
        Ok(self.good.contains(&(environment.to_string(), component.to_string(), tree.as_bytes().to_vec())))
    }
}
