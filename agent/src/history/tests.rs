//! Tests of the history: what is stored, what is found again, what a damaged, locked or full disk does to it.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rollback::model::digest::Digest;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::operation::{Operation, Outcome, Phase, Step};
use rollback::model::record::ResultWord;
use rollback::model::text::Text;

use super::samples::{adopted, at, done, ended, id, operation, prod, put_back, refused, release, started, web};
use super::*;

struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state").join("history.db")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path().with_file_name(name)
    }

    fn open(&self) -> SqliteHistory {
        SqliteHistory::open(&self.path()).expect("a thread")
    }

    /// A history with some records of each kind that has projections, closed.
    async fn filled(&self) -> ChainHead {
        let history = self.open();
        history.append(at(0), vec![adopted("r1"), adopted("r2"), adopted("r3")], false).await.expect("writable");
        let mut head = None;
        for n in 1..5 {
            let records = vec![started(n), ended(n, done("r2")), refused(n + 100, "kim")];
            head = Some(history.append(at(60), records, true).await.expect("writable"));
        }
        close(history);
        head.expect("records were appended")
    }

    /// Changes the closed database behind the history's back.
    fn tamper(&self, sql: &str) {
        let connection = Connection::open_with_flags(self.path(), OpenFlags::default()).expect("it is there");
        connection.pragma_update(None, "foreign_keys", false).expect("it can be turned off");
        let triggers: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
            .expect("SQL")
            .query_map([], |row| row.get(0))
            .expect("rows")
            .collect::<Result<_, _>>()
            .expect("names");
        for trigger in triggers {
            connection.execute_batch(&format!("DROP TRIGGER {trigger}")).expect("it is there");
        }
        connection.execute_batch(sql).expect("SQL");
    }
}

/// Drops the history and waits until its thread has closed the database.
fn close(history: SqliteHistory) {
    let path = history.path.clone();
    drop(history);
    let log = PathBuf::from(format!("{}-wal", path.display()));
    // SQLite deletes the log when the last connection closes.
    while log.exists() {
        std::thread::yield_now();
    }
}

fn filter(limit: u32) -> HistoryFilter {
    HistoryFilter { limit, ..HistoryFilter::default() }
}

#[tokio::test]
async fn records_come_back_in_order_and_chained() {
    let bed = Bed::new();
    let history = bed.open();
    assert_eq!(history.head().await.expect("readable").sequence, 0);
    let records = vec![started(1), ended(1, done("r2")), refused(2, "kim")];
    let head = history.append(at(5), records.clone(), true).await.expect("writable");
    assert_eq!(head.sequence, 3);
    close(history);
    let history = bed.open();
    assert_eq!(history.head().await.expect("readable"), head);
    let found = history.after(0, 10).await.expect("readable");
    assert_eq!(found.iter().map(|found| found.record.clone()).collect::<Vec<_>>(), records);
    for pair in found.windows(2) {
        assert_eq!(pair[1].previous, pair[0].digest);
    }
    for record in &found {
        let body = serde_json::to_string(&record.record).expect("JSON");
        let digest = chain::digest(&record.previous, record.sequence, &chain::time_text(record.at), &body);
        assert_eq!(record.digest, digest, "who has a record can compute its digest");
    }
    assert_eq!(history.after(1, 1).await.expect("readable"), found[1..2]);
    assert_eq!(history.audit().await.expect("readable"), ChainAudit::Sound(head));
    assert_eq!(history.degraded(), None);
}

#[tokio::test]
async fn operation_is_found_as_started_then_as_ended() {
    let history = Bed::new();
    let history = history.open();
    assert_eq!(history.operation(id(1)).await.expect("readable"), None);
    history.append(at(0), vec![started(1)], true).await.expect("writable");
    let stored = history.operation(id(1)).await.expect("readable").expect("it is there");
    assert_eq!((stored.operation, stored.ended), (operation(1), false));
    history.append(at(0), vec![ended(1, done("r2")), started(2)], true).await.expect("writable");
    let stored = history.operation(id(1)).await.expect("readable").expect("it is there");
    assert_eq!((stored.operation.outcome(), stored.ended), (Some(&done("r2")), true));
}

