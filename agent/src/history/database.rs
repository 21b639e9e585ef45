//! Keeps the connection to the database usable: opens it late, moves a damaged one aside, gives way on a full disk.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ports::PortError;

use super::schema;

/// How long SQLite waits for another process's lock: half of [`crate::ports::HISTORY_LIMIT`], so that the answer is
/// `locked` and not only `too late`.
const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// Bytes of the file that is deleted when the disk is full: room for some hundred operations, those of a long night.
const BALLAST_BYTES: u64 = 4 * 1024 * 1024;

/// Databases up to this size have the structure of all their pages checked when they are opened: about a tenth of a
/// second. A larger one would delay the start of the agent; its damage shows when a page is read.
const CHECK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of the write-ahead log that are not copied yet, from which it is copied into the database: SQLite's own default of 1,000 pages, but
/// between two calls instead of inside of one.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Damaged databases that are kept at most: the next one is not moved aside but reported, since something damages them.
const DAMAGED_MAX: u32 = 100;

/// `SQLITE_IOERR_FSYNC`: the disk did not confirm a flush.
const IOERR_FSYNC: i32 = 1034;

/// What keeps the history from being whole, as `degraded` tells it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// A damaged database was moved aside.
    moved_aside: Option<String>,
    /// The ballast is gone because the disk was full.
    full: Option<String>,
    /// The last attempt to read it failed.
    unreadable: Option<String>,
    /// The last attempt to write it failed.
    unwritable: Option<String>,
}

/// The condition, shared between the thread and those who ask.
pub(crate) type SharedCondition = Arc<Mutex<Condition>>;

impl Condition {
    /// Says everything that is wrong in one sentence; none when nothing is.
    pub(crate) fn sentence(condition: &SharedCondition) -> Option<String> {
        let condition = condition.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<&str> = [&condition.moved_aside, &condition.full, &condition.unreadable, &condition.unwritable]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Why a piece of work with the database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// SQLite says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The schema cannot be brought to this version.
    #[error("cannot bring the schema to this version")]
    Schema(#[source] rusqlite_migration::Error),
    /// A file beside the database cannot be handled.
    #[error("cannot {attempt}")]
    File {
        /// What was attempted on which file.
        attempt: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A stored value is not what this version writes.
    #[error("record {sequence} cannot be read")]
    Value {
        /// The record.
        sequence: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody waits for the result any more, so nothing was stored.
    #[error("given up before it was stored")]
    GivenUp,
    /// The pages of the database do not hang together.
    #[error("the database is damaged: {0}")]
    Damaged(String),
}

impl WorkError {
    fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Sqlite(error) => Some(error),
            Self::Schema(rusqlite_migration::Error::RusqliteError { err, .. }) => Some(err),
            Self::Schema(_) | Self::File { .. } | Self::Value { .. } | Self::GivenUp | Self::Damaged(_) => None,
        }
    }

    fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_))
            || matches!(
                self.sqlite().and_then(rusqlite::Error::sqlite_error_code),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            )
    }

    fn is_unconfirmed(&self) -> bool {
        self.sqlite().and_then(rusqlite::Error::sqlite_extended_error_code) == Some(IOERR_FSYNC)
    }
}

/// The database of the history with what keeps it usable. Lives on the history's thread.
pub(crate) struct Database {
    path: PathBuf,
    connection: Option<Connection>,
    condition: SharedCondition,
}

impl Database {
    /// Names the database; it is opened by the first work, and again by the next one when that fails.
    pub(crate) fn new(path: &Path, condition: SharedCondition) -> Self {
        Self { path: path.to_owned(), connection: None, condition }
    }

    /// Does work that reads, or that writes what can be lost.
    ///
    /// # Errors
    /// When the database cannot be opened, or the work fails.
    pub(crate) fn run<T>(
        &mut self,
        attempt: &str,
        work: impl Fn(&mut Connection) -> Result<T, WorkError>,
    ) -> Result<T, PortError> {
        let result = self.attempt(&work);
        self.judge(attempt, result, |condition| &mut condition.unreadable)
    }

