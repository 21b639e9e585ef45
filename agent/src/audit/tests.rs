//! Tests of the audit with a socket in journald's place: there, gone, and never reading.

use std::collections::{BTreeMap, BTreeSet};

use rollback::model::decision::Severity;
use rollback::model::digest::Digest;
use rollback::model::operation::Outcome;
use rollback::model::record::{Mark, Record};
use rollback::model::text::Text;

use crate::history::SqliteHistory;
use crate::history::samples::{
    adopted, at, done, ended, id, marked, prod, pushed, put_back, refused, release, started, web,
};

use super::*;

/// Longest wait for a datagram: far more than the forwarder's longest pause.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a history, a place for a socket and a place for a cursor.
struct Bed {
    history: Arc<SqliteHistory>,
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let history = Arc::new(SqliteHistory::open(&directory.path().join("history.db")).expect("a thread"));
        Self { history, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn cursor(&self) -> PathBuf {
        self.directory.path().join("audit.cursor")
    }

    fn listen(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.socket()).expect("a free name");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket
    }

    fn start(&self) -> Audit {
        Audit::start(Arc::<SqliteHistory>::clone(&self.history), &self.socket(), &self.cursor()).expect("a thread")
    }

    async fn append(&self, records: Vec<Record>) {
        self.history.append(at(0), records, false).await.expect("a writable history");
    }
}

/// Reads one datagram as journald does.
fn receive(socket: &UnixDatagram) -> BTreeMap<String, String> {
    let mut datagram = vec![0; 256 * 1024];
    let bytes = socket.recv(&mut datagram).expect("a datagram in time");
    parse(&datagram[..bytes])
}

fn parse(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').expect("a line");
        let (name, rest) = datagram.split_at(end);
        assert!(!name.contains(&b'='), "every value has the length form");
        let (length, rest) = rest[1..].split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
        let (value, rest) = rest.split_at(usize::try_from(length).expect("small"));
        assert_eq!(rest[0], b'\n');
        let name = String::from_utf8(name.to_vec()).expect("ASCII");
        let value = String::from_utf8(value.to_vec()).expect("UTF-8");
        assert!(fields.insert(name.clone(), value).is_none(), "{name} comes twice");
        datagram = &rest[1..];
    }
    fields
}

fn sequences(socket: &UnixDatagram, count: u64) -> Vec<u64> {
    (0..count).map(|_| receive(socket)["ROLLBACK_SEQUENCE"].parse().expect("a number")).collect()
}

/// One record of every kind, and of every outcome.
fn every_record() -> Vec<Record> {
    let verdict = rollback::model::health::Verdict::Inconclusive;
    let cause = "it is too late".to_owned();
    let reason = Text::new("leaks memory").expect("a text");
    vec![
        Record::AgentStarted { version: "0.1.0".to_owned(), boot: "b1".to_owned() },
        adopted("r1"),
        pushed("r4"),
        Record::PushRefused {
            component: web(),
            environment: prod(),
            release: release("r4"),
            actor: "kim".to_owned(),
            refusal: rollback::model::refusal::Refusal::NameTaken { release: release("r4") },
        },
        Record::ActivationFound { component: web(), environment: prod(), release: release("r1") },
        started(1),
        ended(1, done("r2")),
        ended(1, put_back()),
        ended(1, Outcome::Unverified { release: release("r2"), verdict, cause: cause.clone() }),
        ended(1, Outcome::NeedsOperator { release: None, cause }),
        ended(1, Outcome::Superseded { by: id(2) }),
        Record::EvidenceSaved { operation: id(1), journal: vec!["listening".to_owned()] },
        refused(1, "kim"),
        Record::AccessDenied {
            actor: "unknown".to_owned(),
            peer: "192.0.2.1:9".to_owned(),
            method: None,
            why: "its certificate has expired".to_owned(),
        },
        Record::LeaseTakenOver { environment: prod(), from: id(1), by: id(2), actor: "kim".to_owned() },
        Record::Quarantined { tree: Digest::of(b"r3"), reason: reason.clone(), actor: "kim".to_owned() },
        Record::QuarantineLifted { tree: Digest::of(b"r3"), reason: reason.clone(), actor: "kim".to_owned() },
        Record::AlertReceived {
            component: web(),
            environment: prod(),
            severity: Severity::High,
            reason: Text::new("checkout fails").expect("a text"),
            actor: "pager".to_owned(),
        },
        marked("r1", Mark::Blessed),
        marked("r1", Mark::Pinned),
        marked("r1", Mark::Unpinned),
        Record::ReleaseRemoved {
            component: web(),
            environment: prod(),
            release: release("r1"),
            tree: Digest::of(b"r1"),
            why: "five newer ones are kept".to_owned(),
        },
        Record::ReleaseDamaged {
            component: web(),
            environment: prod(),
            release: release("r1"),
            what: "`bin/web` has another content".to_owned(),
        },
        Record::ConfigurationReloaded { accepted: false, detail: "unknown key `unit`".to_owned() },
        Record::ConfigurationReloaded { accepted: true, detail: "1 component".to_owned() },
    ]
}