#[tokio::test]
async fn lines_say_what_happened_newest_first() {
    let bed = Bed::new();
    let history = bed.open();
    history.append(at(11), vec![ended(1, done("r2")), ended(2, put_back())], false).await.expect("writable");
    history.append(at(12), vec![refused(3, "kim")], false).await.expect("writable");
    let lines = history.list(filter(10)).await.expect("readable");
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line.operation, line.at, line.result, line.to.clone(), line.cause.as_deref(), line.duration_ms))
        .collect();
    assert_eq!(
        told,
        [
            (id(3), at(12), ResultWord::Refused, None, Some("REASON_NEEDED"), 0),
            (id(2), at(2), ResultWord::PutBack, Some(release("r3")), Some("unit `web.service` does not start"), 9_000),
            (id(1), at(1), ResultWord::Done, Some(release("r2")), None, 10_000),
        ]
    );
    assert_eq!(lines[2].reason.as_deref(), Some("5xx after deploy"));
    assert_eq!(lines[2].from, Some(release("r3")));
}

/// A model of [`History::list`]: all lines, filtered one by one.
fn expected(lines: &[HistoryLine], filter: &HistoryFilter) -> Vec<HistoryLine> {
    let fits = |line: &&HistoryLine| {
        filter.environment.as_ref().is_none_or(|wanted| line.environment.as_ref() == Some(wanted))
            && filter.component.as_ref().is_none_or(|wanted| line.component.as_ref() == Some(wanted))
            && filter.result.is_none_or(|wanted| line.result == wanted)
            && filter.actor.as_ref().is_none_or(|wanted| line.actor == *wanted)
            && filter.since.is_none_or(|since| line.at >= since)
            && filter.until.is_none_or(|until| line.at < until)
    };
    lines.iter().filter(fits).take(usize::try_from(filter.limit).expect("small")).cloned().collect()
}

#[tokio::test]
async fn every_combination_of_filters_gives_what_a_plain_search_gives() {
    let bed = Bed::new();
    let history = bed.open();
    for n in 0..200_u64 {
        // The clock goes back by fifty seconds now and then.
        let accepted = at(i64::try_from(n).expect("small") - if n % 17 == 0 { 50 } else { 0 });
        let mut operation = Operation { accepted_at: accepted, ..operation(n) };
        operation.plan.environment = ["prod", "test"][usize::from(n % 3 == 0)].parse().expect("a name");
        operation.plan.component = ["web", "api"][usize::from(n % 5 == 0)].parse().expect("a name");
        operation.actor = ["kim", "lee"][usize::from(n % 7 == 0)].to_owned();
        operation.phase = Phase::Ended { outcome: if n % 2 == 0 { done("r2") } else { put_back() } };
        let record = Record::OperationEnded { operation: Box::new(operation), evidence: Vec::new() };
        history.append(accepted, vec![record], false).await.expect("writable");
    }
    let all = history.list(filter(0)).await.expect("readable");
    assert_eq!(all.len(), 200);
    let times = [(None, None), (Some(60), None), (None, Some(40)), (Some(70), Some(90)), (Some(500), None)];
    for set in 0..16_u32 {
        for (since, until) in times {
            let filter = HistoryFilter {
                environment: (set & 1 != 0).then(prod),
                component: (set & 2 != 0).then(web),
                result: (set & 4 != 0).then_some(ResultWord::PutBack),
                actor: (set & 8 != 0).then(|| "lee".to_owned()),
                since: since.map(at),
                until: until.map(at),
                limit: 7,
            };
            let found = history.list(filter.clone()).await.expect("readable");
            assert_eq!(found, expected(&all, &filter), "{filter:?}");
        }
    }
    assert_eq!(history.degraded(), None);
}

fn switched(n: u64, outcome: Outcome) -> Record {
    let mut operation = Operation { phase: Phase::Ended { outcome }, ..operation(n) };
    operation.steps.push(Step {
        effect: Effect::CurrentLinked { release: release("r2") },
        began_at: at(0),
        duration_us: 1,
        end: EffectEnd::Ensured,
        recovered: false,
    });
    Record::OperationEnded { operation: Box::new(operation), evidence: Vec::new() }
}

