//! Tests of the history: what is stored and what is found again.

mod faults;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rollback::model::digest::Digest;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::operation::{Operation, Outcome, Phase, Step};
use rollback::model::record::{Mark, ResultWord};
use rollback::model::text::Text;

use super::samples::{adopted, at, done, ended, id, marked, operation, prod, put_back, refused, release, started, web};
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
        marked("r7", Mark::Blessed),
        marked("r1", Mark::Blessed),
        marked("r8", Mark::Pinned),
        marked("r9", Mark::Pinned),
        marked("r9", Mark::Unpinned),
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
    // What is blessed is good since then, unless it was before.
    assert_eq!(memory.good, [(Digest::of(b"r7"), at(13)), (Digest::of(b"r1"), at(3)), (Digest::of(b"r2"), at(2))]);
    assert_eq!(memory.pins, [release("r8")]);
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
        gives_way: false,
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