fn chained(record: Record) -> ChainedRecord {
    let previous = Digest::of(b"previous");
    ChainedRecord { sequence: 7, at: at(0), record, previous, digest: Digest::of(b"digest") }
}

#[test]
fn every_kind_of_record_has_one_message_id_and_the_common_fields() {
    let mut kinds = BTreeSet::new();
    for record in every_record() {
        let kind = record.kind();
        kinds.insert(kind);
        let fields = parse(&native::encode(&fields::fields(&chained(record)), native::VALUE_BYTES_MAX));
        let (_, expected) = fields::MESSAGE_IDS.iter().find(|(known, _)| *known == kind).expect("every kind is known");
        assert_eq!(fields["MESSAGE_ID"], *expected, "{kind}");
        assert_eq!(fields["SYSLOG_IDENTIFIER"], "rb-agent");
        assert_eq!(fields["SYSLOG_FACILITY"], "10");
        assert_eq!(fields["ROLLBACK_SEQUENCE"], "7");
        assert_eq!(fields["ROLLBACK_CHAIN"], Digest::of(b"digest").to_string());
        assert!(fields["MESSAGE"].ends_with('.') && !fields["MESSAGE"].contains(".."), "{}", fields["MESSAGE"]);
    }
    assert_eq!(kinds, fields::MESSAGE_IDS.iter().map(|(kind, _)| *kind).collect(), "no kind is left over");
    let ids: BTreeSet<_> = fields::MESSAGE_IDS.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids.len(), fields::MESSAGE_IDS.len());
}

#[test]
fn outcome_decides_priority_and_result() {
    let verdict = rollback::model::health::Verdict::ReleaseBad;
    let cause = "x".to_owned();
    for (outcome, priority, result, runs) in [
        (done("r2"), "5", "done", Some("r2")),
        (Outcome::Unverified { release: release("r2"), verdict, cause: cause.clone() }, "4", "unverified", Some("r2")),
        (put_back(), "3", "put_back", Some("r3")),
        (Outcome::NeedsOperator { release: None, cause }, "2", "needs_operator", None),
        (Outcome::Superseded { by: id(2) }, "4", "superseded", None),
    ] {
        let fields: BTreeMap<_, _> = fields::fields(&chained(ended(1, outcome))).into_iter().collect();
        assert_eq!(fields["PRIORITY"], priority);
        assert_eq!(fields["ROLLBACK_RESULT"], result);
        assert_eq!(fields.get("ROLLBACK_RELEASE").map(String::as_str), runs);
        assert_eq!(fields["ROLLBACK_PREVIOUS"], "r3");
        assert_eq!(fields["ROLLBACK_REASON"], "5xx after deploy");
        assert_eq!(fields["ROLLBACK_OPERATION"], id(1).to_string());
        assert_eq!(fields["UNIT"], "web.service");
    }
}

#[test]
fn catalog_explains_every_message_and_no_other() {
    let catalog = include_str!("../../../systemd/rollback.catalog");
    let explained: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let known: Vec<&str> = fields::MESSAGE_IDS.iter().map(|(_, id)| *id).collect();
    assert_eq!(explained, known);
    for entry in catalog.split("\n-- ").skip(1) {
        for part in ["\nSubject: ", "\nDefined-By: rollback\n", "\nDocumentation: man:rb-agent(8)\n\n"] {
            assert!(entry.contains(part), "{entry}");
        }
        let id = &entry[..32];
        let mut names = BTreeSet::new();
        for record in every_record() {
            let fields = fields::fields(&chained(record));
            if fields.iter().any(|(name, value)| *name == "MESSAGE_ID" && value == id) {
                names.extend(fields.into_iter().map(|(name, _)| name));
            }
        }
        for used in entry.split('@').skip(1).step_by(2) {
            assert!(names.contains(used), "{used} in {entry}");
        }
    }
}