#[tokio::test]
async fn memory_follows_from_what_each_outcome_left_running() {
    let verdict = rollback::model::health::Verdict::EnvironmentBad;
    let cause = "x".to_owned();
    let reason = Text::new("leaks memory").expect("a text");
    let records = vec![
        adopted("r1"),
        Record::ActivationFound { component: web(), environment: prod(), release: release("r3") },
        ended(1, done("r2")),
        ended(2, done("r1")),
        ended(3, Outcome::Unverified { release: release("r2"), verdict, cause: cause.clone() }),
        ended(4, put_back()),
        switched(5, put_back()),
        ended(6, Outcome::NeedsOperator { release: Some(release("r1")), cause: cause.clone() }),
        ended(7, Outcome::NeedsOperator { release: None, cause }),
        ended(8, Outcome::Superseded { by: id(9) }),
        refused(9, "kim"),
        Record::Quarantined { tree: Digest::of(b"r3"), reason, actor: "kim".to_owned() },
        ended(10, done("r2")),
    ];
    let bed = Bed::new();
    let history = bed.open();
    for (second, record) in (0..).zip(records) {
        history.append(at(second), vec![record], false).await.expect("writable");
    }
    let memory = history.memory(&prod(), &web()).await.expect("readable");
    let activations: Vec<_> =
        memory.activations.iter().map(|found| (found.sequence, found.release.as_str(), found.operation)).collect();
    assert_eq!(
        activations,
        [
            (2, "r3", None),
            (3, "r2", Some(id(1))),
            (4, "r1", Some(id(2))),
            (5, "r2", Some(id(3))),
            (7, "r3", Some(id(5))),
            (8, "r1", Some(id(6))),
            (13, "r2", Some(id(10))),
        ]
    );
    // The fallback `r1` is good by the digest of its adoption; `r2` is good since the first time.
    assert_eq!(memory.good, [(Digest::of(b"r1"), at(3)), (Digest::of(b"r2"), at(2))]);
    assert_eq!(memory.quarantines.len(), 1);
    assert_eq!((memory.quarantines[0].0, memory.quarantines[0].1.since), (Digest::of(b"r3"), at(11)));
    let other = history.memory(&"test".parse().expect("a name"), &web()).await.expect("readable");
    assert_eq!((other.activations.len(), other.good.len()), (0, 0));
    assert!(matches!(history.audit().await.expect("readable"), ChainAudit::Sound(_)));
}

#[tokio::test]
async fn lease_is_replaced_and_dropped_only_by_its_holder() {
    let bed = Bed::new();
    let history = bed.open();
    let lease = |n| Lease {
        environment: prod(),
        operation: id(n),
        holder: "kim".to_owned(),
        reason: "5xx".to_owned(),
        since: at(0),
        expires: at(600),
    };
    history.put_lease(lease(1)).await.expect("writable");
    history.put_lease(lease(2)).await.expect("writable");
    history.drop_lease(&prod(), id(1)).await.expect("writable");
    assert_eq!(history.leases().await.expect("readable"), [lease(2)]);
    history.drop_lease(&prod(), id(2)).await.expect("writable");
    assert_eq!(history.leases().await.expect("readable"), []);
}

#[tokio::test]
async fn files_are_closed_to_others_whatever_the_umask() {
    let bed = Bed::new();
    let history = bed.open();
    history.append(at(0), vec![started(1)], true).await.expect("writable");
    let mode = |path: PathBuf| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    for name in ["history.db", "history.db-wal", "history.db-shm", "history.ballast"] {
        assert_eq!(mode(bed.beside(name)), 0o600, "{name}");
    }
    assert_eq!(mode(bed.beside("")), 0o700);
    close(history);
    std::fs::set_permissions(bed.path(), Permissions::from_mode(0o644)).expect("ours");
    let history = bed.open();
    history.head().await.expect("readable");
    assert_eq!(mode(bed.path()), 0o600);
}

