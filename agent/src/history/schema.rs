//! The tables of the history and their numbered migrations.
//!
//! `records` is the truth. The other tables but `leases` are projections of it: what [`super::projection`] derives from
//! one record, written in the same transaction, one row per record at most, keyed by the record's sequence number.

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

/// A projection: a table with one row per record at most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its columns after `sequence`, in the order in which rows give their values.
    pub(crate) columns: &'static [&'static str],
}

/// Operations that ended or were refused: the lines that `rbctl history` lists.
///
/// `peak` is the largest `at` so far. It never falls, so a time becomes a place in the sequence by one look-up, though
/// the clock may have gone back: see [`super::queries`].
pub(crate) const OPERATIONS: Table = Table {
    name: "operations",
    columns: &[
        "operation",
        "at",
        "peak",
        "environment",
        "component",
        "operation_type",
        "cause_of_start",
        "actor",
        "reason",
        "from_release",
        "to_release",
        "result",
        "cause",
        "duration_ms",
    ],
};

/// The records that hold a state of an operation: its start and its end; and its evidence, which came after it.
pub(crate) const STATES: Table = Table { name: "states", columns: &["operation", "ended"] };

/// Releases that were made current.
pub(crate) const ACTIVATIONS: Table =
    Table { name: "activations", columns: &["environment", "component", "release", "at", "operation"] };

/// Digests that were found good, each once per component: the first time.
pub(crate) const GOODS: Table = Table { name: "goods", columns: &["environment", "component", "tree", "at"] };

/// Digests of the releases that were adopted.
pub(crate) const ADOPTED: Table = Table { name: "adopted", columns: &["environment", "component", "release", "tree"] };

/// Digests that may not be activated, and those whose quarantine was lifted; the newest row of a digest counts.
pub(crate) const QUARANTINES: Table =
    Table { name: "quarantines", columns: &["tree", "reason", "actor", "at", "lifted"] };

/// Releases that retention keeps, and those that it may remove again; the newest row of a release counts.
pub(crate) const PINS: Table = Table { name: "pins", columns: &["environment", "component", "release", "pinned"] };

/// All projections.
pub(crate) const PROJECTIONS: [&Table; 7] = [&OPERATIONS, &STATES, &ACTIVATIONS, &GOODS, &ADOPTED, &QUARANTINES, &PINS];

/// Brings a database to the newest version.
///
/// # Errors
/// When the database cannot be written, is damaged, or comes from a newer version.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    Migrations::from_slice(MIGRATIONS).to_latest(connection)
}

/// The migrations, oldest first. One that was released is never changed.
const MIGRATIONS: &[M<'_>] = &[M::up(FIRST), M::up(SECOND), M::up(THIRD)];

const SECOND: &str = "ALTER TABLE quarantines ADD COLUMN lifted INTEGER NOT NULL DEFAULT 0;";

const THIRD: &str = "
CREATE TABLE pins (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    environment TEXT NOT NULL,
    component TEXT NOT NULL,
    release TEXT NOT NULL,
    pinned INTEGER NOT NULL
) STRICT;
CREATE INDEX pins_component ON pins (environment, component, release);
CREATE TRIGGER pins_update BEFORE UPDATE ON pins BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER pins_delete BEFORE DELETE ON pins BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
";

// A filter may name any of environment, component, result and actor. Each of their 15 combinations has an index of its
// own: only an index whose columns are all given has its rows in the order of their sequence, so that the newest ones are
// read off its end. With fewer indexes, some combination reads or sorts a million rows. They cost an ended operation
// fifteen small writes, and only then.
const FIRST: &str = "
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    previous BLOB NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE TABLE operations (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    operation TEXT NOT NULL,
    at TEXT NOT NULL,
    peak TEXT NOT NULL,
    environment TEXT,
    component TEXT,
    operation_type TEXT,
    cause_of_start TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT,
    from_release TEXT,
    to_release TEXT,
    result TEXT NOT NULL,
    cause TEXT,
    duration_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX operations_e ON operations (environment);
CREATE INDEX operations_c ON operations (component);
CREATE INDEX operations_r ON operations (result);
CREATE INDEX operations_a ON operations (actor);
CREATE INDEX operations_ec ON operations (environment, component);
CREATE INDEX operations_er ON operations (environment, result);
CREATE INDEX operations_ea ON operations (environment, actor);
CREATE INDEX operations_cr ON operations (component, result);
CREATE INDEX operations_ca ON operations (component, actor);
CREATE INDEX operations_ra ON operations (result, actor);
CREATE INDEX operations_ecr ON operations (environment, component, result);
CREATE INDEX operations_eca ON operations (environment, component, actor);
CREATE INDEX operations_era ON operations (environment, result, actor);
CREATE INDEX operations_cra ON operations (component, result, actor);
CREATE INDEX operations_ecra ON operations (environment, component, result, actor);
CREATE INDEX operations_peak ON operations (peak);
CREATE INDEX operations_behind ON operations (at) WHERE at < peak;
CREATE TABLE states (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    operation TEXT NOT NULL,
    ended INTEGER NOT NULL
) STRICT;
CREATE INDEX states_operation ON states (operation);
CREATE TABLE activations (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    environment TEXT NOT NULL,
    component TEXT NOT NULL,
    release TEXT NOT NULL,
    at TEXT NOT NULL,
    operation TEXT
) STRICT;
CREATE INDEX activations_component ON activations (environment, component);
CREATE TABLE goods (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    environment TEXT NOT NULL,
    component TEXT NOT NULL,
    tree BLOB NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX goods_component ON goods (environment, component, tree);
CREATE TABLE adopted (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    environment TEXT NOT NULL,
    component TEXT NOT NULL,
    release TEXT NOT NULL,
    tree BLOB NOT NULL
) STRICT;
CREATE INDEX adopted_release ON adopted (environment, component, release);
CREATE TABLE quarantines (
    sequence INTEGER PRIMARY KEY REFERENCES records (sequence),
    tree BLOB NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE INDEX quarantines_tree ON quarantines (tree);
CREATE TABLE leases (
    environment TEXT PRIMARY KEY,
    operation TEXT NOT NULL,
    holder TEXT NOT NULL,
    reason TEXT NOT NULL,
    since TEXT NOT NULL,
    expires TEXT NOT NULL
) STRICT;
CREATE TRIGGER records_gapless BEFORE INSERT ON records
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM records)
BEGIN SELECT RAISE(ABORT, 'the history has no gaps'); END;
CREATE TRIGGER records_update BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER records_delete BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER operations_update BEFORE UPDATE ON operations
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER operations_delete BEFORE DELETE ON operations
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER states_update BEFORE UPDATE ON states BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER states_delete BEFORE DELETE ON states BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER activations_update BEFORE UPDATE ON activations
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER activations_delete BEFORE DELETE ON activations
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER goods_update BEFORE UPDATE ON goods BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER goods_delete BEFORE DELETE ON goods BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER adopted_update BEFORE UPDATE ON adopted BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER adopted_delete BEFORE DELETE ON adopted BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER quarantines_update BEFORE UPDATE ON quarantines
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER quarantines_delete BEFORE DELETE ON quarantines
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
";