    /// Does work that must be stored: on a full disk once more without the ballast, on a damaged database once more
    /// with a new one.
    ///
    /// # Errors
    /// When the work fails for another reason, or again.
    pub(crate) fn store<T>(
        &mut self,
        attempt: &str,
        work: impl Fn(&mut Connection) -> Result<T, WorkError>,
    ) -> Result<T, PortError> {
        let mut result = self.attempt(&work);
        if let Err(error) = &result {
            let again = if error.is_damage() { self.move_aside(error) } else { self.is_full(error) && self.give_way() };
            if again {
                result = self.attempt(&work);
            }
        }
        self.judge(attempt, result, |condition| &mut condition.unwritable)
    }

    /// Opens the database when it is not open; damage moves it aside, a full disk costs the ballast.
    pub(crate) fn prepare(&mut self) {
        // The result is kept in the condition, and whoever calls next is told.
        self.store("open the history", |_| Ok(())).ok();
        self.maintain();
    }

    /// Does what need not be done while somebody waits: copies the log into the database, restores the ballast.
    pub(crate) fn maintain(&mut self) {
        if let Some(connection) = &self.connection {
            let waiting = uncopied_bytes(connection).unwrap_or(0);
            // On a full disk the log must not grow: once it is copied, the next record begins it anew in its place.
            let full = self.condition.lock().unwrap_or_else(PoisonError::into_inner).full.is_some();
            if waiting >= LOG_BYTES_MAX || (full && waiting > 0) {
                // A reader may hold the log; the next time will do.
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).ok();
            }
        }
        self.restore_ballast();
    }

    fn attempt<T>(&mut self, work: &impl Fn(&mut Connection) -> Result<T, WorkError>) -> Result<T, WorkError> {
        if self.connection.is_none() {
            self.connection = Some(self.open_or_begin()?);
        }
        match &mut self.connection {
            Some(connection) => work(connection),
            None => unreachable!("the connection was opened above"),
        }
    }

    fn open_or_begin(&self) -> Result<Connection, WorkError> {
        match open(&self.path) {
            Err(error) if error.is_damage() && self.set_aside(&error) => open(&self.path),
            other => other,
        }
    }

    /// Keeps the condition in the place where work of that kind has it, and turns the error into the driver's.
    fn judge<T>(
        &mut self,
        attempt: &str,
        result: Result<T, WorkError>,
        failing: impl Fn(&mut Condition) -> &mut Option<String>,
    ) -> Result<T, PortError> {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match result {
            Ok(value) => {
                *failing(&mut condition) = None;
                return Ok(value);
            }
            Err(error) => error,
        };
        let cause = rollback::chain::Chain(&error).to_string();
        *failing(&mut condition) = Some(format!("the history cannot be used: cannot {attempt}: {cause}"));
        drop(condition);
        let attempt = format!("cannot {attempt} in {}", self.path.display());
        if error.is_unconfirmed() {
            // The same flush must not be tried again. Closing copies the log into the database: other pages, another
            // flush. The next work opens it afresh and reads what is there.
            self.connection = None;
            return Err(PortError::Durability { attempt, source: std::io::Error::other(error) });
        }
        Err(PortError::failed(attempt, error))
    }

    fn is_full(&self, error: &WorkError) -> bool {
        if let WorkError::File { source, .. } = error {
            return source.kind() == ErrorKind::StorageFull;
        }
        match error.sqlite().and_then(rusqlite::Error::sqlite_error_code) {
            Some(ErrorCode::DiskFull) => true,
            // On a full disk the log and its index cannot even be made: SQLite then names the file, not the reason.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
                free_bytes(&self.path).is_some_and(|free| free < BALLAST_BYTES)
            }
            Some(_) | None => false,
        }
    }

    /// Deletes the ballast; tells whether there was one.
    fn give_way(&mut self) -> bool {
        let given = std::fs::remove_file(self.ballast()).is_ok();
        if given {
            let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
            condition.full = Some(format!(
                "the disk of {} is full: the history lives on {} MiB of reserve",
                self.path.display(),
                BALLAST_BYTES / 1024 / 1024
            ));
        }
        given
    }

    /// Makes the ballast when there is none and twice its room is free, so that it does not fill the disk again.
    fn restore_ballast(&self) {
        let ballast = self.ballast();
        if ballast.exists() || free_bytes(&self.path).is_none_or(|free| free < 2 * BALLAST_BYTES) {
            return;
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&ballast).and_then(|file| {
            let bytes = libc_offset(BALLAST_BYTES);
            nix::fcntl::posix_fallocate(&file, 0, bytes).map_err(std::io::Error::from)
        });
        match made {
            Ok(()) => self.condition.lock().unwrap_or_else(PoisonError::into_inner).full = None,
            // Half a ballast is none; the next maintenance tries again.
            Err(_) => {
                std::fs::remove_file(&ballast).ok();
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.with_file_name("history.ballast")
    }

    fn move_aside(&mut self, error: &WorkError) -> bool {
        if let Some(connection) = self.connection.take() {
            // Copying the log on closing would change what is kept as evidence.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok();
        }
        self.set_aside(error)
    }

    /// Renames the database, its log and the log's index to the first free number; tells whether that worked.
    fn set_aside(&self, error: &WorkError) -> bool {
        let aside = |n: u32| beside(&self.path, &format!(".damaged-{n}"));
        let Some(free) = (1..=DAMAGED_MAX).map(aside).find(|path| !path.exists()) else { return false };
        if let Err(error) = std::fs::rename(&self.path, &free) {
            tracing::error!(path = %self.path.display(), %error, "cannot move the damaged history aside");
            return false;
        }
        for suffix in ["-wal", "-shm"] {
            let from = beside(&self.path, suffix);
            // A log that stayed would be taken for the new database's, so it goes with the old one or not at all.
            if from.exists() && std::fs::rename(&from, beside(&free, suffix)).is_err() {
                return false;
            }
        }
        sync_directory(&self.path).ok();
        let cause = rollback::chain::Chain(error).to_string();
        let sentence = format!("the history was damaged ({cause}); it was moved to {} and begun anew", free.display());
        tracing::error!("{sentence}");
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).moved_aside = Some(sentence);
        true
    }
}