#[tokio::test]
async fn rows_can_be_neither_changed_nor_deleted() {
    let bed = Bed::new();
    bed.filled().await;
    let connection = Connection::open_with_flags(bed.path(), OpenFlags::default()).expect("it is there");
    for table in ["records", "operations", "states", "activations", "goods", "adopted"] {
        for sql in [format!("DELETE FROM {table}"), format!("UPDATE {table} SET sequence = sequence + 100")] {
            let error = connection.execute_batch(&sql).expect_err("a trigger forbids it");
            assert!(error.to_string().contains("append-only"), "{sql}: {error}");
        }
    }
    let gap = "INSERT INTO records SELECT 99, at, kind, body, previous, digest FROM records WHERE sequence = 1";
    assert!(connection.execute_batch(gap).expect_err("a trigger forbids it").to_string().contains("no gaps"));
}

#[tokio::test]
async fn every_kind_of_tampering_is_found_at_its_record() {
    for (sql, sequence) in [
        ("DELETE FROM records WHERE sequence = 4", 4),
        ("UPDATE records SET sequence = sequence + 1000 WHERE sequence = 4", 4),
        ("UPDATE records SET at = replace(at, '2027', '2026') WHERE sequence = 5", 5),
        ("UPDATE records SET kind = 'agent.started' WHERE sequence = 6", 6),
        ("UPDATE records SET body = replace(body, 'kim', 'lee') WHERE sequence = 6", 6),
        ("UPDATE records SET previous = zeroblob(32) WHERE sequence = 7", 7),
        ("UPDATE records SET digest = zeroblob(32) WHERE sequence = 8", 8),
        ("UPDATE operations SET result = 'put_back' WHERE sequence = 8", 8),
        ("UPDATE operations SET peak = '1' WHERE sequence = 8", 8),
        ("DELETE FROM goods WHERE sequence = 8", 8),
        ("DELETE FROM states WHERE sequence = 7", 7),
        ("UPDATE adopted SET tree = zeroblob(32) WHERE sequence = 2", 2),
        ("INSERT INTO quarantines VALUES (3, zeroblob(32), 'x', 'y', 'z')", 3),
        ("INSERT INTO activations VALUES (77, 'prod', 'web', 'r9', 'z', NULL)", 77),
    ] {
        let bed = Bed::new();
        bed.filled().await;
        bed.tamper(sql);
        let audit = bed.open().audit().await.expect("readable");
        assert!(matches!(&audit, ChainAudit::Broken { sequence: found, .. } if *found == sequence), "{sql}: {audit:?}");
    }
}

#[tokio::test]
async fn cut_off_records_are_found_by_comparing_with_a_known_head() {
    let bed = Bed::new();
    let known = bed.filled().await;
    let tables = ["records", "operations", "states", "activations", "goods"];
    bed.tamper(&tables.map(|table| format!("DELETE FROM {table} WHERE sequence > 12;")).concat());
    let audit = bed.open().audit().await.expect("readable");
    assert!(matches!(audit, ChainAudit::Sound(head) if head.sequence == 12 && head != known), "{audit:?}");
}

