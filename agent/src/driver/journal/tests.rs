//! Tests of the intent journal, most of them on a disk that loses power, tears writes and fails flushes.

use std::cell::Cell;
use std::io::Write as _;
use std::rc::Rc;

use proptest::prelude::*;
use rollback::model::operation::Phase;

use crate::history::samples::{id, operation};

use super::*;

/// A disk in memory, zeros where nothing was ever written, that keeps the writes since the last flush apart, in the order in which they were made.
#[derive(Debug, Clone)]
struct ModelDisk {
    confirmed: Vec<u8>,
    unconfirmed: Vec<(u64, Vec<u8>)>,
    /// Flushes that fail from now on; what they should have written stays unwritten and counts as clean.
    flushes_to_fail: Rc<Cell<u32>>,
    reopened: Rc<Cell<u32>>,
}

impl ModelDisk {
    fn new() -> Self {
        Self { confirmed: Vec::new(), unconfirmed: Vec::new(), flushes_to_fail: Rc::default(), reopened: Rc::default() }
    }

    /// What a power cut leaves when so many bytes of the unconfirmed writes, in their order, had reached the disk.
    fn after_power_cut(&self, mut bytes: usize) -> Self {
        let mut confirmed = self.confirmed.clone();
        for (at, written) in &self.unconfirmed {
            let part = &written[..written.len().min(bytes)];
            bytes -= part.len();
            let at = usize::try_from(*at).expect("small");
            confirmed.resize(confirmed.len().max(at + part.len()), 0);
            confirmed[at..at + part.len()].copy_from_slice(part);
        }
        Self { confirmed, unconfirmed: Vec::new(), ..Self::new() }
    }
}

impl Disk for ModelDisk {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).expect("small");
        let mut seen: Vec<u8> = self.confirmed.iter().skip(at).take(bytes.len()).copied().collect();
        seen.resize(bytes.len(), 0);
        for (from, written) in &self.unconfirmed {
            let from = usize::try_from(*from).expect("small");
            for (offset, byte) in written.iter().enumerate() {
                if let Some(place) = (from + offset).checked_sub(at).and_then(|place| seen.get_mut(place)) {
                    *place = *byte;
                }
            }
        }
        bytes.copy_from_slice(&seen);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.unconfirmed.push((at, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let left = self.flushes_to_fail.get();
        if left > 0 {
            self.flushes_to_fail.set(left - 1);
            self.unconfirmed.clear();
            return Err(io::Error::from_raw_os_error(5));
        }
        *self = Self {
            flushes_to_fail: Rc::clone(&self.flushes_to_fail),
            reopened: Rc::clone(&self.reopened),
            ..self.after_power_cut(usize::MAX)
        };
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.reopened.set(self.reopened.get() + 1);
        Ok(())
    }
}

fn journal(disk: ModelDisk) -> Journal<ModelDisk> {
    Journal::open(disk, "intents".to_owned()).expect("a readable disk")
}

fn held<D: Disk>(journal: &Journal<D>) -> Vec<Operation> {
    let loaded = journal.load().expect("a readable disk");
    loaded.into_iter().collect::<Result<_, _>>().expect("every slot is readable")
}

fn in_phase(n: u64, phase: Phase) -> Operation {
    Operation { phase, ..operation(n) }
}

#[test]
fn power_cut_at_any_byte_of_a_write_leaves_the_old_or_the_new_state() {
    let mut before = journal(ModelDisk::new());
    let mut states = vec![Vec::new()];
    for (step, phase) in [Phase::Stopping, Phase::Switching, Phase::Verifying].into_iter().enumerate() {
        let next = in_phase(1, phase);
        let mut after = journal(before.disk.clone());
        after.put(&next, false).expect("it fits");
        let bytes: usize = after.disk.unconfirmed.iter().map(|(_, bytes)| bytes.len()).sum();
        for cut in 0..=bytes {
            let found = held(&journal(after.disk.after_power_cut(cut)));
            let old = &states[step];
            assert!(found == *old || found == [next.clone()], "cut after {cut} of {bytes} bytes: {found:?}");
        }
        before.put(&next, true).expect("it fits");
        states.push(vec![next]);
    }
}

