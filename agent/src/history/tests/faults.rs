//! Tests of the history under attack: rows that were tampered with, a damaged, locked or full disk.

use std::io::{self, Write as _};

use proptest::prelude::*;

use super::*;

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
        ("DELETE FROM goods WHERE sequence = 5", 5),
        ("DELETE FROM states WHERE sequence = 7", 7),
        ("UPDATE adopted SET tree = zeroblob(32) WHERE sequence = 2", 2),
        ("INSERT INTO quarantines VALUES (3, zeroblob(32), 'x', 'y', 'z', 0)", 3),
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
async fn log_of_another_database_is_never_mixed_into_the_history() {
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
    // Either SQLite has refused the log, or the mixture was found and moved aside, or it is the other history whole;
    // the cursor of the audit tells that one from ours.
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
    let error = history.append(at(0), vec![started(7)], true).await.expect_err("it is locked");
    assert!(rollback::chain::Chain(&error).to_string().contains("locked"), "{error:?}");
    assert!(history.degraded().is_some_and(|why| why.contains("locked")));
    assert_eq!(history.head().await.expect("reading goes on"), head);
    assert!(history.degraded().is_some_and(|why| why.contains("locked")), "that it can be read does not make it well");
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