/// Tells how much of the log is not in the database yet. The log's file does not tell: once all is copied the log begins
/// anew in its place, and the file keeps its length.
fn uncopied_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let frames = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (logged, copied) = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], frames)?;
    Ok(u64::try_from((logged - copied) * page).unwrap_or(0))
}

/// Opens the database, checks it, brings it to this version; makes it and its directory when they are not there.
fn open(path: &Path) -> Result<Connection, WorkError> {
    ensure_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    // Until the check has passed, closing must not copy a log that may be another database's into this one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(WorkError::Damaged(format!("its journal mode is {mode} and cannot be changed")));
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    check(&connection, path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    schema::migrate(&mut connection).map_err(WorkError::Schema)?;
    sync_directory(path).map_err(|source| WorkError::File { attempt: "flush the directory".to_owned(), source })?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), WorkError> {
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    if bytes > CHECK_BYTES_MAX {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(WorkError::Damaged(found)) }
}

/// Ensures that the database exists and that only its owner can read it; SQLite gives its other files the same mode.
fn ensure_private(path: &Path) -> Result<(), WorkError> {
    let failed = |attempt: &str| {
        let attempt = format!("{attempt} {}", path.display());
        move |source| WorkError::File { attempt, source }
    };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make the directory of"))?;
    }
    // An existing database is not opened here: closing a file drops every lock that this process holds on it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make")(error)),
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("close to others"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path.parent()?).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn libc_offset(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_copied_is_not_copied_again_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut database = Database::new(&directory.path().join("history.db"), SharedCondition::default());
        database.prepare();
        let row = |connection: &mut Connection| {
            connection.execute_batch("CREATE TABLE IF NOT EXISTS filler (bytes BLOB) STRICT")?;
            Ok(connection.execute("INSERT INTO filler VALUES (zeroblob(262144))", [])?)
        };
        let waiting = |database: &Database| {
            uncopied_bytes(database.connection.as_ref().expect("it is open")).expect("SQLite says")
        };
        let mut copies = 0;
        for _ in 0..40 {
            database.store("fill the log", row).expect("it is writable");
            let before = waiting(&database);
            database.maintain();
            copies += usize::from(waiting(&database) < before);
        }
        assert_eq!(copies, 2, "ten MiB are copied when four are reached, twice");
    }
}