#[test]
fn unflushed_writes_never_touch_the_confirmed_copy() {
    let mut journal_before = journal(ModelDisk::new());
    let confirmed = in_phase(1, Phase::Stopping);
    journal_before.put(&confirmed, true).expect("it fits");
    let later: Vec<Operation> =
        [Phase::Switching, Phase::Starting, Phase::Verifying].into_iter().map(|phase| in_phase(1, phase)).collect();
    for operation in &later {
        journal_before.put(operation, false).expect("it fits");
    }
    let bytes: usize = journal_before.disk.unconfirmed.iter().map(|(_, bytes)| bytes.len()).sum();
    for cut in 0..=bytes {
        let found = held(&journal(journal_before.disk.after_power_cut(cut)));
        assert!(found == [confirmed.clone()] || later.iter().any(|later| found == [later.clone()]), "cut at {cut}");
    }
}

#[test]
fn failed_flush_is_never_retried_but_everything_is_written_again() {
    let disk = ModelDisk::new();
    let (failures, reopened) = (Rc::clone(&disk.flushes_to_fail), Rc::clone(&disk.reopened));
    let mut journal_under_test = journal(disk);
    journal_under_test.put(&operation(1), false).expect("it fits");
    failures.set(1);
    journal_under_test.put(&operation(2), true).expect("the second way works");
    assert_eq!(reopened.get(), 1);
    let found = held(&journal(journal_under_test.disk.after_power_cut(0)));
    assert_eq!(found, [operation(1), operation(2)]);
}

#[test]
fn second_failed_flush_poisons_the_journal_and_keeps_the_confirmed_state() {
    let disk = ModelDisk::new();
    let failures = Rc::clone(&disk.flushes_to_fail);
    let mut journal_under_test = journal(disk);
    journal_under_test.put(&in_phase(1, Phase::Stopping), true).expect("it fits");
    failures.set(2);
    let error = journal_under_test.put(&in_phase(1, Phase::Switching), true);
    assert!(matches!(error, Err(PortError::Durability { .. })), "{error:?}");
    let error = journal_under_test.put(&operation(2), false);
    assert!(matches!(error, Err(PortError::Unfit { .. })), "{error:?}");
    let found = held(&journal(journal_under_test.disk.after_power_cut(0)));
    assert_eq!(found, [in_phase(1, Phase::Stopping)]);
}

#[test]
fn slot_with_two_bad_copies_is_an_error_and_is_never_given_away() {
    let mut journal_before = journal(ModelDisk::new());
    journal_before.put(&operation(1), true).expect("it fits");
    journal_before.put(&operation(1), true).expect("it fits");
    let mut disk = journal_before.disk.clone();
    for copy in 0..2 {
        disk.confirmed[usize::try_from(offset(0, copy)).expect("small") + HEADER_BYTES] ^= 1;
    }
    let mut journal_after = journal(disk);
    let loaded = journal_after.load().expect("a readable disk");
    assert!(matches!(&loaded[..], [Err(why)] if why.contains("slot 0")), "{loaded:?}");
    journal_after.put(&operation(2), true).expect("there are other slots");
    let loaded = journal_after.load().expect("a readable disk");
    assert_eq!(loaded[0], Ok(operation(2)));
    assert!(loaded[1].is_err());
}

#[test]
fn operations_come_back_in_the_order_of_acceptance_until_they_are_cleared() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("intents");
    let file = FileJournal::open(&path).expect("a new journal");
    for n in [3, 1, 2] {
        file.put(&operation(n), n == 1).expect("it fits");
    }
    drop(file);
    let file = FileJournal::open(&path).expect("the journal that is there");
    let expected: Vec<_> = [1, 2, 3].map(|n| Ok(operation(n))).into();
    assert_eq!(file.load().expect("readable"), expected);
    for n in [1, 2, 3, 9] {
        file.clear(id(n)).expect("writable");
    }
    drop(file);
    assert_eq!(FileJournal::open(&path).expect("it is there").load().expect("readable"), []);
}

#[test]
fn second_agent_on_the_same_journal_is_told_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("intents");
    let first = FileJournal::open(&path).expect("a new journal");
    let second = FileJournal::open(&path).map(|_| ()).map_err(|error| error.to_string());
    assert!(second.as_ref().is_err_and(|why| why.contains("another agent")), "{second:?}");
    drop(first);
    FileJournal::open(&path).expect("the lock is free again");
}