fn flip(bytes: &mut [u8], at: usize, bit: u8) {
    let len = bytes.len();
    bytes[at % len] ^= 1 << (bit % 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_or_exchanged_pair_of_rows_is_detected(
        row in 1..=15_i64, part in 0..4_usize, at in 0..4_096_usize, bit in 0..8_u8, exchange in any::<bool>(),
    ) {
        let connection = tampered_copy(row, part, at, bit, exchange).expect("SQL");
        let audit = audit::audit(&connection).expect("readable");
        prop_assert!(matches!(audit, ChainAudit::Broken { .. }), "{audit:?}");
    }
}

/// A history in memory, filled once, copied, and changed in one place.
fn tampered_copy(row: i64, part: usize, at: usize, bit: u8, exchange: bool) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    schema::migrate(&mut connection).expect("a new schema");
    let mut records = vec![adopted("r1"), adopted("r2"), adopted("r3")];
    records.extend((1..5).flat_map(|n| [started(n), ended(n, done("r2")), refused(n + 100, "kim")]));
    let batch = Batch { now: samples::at(0), records, durable: false };
    append::append(&mut connection, &batch, &|| false).expect("writable");
    connection.execute_batch("DROP TRIGGER records_update; PRAGMA foreign_keys = OFF;")?;
    if exchange {
        let other = row % 15 + 1;
        connection.execute("UPDATE records SET sequence = -1 WHERE sequence = ?1", [row])?;
        connection.execute("UPDATE records SET sequence = ?1 WHERE sequence = ?2", [row, other])?;
        connection.execute("UPDATE records SET sequence = ?1 WHERE sequence = -1", [other])?;
        return Ok(connection);
    }
    let column = ["at", "body", "previous", "digest"][part];
    let text = part < 2;
    let read = format!("SELECT CAST({column} AS BLOB) FROM records WHERE sequence = ?1");
    let mut bytes: Vec<u8> = connection.query_row(&read, [row], |row| row.get(0))?;
    flip(&mut bytes, at, bit);
    let value = if text { "CAST(?1 AS TEXT)" } else { "?1" };
    connection.execute(&format!("UPDATE records SET {column} = {value} WHERE sequence = ?2"), (bytes, row))?;
    Ok(connection)
}

#[tokio::test]
async fn damaged_database_is_moved_aside_whole_and_a_new_one_is_begun() {
    // No database at all; a damaged header; a page in the middle.
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| *bytes = b"this is no database, but a text that somebody has written over it".repeat(99),
        |bytes| bytes[..16].fill(0xff),
        |bytes| bytes[4_096..12_288].fill(0xa5),
    ];
    for (case, damage) in damages.into_iter().enumerate() {
        let bed = Bed::new();
        bed.filled().await;
        let mut bytes = std::fs::read(bed.path()).expect("it is there");
        damage(&mut bytes);
        std::fs::write(bed.path(), &bytes).expect("writable");
        let history = bed.open();
        let head = history.append(at(0), vec![started(1)], true).await.expect("the new one takes it");
        assert_eq!(head.sequence, 1, "case {case}");
        let why = history.degraded().expect("it says so");
        assert!(why.contains("moved to") && why.contains("history.db.damaged-1"), "{why}");
        assert_eq!(std::fs::read(bed.beside("history.db.damaged-1")).expect("it is kept"), bytes, "case {case}");
        close(history);
        std::fs::write(bed.path(), &bytes).expect("writable");
        assert!(bed.open().head().await.is_ok());
        assert!(bed.beside("history.db.damaged-2").exists(), "case {case}");
    }
}

#[tokio::test]
async fn deleted_log_leaves_a_sound_older_history() {
    let bed = Bed::new();
    let sound = bed.filled().await;
    let history = bed.open();
    history.append(at(0), vec![started(9)], true).await.expect("writable");
    // A copy without the log is what a crash and a deleted log leave.
    let copy = Bed::new();
    std::fs::create_dir_all(copy.beside("")).expect("writable");
    std::fs::copy(bed.path(), copy.path()).expect("it is there");
    let found = copy.open().audit().await.expect("readable");
    assert_eq!(found, ChainAudit::Sound(sound));
}

#[tokio::test]
async fn log_of_another_database_makes_no_false_history() {
    let bed = Bed::new();
    bed.filled().await;
    let original = std::fs::read(bed.path()).expect("it is there");
    let other = Bed::new();
    let history = other.open();
    for n in 0..50 {
        history
            .append(at(n), vec![refused(u64::try_from(n).expect("small"), "mallory")], true)
            .await
            .expect("writable");
    }
    std::fs::copy(other.beside("history.db-wal"), bed.beside("history.db-wal")).expect("it is there");
    let history = bed.open();
    let sound = matches!(history.audit().await, Ok(ChainAudit::Sound(_)));
    let lines = history.list(filter(0)).await.unwrap_or_default();
    let mallory = lines.iter().filter(|line| line.actor == "mallory").count();
    // Either SQLite has refused the log, or the mixture was found and moved aside, or it is the other history whole.
    assert!(!sound || lines.len() == mallory || mallory == 0, "{lines:?}");
    if let Ok(kept) = std::fs::read(bed.beside("history.db.damaged-1")) {
        assert_eq!(kept, original, "the log was not copied into what is kept");
    }
}

