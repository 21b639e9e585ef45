//! The history: append-only SQLite with a hash chain, on a thread of its own.
//!
//! Records are the truth, everything else is derived from them ([`chain`] says how they hang together). The thread owns
//! the only connection that writes. No caller waits longer than [`HISTORY_LIMIT`], whatever holds the disk.
#![expect(clippy::disallowed_methods, reason = "this module owns the database and the files beside it")]

mod append;
mod audit;
pub mod chain;
mod database;
mod projection;
mod queries;
#[cfg(test)]
pub(crate) mod samples;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rollback::model::host::Lease;
use rollback::model::ids::{ComponentName, Environment, OperationId};
use rollback::model::operation::ChainHead;
use rollback::model::record::{ChainedRecord, HistoryFilter, HistoryLine, Record};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use crate::ports::{ChainAudit, HISTORY_LIMIT, History, Memory, PortError, StoredOperation};

use append::Batch;
use database::{Condition, Database, SharedCondition};
pub use queries::ROWS_MAX;

/// Calls that wait for the thread at most. The driver has a handful under way, readers a few more; who comes when so
/// many wait is better told that the history is stuck.
const CALLS_MAX: usize = 64;

/// Longest time for a check of the whole chain, which reads every record: a busy host checks some 25,000 a second, so
/// this suffices for more than a million.
pub const AUDIT_LIMIT: Duration = Duration::from_secs(60);

type Call = Box<dyn FnOnce(&mut Database) + Send>;

/// The history of one host in an SQLite database.
///
/// Whatever happens to the database, the agent starts and goes on: a damaged one is moved aside and never deleted, on a
/// full disk a reserve is given up, and what cannot be opened is tried again by the next call.
#[derive(Debug)]
pub struct SqliteHistory {
    path: PathBuf,
    calls: mpsc::Sender<Call>,
    condition: SharedCondition,
}

impl SqliteHistory {
    /// Starts the history's thread, which opens the database, and makes it when there is none: directory 0700, files
    /// 0600. When it cannot be opened, [`History::degraded`] says why and every call tries again.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn open(path: &Path) -> Result<Self, PortError> {
        let condition = SharedCondition::default();
        let (calls, mut waiting) = mpsc::channel::<Call>(CALLS_MAX);
        let mut database = Database::new(path, SharedCondition::clone(&condition));
        std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || {
                database.prepare();
                while let Some(call) = waiting.blocking_recv() {
                    call(&mut database);
                    database.maintain();
                }
            })
            .map_err(|error| PortError::failed("cannot start the history's thread", error))?;
        Ok(Self { path: path.to_owned(), calls, condition })
    }

    /// Lets the thread do some work and waits for the result, [`HISTORY_LIMIT`] at most.
    ///
    /// Work whose caller has gone is not begun; `given_up` tells work under way that nobody waits any more.
    async fn call<T: Send + 'static>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&mut Database, &dyn Fn() -> bool) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |database| {
            if !reply.is_closed() {
                let result = work(database, &|| reply.is_closed());
                // The caller may have gone in the meantime.
                reply.send(result).ok();
            }
        });
        let asked = async {
            let gone = || PortError::Unfit {
                attempt: format!("cannot {attempt}"),
                found: "the history's thread has ended".to_owned(),
            };
            self.calls.send(call).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        match tokio::time::timeout(HISTORY_LIMIT, asked).await {
            Ok(result) => result,
            Err(_) => Err(PortError::Deadline {
                attempt: format!("the attempt to {attempt}"),
                limit_ms: u64::try_from(HISTORY_LIMIT.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

#[async_trait]
impl History for SqliteHistory {
    async fn append(&self, now: Timestamp, records: Vec<Record>, durable: bool) -> Result<ChainHead, PortError> {
        let batch = Batch { now, records, durable };
        self.call("append to the history", move |database, given_up| {
            database.store("append to the history", |connection| append::append(connection, &batch, given_up))
        })
        .await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<StoredOperation>, PortError> {
        self.call("find an operation", move |database, _| {
            database.run("find an operation", |connection| queries::operation(connection, id))
        })
        .await
    }

    async fn list(&self, filter: HistoryFilter) -> Result<Vec<HistoryLine>, PortError> {
        self.call("list operations", move |database, _| {
            database.run("list operations", |connection| queries::list(connection, &filter))
        })
        .await
    }

    async fn memory(&self, environment: &Environment, component: &ComponentName) -> Result<Memory, PortError> {
        let (environment, component) = (environment.clone(), component.clone());
        self.call("read what is remembered of a component", move |database, _| {
            database.run("read what is remembered of a component", |connection| {
                queries::memory(connection, &environment, &component)
            })
        })
        .await
    }

    async fn after(&self, sequence: u64, records_max: u32) -> Result<Vec<ChainedRecord>, PortError> {
        self.call("read records", move |database, _| {
            database.run("read records", |connection| queries::after(connection, sequence, records_max))
        })
        .await
    }

    async fn head(&self) -> Result<ChainHead, PortError> {
        self.call("read the head", |database, _| {
            database.run("read the head", |connection| Ok(queries::head(connection)?))
        })
        .await
    }

    /// Reads on a connection of its own, so that it delays nobody; for it alone the limit is [`AUDIT_LIMIT`].
    async fn audit(&self) -> Result<ChainAudit, PortError> {
        let attempt = format!("cannot check {}", self.path.display());
        // Waits until the thread has opened the database, and so brought it to this version.
        self.head().await?;
        let path = self.path.clone();
        let check = tokio::task::spawn_blocking(move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.pragma_update(None, "query_only", true)?;
            // One transaction, so that records and projections are of one moment.
            let snapshot = connection.unchecked_transaction()?;
            audit::audit(&snapshot)
        });
        match tokio::time::timeout(AUDIT_LIMIT, check).await {
            Ok(Ok(result)) => result.map_err(|error| PortError::failed(attempt, error)),
            Ok(Err(error)) => Err(PortError::failed(attempt, error)),
            Err(_) => Err(PortError::Deadline {
                attempt: "the check of the history".to_owned(),
                limit_ms: u64::try_from(AUDIT_LIMIT.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn put_lease(&self, lease: Lease) -> Result<(), PortError> {
        self.call("store a lease", move |database, _| {
            database.store("store a lease", |connection| append::put_lease(connection, &lease))
        })
        .await
    }

    async fn drop_lease(&self, environment: &Environment, operation: OperationId) -> Result<(), PortError> {
        let environment = environment.clone();
        self.call("remove a lease", move |database, _| {
            database.store("remove a lease", |connection| append::drop_lease(connection, &environment, operation))
        })
        .await
    }

    async fn leases(&self) -> Result<Vec<Lease>, PortError> {
        self.call("read the leases", |database, _| {
            database.run("read the leases", |connection| queries::leases(connection))
        })
        .await
    }

    fn degraded(&self) -> Option<String> {
        Condition::sentence(&self.condition)
    }
}