#[test]
fn value_with_newlines_or_without_end_cannot_forge_or_block_an_entry() {
    let forged = "kim\nROLLBACK_ACTOR=root\nPRIORITY\n\u{1}\0\0\0\0\0\0\0".to_owned();
    let fields = vec![("MESSAGE", forged.clone()), ("ROLLBACK_REASON", "ä".repeat(100_000))];
    let parsed = parse(&native::encode(&fields, native::VALUE_BYTES_MAX));
    assert_eq!(parsed.len(), 2);
    assert_eq!(parsed["MESSAGE"], forged);
    assert_eq!(parsed["ROLLBACK_REASON"], "ä".repeat(native::VALUE_BYTES_MAX / 2));
}

#[tokio::test]
async fn newline_in_an_actor_stays_in_its_field_on_the_way() {
    let bed = Bed::new();
    let socket = bed.listen();
    bed.append(vec![refused(1, "kim\nROLLBACK_ACTOR=root")]).await;
    let audit = bed.start();
    let fields = receive(&socket);
    assert_eq!(fields["ROLLBACK_ACTOR"], "kim\nROLLBACK_ACTOR=root");
    drop(audit);
}

#[tokio::test]
async fn records_arrive_in_order_and_none_twice_across_restarts() {
    let bed = Bed::new();
    let socket = bed.listen();
    bed.append((0..100).map(started).collect()).await;
    let audit = bed.start();
    assert_eq!(sequences(&socket, 100), (1..=100).collect::<Vec<_>>());
    bed.append(vec![started(100)]).await;
    audit.wake();
    assert_eq!(sequences(&socket, 1), [101]);
    wait_for(|| cursor::read(&bed.cursor()).sequence == 101).await;
    drop(audit);
    bed.append(vec![started(101)]).await;
    let audit = bed.start();
    assert_eq!(sequences(&socket, 1), [102]);
    wait_for(|| audit.lag() == 0 && audit.degraded().is_none()).await;
}

#[tokio::test]
async fn journald_that_is_gone_gets_everything_when_it_returns() {
    let bed = Bed::new();
    bed.append((0..10).map(started).collect()).await;
    let audit = bed.start();
    wait_for(|| audit.degraded().is_some()).await;
    assert_eq!(audit.lag(), 10);
    let socket = bed.listen();
    assert_eq!(sequences(&socket, 10), (1..=10).collect::<Vec<_>>());
    wait_for(|| audit.degraded().is_none()).await;
    // A socket whose owner has died refuses; its successor has another inode.
    drop(socket);
    bed.append(vec![started(10)]).await;
    audit.wake();
    wait_for(|| audit.degraded().is_some()).await;
    std::fs::remove_file(bed.socket()).expect("it is there");
    assert_eq!(sequences(&bed.listen(), 1), [11]);
}

#[tokio::test]
async fn journald_that_never_reads_delays_nobody_and_loses_nothing() {
    let bed = Bed::new();
    let socket = bed.listen();
    let audit = bed.start();
    for n in 0..300 {
        bed.append(vec![started(n)]).await;
        audit.wake();
    }
    wait_for(|| audit.degraded().is_some_and(|why| why.contains("does not take"))).await;
    assert!(audit.lag() > 0);
    assert_eq!(sequences(&socket, 300), (1..=300).collect::<Vec<_>>());
    wait_for(|| audit.lag() == 0).await;
}

#[tokio::test]
async fn history_that_lost_forwarded_records_is_reported_and_sent_again() {
    let bed = Bed::new();
    let socket = bed.listen();
    bed.append(vec![started(1), started(2)]).await;
    let gone = Cursor { sequence: 5, digest: Digest::of(b"cut off") };
    cursor::write(&bed.cursor(), &gone).expect("a writable directory");
    let audit = bed.start();
    assert_eq!(sequences(&socket, 2), [1, 2]);
    wait_for(|| audit.degraded().is_some_and(|why| why.contains("record 5 was forwarded"))).await;
}

/// Yields to the forwarder until the condition holds; fails after [`PATIENCE`].
async fn wait_for(condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("the condition holds in time");
}