#[tokio::test]
async fn locked_database_fails_in_time_and_works_again() {
    let bed = Bed::new();
    bed.filled().await;
    let history = bed.open();
    let head = history.head().await.expect("readable");
    let other = Connection::open_with_flags(bed.path(), OpenFlags::default()).expect("it is there");
    other.execute_batch("BEGIN EXCLUSIVE").expect("nobody else writes");
    let began = std::time::Instant::now();
    let error = history.append(at(0), vec![started(7)], true).await.expect_err("it is locked");
    assert!(began.elapsed() < HISTORY_LIMIT + Duration::from_millis(200), "{:?}", began.elapsed());
    assert!(rollback::chain::Chain(&error).to_string().contains("locked"), "{error:?}");
    assert!(history.degraded().is_some_and(|why| why.contains("locked")));
    assert_eq!(history.head().await.expect("reading goes on"), head);
    other.execute_batch("ROLLBACK").expect("it was begun");
    history.append(at(0), vec![started(7)], true).await.expect("it is free");
    assert_eq!(history.degraded(), None);
    assert!(matches!(history.audit().await.expect("readable"), ChainAudit::Sound(found) if found.sequence == 16));
}

#[tokio::test]
async fn database_of_a_newer_version_is_left_alone() {
    let bed = Bed::new();
    bed.filled().await;
    let connection = Connection::open_with_flags(bed.path(), OpenFlags::default()).expect("it is there");
    connection.pragma_update(None, "user_version", 99).expect("writable");
    drop(connection);
    let history = bed.open();
    assert!(history.append(at(0), vec![started(7)], true).await.is_err());
    assert!(history.degraded().is_some_and(|why| why.contains("schema")));
    assert!(!bed.beside("history.db.damaged-1").exists());
}

#[test]
fn full_disk_costs_the_ballast_and_not_the_record() {
    if !nix::unistd::geteuid().is_root() {
        let skipped = "skipped full_disk_costs_the_ballast_and_not_the_record: mounting needs root";
        writeln!(io::stderr(), "{skipped}").expect("stderr");
        return;
    }
    // A mount namespace of this thread and those that it starts: the mount is gone with them.
    std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        let bed = Bed::new();
        let none = None::<&str>;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("root may");
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), bed.directory.path(), Some("tmpfs"), flags, Some("size=20m")).expect("root may");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(live_on_a_full_disk(&bed));
    })
    .join()
    .expect("the thread has not failed");
}

async fn live_on_a_full_disk(bed: &Bed) {
    let filler = bed.directory.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::create(&filler).expect("the name is free");
        io::copy(&mut io::repeat(1), &mut file).expect_err("the file system has an end");
    };
    let history = bed.open();
    history.append(at(0), vec![started(1)], true).await.expect("there is room");
    assert!(bed.beside("history.ballast").exists());
    fill();
    for n in 2..100 {
        history.append(at(0), vec![started(n), ended(n, done("r2"))], true).await.expect("the ballast gives way");
    }
    assert!(history.degraded().is_some_and(|why| why.contains("full")), "{:?}", history.degraded());
    assert!(!bed.beside("history.ballast").exists());
    std::fs::remove_file(&filler).expect("it is there");
    history.append(at(0), vec![started(100)], true).await.expect("there is room");
    history.head().await.expect("the maintenance after the append is over");
    assert!(bed.beside("history.ballast").exists());
    assert_eq!(history.degraded(), None);
    assert!(matches!(history.audit().await.expect("readable"), ChainAudit::Sound(_)));
    // The database cannot even be opened when its log cannot be made: that costs the ballast too.
    close(history);
    fill();
    let history = bed.open();
    history.append(at(0), vec![started(101)], true).await.expect("the ballast gives way");
    assert!(history.degraded().is_some_and(|why| why.contains("full")), "{:?}", history.degraded());
}
