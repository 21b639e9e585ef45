//! Appends records: chain, projections and leases, each in one transaction.

use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::host::Lease;
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId};
use rollback::model::operation::ChainHead;
use rollback::model::record::Record;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::chain::{digest, time_text};
use super::database::WorkError;
use super::projection::{Earlier, Row, projection};
use super::queries::{head, read_digest, stored};
use super::schema::Table;

/// What is to be appended.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The time that the records get.
    pub(crate) now: Timestamp,
    /// The records.
    pub(crate) records: Vec<Record>,
    /// Whether the disk must confirm them.
    pub(crate) durable: bool,
}

/// Appends a batch in one transaction and gives the new head; stores nothing when `given_up` says so before the commit.
///
/// A batch that is not durable is written to the log without a flush. The next durable one flushes the whole log.
///
/// # Errors
/// When the database cannot be written; nothing of the batch is stored then.
pub(crate) fn append(
    connection: &mut Connection,
    batch: &Batch,
    given_up: &dyn Fn() -> bool,
) -> Result<ChainHead, WorkError> {
    connection.pragma_update(None, "synchronous", if batch.durable { "FULL" } else { "NORMAL" })?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut newest = head(&transaction)?;
    for record in &batch.records {
        newest = insert(&transaction, newest, batch.now, record)?;
    }
    if given_up() {
        return Err(WorkError::GivenUp);
    }
    transaction.commit()?;
    Ok(newest)
}

/// Stores the lease of an environment in place of the one that is there, without a flush: after a power cut the intent
/// journal tells who holds what.
///
/// # Errors
/// When the database cannot be written.
pub(crate) fn put_lease(connection: &mut Connection, lease: &Lease) -> Result<(), WorkError> {
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO leases (environment, operation, holder, reason, since, expires) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            lease.environment.as_str(),
            lease.operation.to_string(),
            lease.holder,
            lease.reason,
            time_text(lease.since),
            time_text(lease.expires),
        ])?;
    Ok(())
}

/// Removes the lease of an environment if that operation holds it.
///
/// # Errors
/// When the database cannot be written.
pub(crate) fn drop_lease(
    connection: &mut Connection,
    environment: &Environment,
    operation: OperationId,
) -> Result<(), WorkError> {
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection
        .prepare_cached("DELETE FROM leases WHERE environment = ?1 AND operation = ?2")?
        .execute(params![environment.as_str(), operation.to_string()])?;
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    previous: ChainHead,
    now: Timestamp,
    record: &Record,
) -> Result<ChainHead, WorkError> {
    let sequence = previous.sequence + 1;
    let at = time_text(now);
    let body = serde_json::to_string(record).map_err(|error| WorkError::Value { sequence, source: error.into() })?;
    let digest = digest(&previous.digest, sequence, &at, &body);
    transaction
        .prepare_cached(
            "INSERT INTO records (sequence, at, kind, body, previous, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![stored(sequence), at, record.kind(), body, previous.digest.as_bytes(), digest.as_bytes()])?;
    for row in projection(record, now, &Stored(transaction))? {
        insert_row(transaction, sequence, row)?;
    }
    Ok(ChainHead { sequence, digest })
}

fn insert_row(transaction: &Transaction<'_>, sequence: u64, row: Row) -> rusqlite::Result<()> {
    let Row { table: Table { name, columns }, values } = row;
    let marks = vec!["?"; columns.len() + 1].join(", ");
    let statement = format!("INSERT INTO {name} (sequence, {}) VALUES ({marks})", columns.join(", "));
    let values = std::iter::once(Value::Integer(stored(sequence))).chain(values);
    transaction.prepare_cached(&statement)?.execute(rusqlite::params_from_iter(values))?;
    Ok(())
}

/// What earlier records have left, as the projections have it.
struct Stored<'a>(&'a Connection);

impl Earlier for Stored<'_> {
    fn peak(&self) -> rusqlite::Result<Option<String>> {
        self.0
            .prepare_cached("SELECT peak FROM operations ORDER BY sequence DESC LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()
    }

    fn adopted(
        &self,
        environment: &Environment,
        component: &ComponentName,
        release: &ReleaseId,
    ) -> rusqlite::Result<Option<Digest>> {
        self.0
            .prepare_cached(
                "SELECT tree FROM adopted WHERE environment = ?1 AND component = ?2 AND release = ?3 \
                 ORDER BY sequence DESC LIMIT 1",
            )?
            .query_row([environment.as_str(), component.as_str(), release.as_str()], |row| read_digest(row, 0))
            .optional()
    }

    fn is_good(&self, environment: &Environment, component: &ComponentName, tree: &Digest) -> rusqlite::Result<bool> {
        self.0
            .prepare_cached("SELECT 1 FROM goods WHERE environment = ?1 AND component = ?2 AND tree = ?3")?
            .exists(params![environment.as_str(), component.as_str(), tree.as_bytes()])
    }
}