#[test]
fn full_journal_and_too_large_an_operation_are_refused_in_words() {
    let mut journal = journal(ModelDisk::new());
    for n in 0..SLOTS as u64 {
        journal.put(&operation(n), false).expect("there is a slot");
    }
    let full = journal.put(&operation(SLOTS as u64), false).map_err(|error| error.to_string());
    assert!(full.as_ref().is_err_and(|why| why.contains("all 64 slots are taken")), "{full:?}");
    let large = Operation { actor: "x".repeat(COPY_BYTES), ..operation(1) };
    let large = journal.put(&large, false).map_err(|error| error.to_string());
    assert!(large.as_ref().is_err_and(|why| why.contains("at most")), "{large:?}");
}

#[test]
fn full_file_system_takes_every_write_in_place() {
    if !nix::unistd::geteuid().is_root() {
        writeln!(io::stderr(), "skipped full_file_system_takes_every_write_in_place: mounting needs root")
            .expect("stderr");
        return;
    }
    // A mount namespace of this thread alone: the mount is gone with the thread.
    std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        let directory = tempfile::tempdir().expect("a directory");
        let none = None::<&str>;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("root may");
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, Some("size=20m")).expect("root may");
        let journal = FileJournal::open(&directory.path().join("intents")).expect("there is room");
        let mut filler = File::create(directory.path().join("filler")).expect("there is room");
        let full = io::copy(&mut io::repeat(1), &mut filler).expect_err("the file system has an end");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        for n in 0..SLOTS as u64 {
            journal.put(&operation(n), true).expect("writes in place need no room");
            journal.put(&operation(n), true).expect("writes in place need no room");
        }
        assert_eq!(journal.load().expect("readable").len(), SLOTS);
    })
    .join()
    .expect("the thread has not failed");
}

#[derive(Debug, Clone)]
enum Act {
    Put { n: u64, recoveries: u32, durable: bool },
    Clear { n: u64 },
    FailFlush,
    PowerCut { bytes: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u64, 0..1_000_u32, any::<bool>())
            .prop_map(|(n, recoveries, durable)| Act::Put { n, recoveries, durable }),
        1 => (0..3_u64).prop_map(|n| Act::Clear { n }),
        1 => Just(Act::FailFlush),
        2 => (0..20_000_usize).prop_map(|bytes| Act::PowerCut { bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever happens, an operation is found in a state that was put, not older than the last one confirmed.
    #[test]
    fn every_history_of_writes_and_power_cuts_loses_nothing_that_was_confirmed(
        acts in proptest::collection::vec(act(), 1..40),
    ) {
        let mut journal_under_test = journal(ModelDisk::new());
        // The states of each operation since the last confirmed one, that one first; none stands for a free slot.
        let mut possible: Vec<Vec<Option<u32>>> = vec![vec![None]; 3];
        for act in acts {
            match act {
                Act::Put { n, recoveries, durable } => {
                    let put = Operation { recoveries, ..operation(n) };
                    journal_under_test.put(&put, durable).expect("one flush at most fails");
                    let at = usize::try_from(n).expect("small");
                    possible[at].push(Some(recoveries));
                    if durable {
                        for states in &mut possible {
                            states.drain(..states.len() - 1);
                        }
                    }
                }
                Act::Clear { n } => {
                    journal_under_test.clear(id(n)).expect("writable");
                    possible[usize::try_from(n).expect("small")].push(None);
                }
                Act::FailFlush => journal_under_test.disk.flushes_to_fail.set(1),
                Act::PowerCut { bytes } => {
                    journal_under_test = journal(journal_under_test.disk.after_power_cut(bytes));
                    let found = held(&journal_under_test);
                    for (n, states) in (0_u64..).zip(&mut possible) {
                        let state = found.iter().find(|held| held.id == id(n)).map(|held| held.recoveries);
                        prop_assert!(states.contains(&state), "operation {n} is {state:?}, not one of {states:?}");
                        *states = vec![state];
                    }
                }
            }
        }
    }
}
