//! The intent journal: one preallocated file of fixed slots, written in place, so that it works on a full disk.
//!
//! Each slot has two copies of equal size. A write goes to the copy that is not the last one that the disk confirmed, so
//! at every instant one whole state is on the disk. A copy is a header and the operation as JSON:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the magic `RBINTENT` |
//! | 8 | the generation, little endian; of two valid copies the larger counts |
//! | 4 | the length of the JSON, little endian; 0 when the slot is free |
//! | 32 | BLAKE3 over generation, length and JSON |
//!
//! A copy that is all zeros up to the end of its header was never written: a free slot of generation 0.
#![expect(clippy::disallowed_methods, reason = "this module owns the file of the intent journal")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rollback::model::ids::OperationId;
use rollback::model::operation::Operation;

use crate::ports::{IntentJournal, PortError};

/// Slots: one operation runs per environment at a time, and those that wait for an operator keep theirs. No host is
/// known to have sixty environments.
pub const SLOTS: usize = 64;

/// Bytes of one copy. An operation with a full report of a damaged release is about 20 KiB; this is six times as much.
pub const COPY_BYTES: usize = 128 * 1024;

/// Bytes of a copy's header.
const HEADER_BYTES: usize = 8 + 8 + 4 + 32;

/// Longest operation as JSON that fits into a slot.
pub const OPERATION_BYTES_MAX: usize = COPY_BYTES - HEADER_BYTES;

const FILE_BYTES: usize = SLOTS * 2 * COPY_BYTES;

const MAGIC: &[u8; 8] = b"RBINTENT";

/// The intent journal in a file.
#[derive(Debug)]
pub struct FileJournal {
    inner: Mutex<Journal<FileDisk>>,
    /// Keeps the lock until the journal is dropped.
    _lock: File,
}

impl FileJournal {
    /// Opens the journal, and makes it when there is none: a file of 16 MiB, mode 0600, written with zeros and flushed
    /// once. The lock beside it, `PATH.lock`, is held until the journal is dropped or the process ends.
    ///
    /// # Errors
    /// When another agent has it open, it has another size, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, PortError> {
        let lock = lock(path)?;
        let failed = |error| PortError::failed(format!("cannot open the intent journal {}", path.display()), error);
        if !path.try_exists().map_err(failed)? {
            create(path).map_err(|error| {
                PortError::failed(format!("cannot make the intent journal {}", path.display()), error)
            })?;
        }
        let disk = FileDisk::open(path).map_err(failed)?;
        let bytes = disk.file.metadata().map_err(failed)?.len();
        if bytes != FILE_BYTES as u64 {
            return Err(PortError::Unfit {
                attempt: format!("cannot open the intent journal {}", path.display()),
                found: format!("it has {bytes} bytes, {FILE_BYTES} are expected"),
            });
        }
        let inner = Journal::open(disk, path.display().to_string())?;
        Ok(Self { inner: Mutex::new(inner), _lock: lock })
    }

    fn inner(&self) -> MutexGuard<'_, Journal<FileDisk>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntentJournal for FileJournal {
    fn put(&self, operation: &Operation, durable: bool) -> Result<(), PortError> {
        self.inner().put(operation, durable)
    }

    fn clear(&self, operation: OperationId) -> Result<(), PortError> {
        self.inner().clear(operation)
    }

    fn load(&self) -> Result<Vec<Result<Operation, String>>, PortError> {
        self.inner().load()
    }
}

/// Takes the lock of a journal. It is on a file of its own, so that the journal can be opened again under it.
fn lock(path: &Path) -> Result<File, PortError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let attempt = format!("cannot lock {}", name.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| PortError::failed(attempt.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(PortError::Unfit { attempt, found: "another agent works in this state directory".to_owned() })
        }
        Err(TryLockError::Error(error)) => Err(PortError::failed(attempt, error)),
    }
}

/// Makes the file whole under another name first, so that a crash in between leaves none.
fn create(path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let bytes = i64::try_from(FILE_BYTES).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    nix::fcntl::posix_fallocate(&file, 0, bytes)?;
    // Blocks that are only reserved must still be converted when they are written, which a full disk can refuse.
    let zeros = vec![0; COPY_BYTES];
    for _ in 0..FILE_BYTES / COPY_BYTES {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// What the journal asks of a disk; the second implementation is the tests' disk, which fails and loses power.
trait Disk {
    /// Reads exactly so many bytes.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes in place, in one call where the disk takes it.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Opens the same file afresh, after a flush failed.
    fn reopen(&mut self) -> io::Result<()>;
}

#[derive(Debug)]
struct FileDisk {
    path: PathBuf,
    file: File,
}

impl FileDisk {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: OpenOptions::new().read(true).write(true).open(path)? })
    }
}

impl Disk for FileDisk {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// One slot as the journal knows it.
#[derive(Debug, Default)]
struct Slot {
    /// Who has it; none when it is free.
    operation: Option<OperationId>,
    /// The largest generation so far.
    generation: u64,
    /// The copy that the disk has confirmed last: 0 or 1. It is never written.
    confirmed: usize,
    /// What was written to the other copy since and is not confirmed.
    pending: Option<Vec<u8>>,
    /// Neither copy can be read: nobody gets it, and what is in it stays as evidence.
    unreadable: bool,
}

/// What a copy holds.
#[derive(Debug)]
struct Copy {
    generation: u64,
    json: Vec<u8>,
}

#[derive(Debug)]
struct Journal<D> {
    disk: D,
    name: String,
    slots: Vec<Slot>,
    /// A flush failed, and doing it over failed too: nothing more is accepted.
    poisoned: bool,
}

impl<D: Disk> Journal<D> {
    /// Reads all slots. What is read is flushed once, so that it is the confirmed state from which new ones begin.
    fn open(mut disk: D, name: String) -> Result<Self, PortError> {
        disk.sync().map_err(|source| PortError::Durability { attempt: format!("cannot flush {name}"), source })?;
        let mut journal = Self { disk, name, slots: Vec::new(), poisoned: false };
        for at in 0..SLOTS {
            let slot = match journal.newest(at)? {
                Err(_) => Slot { unreadable: true, ..Slot::default() },
                Ok((confirmed, copy)) => {
                    let operation = read_operation(&copy.json);
                    Slot {
                        unreadable: operation.is_err(),
                        operation: operation.ok().flatten().map(|operation| operation.id),
                        generation: copy.generation,
                        confirmed,
                        pending: None,
                    }
                }
            };
            journal.slots.push(slot);
        }
        Ok(journal)
    }

    fn put(&mut self, operation: &Operation, durable: bool) -> Result<(), PortError> {
        let attempt = format!("cannot store the intent of operation {} in {}", operation.id, self.name);
        let json = serde_json::to_vec(operation).map_err(|error| PortError::failed(attempt.clone(), error))?;
        if json.len() > OPERATION_BYTES_MAX {
            let found = format!("it has {} bytes, at most {OPERATION_BYTES_MAX} fit", json.len());
            return Err(PortError::Unfit { attempt, found });
        }
        let own = self.slots.iter().position(|slot| slot.operation == Some(operation.id));
        let free = || self.slots.iter().position(|slot| slot.operation.is_none() && !slot.unreadable);
        let Some(at) = own.or_else(free) else {
            return Err(PortError::Unfit { attempt, found: format!("all {SLOTS} slots are taken") });
        };
        self.write(at, &json, &attempt)?;
        self.slots[at].operation = Some(operation.id);
        if durable { self.sync(&attempt) } else { Ok(()) }
    }

    fn clear(&mut self, operation: OperationId) -> Result<(), PortError> {
        let Some(at) = self.slots.iter().position(|slot| slot.operation == Some(operation)) else { return Ok(()) };
        let attempt = format!("cannot clear the intent of operation {operation} in {}", self.name);
        self.write(at, &[], &attempt)?;
        self.slots[at].operation = None;
        Ok(())
    }

    fn load(&self) -> Result<Vec<Result<Operation, String>>, PortError> {
        let mut operations = Vec::new();
        let mut unreadable = Vec::new();
        for at in 0..SLOTS {
            match self.newest(at)?.and_then(|(_, copy)| read_operation(&copy.json)) {
                Ok(None) => {}
                Ok(Some(operation)) => operations.push(operation),
                Err(why) => unreadable.push(Err(format!("slot {at} of {} cannot be read: {why}", self.name))),
            }
        }
        operations.sort_by_key(|operation| (operation.accepted_at, operation.id));
        Ok(operations.into_iter().map(Ok).chain(unreadable).collect())
    }

    /// Writes the next generation of a slot over the copy that is not the confirmed one.
    fn write(&mut self, at: usize, json: &[u8], attempt: &str) -> Result<(), PortError> {
        if self.poisoned {
            let found = "a flush of it failed before, so it takes nothing until it is opened again".to_owned();
            return Err(PortError::Unfit { attempt: attempt.to_owned(), found });
        }
        let slot = &mut self.slots[at];
        let bytes = encode(slot.generation + 1, json);
        // Until the write is whole, the copy holds nothing that a flush could confirm.
        slot.pending = None;
        self.disk.write(offset(at, 1 - slot.confirmed), &bytes).map_err(|error| PortError::failed(attempt, error))?;
        slot.generation += 1;
        slot.pending = Some(bytes);
        Ok(())
    }

    /// Flushes what all slots have pending.
    ///
    /// After a failed flush the pages count as clean, and the same flush would only seem to succeed. So the file is opened
    /// afresh, everything pending is written again and flushed once more; when that fails too, the journal is poisoned.
    fn sync(&mut self, attempt: &str) -> Result<(), PortError> {
        if self.disk.sync().is_err()
            && let Err(source) = self.write_pending_again()
        {
            self.poisoned = true;
            return Err(PortError::Durability { attempt: attempt.to_owned(), source });
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.pending.is_some()) {
            slot.pending = None;
            slot.confirmed = 1 - slot.confirmed;
        }
        Ok(())
    }

    fn write_pending_again(&mut self) -> io::Result<()> {
        self.disk.reopen()?;
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(bytes) = &slot.pending {
                self.disk.write(offset(at, 1 - slot.confirmed), bytes)?;
            }
        }
        self.disk.sync()
    }

    /// Picks the valid copy of a slot with the larger generation, and says which of the two it is.
    fn newest(&self, at: usize) -> Result<Result<(usize, Copy), String>, PortError> {
        let mut best: Option<(usize, Copy)> = None;
        let mut faults = Vec::new();
        for index in 0..2 {
            match self.copy(offset(at, index))? {
                Ok(copy) if best.as_ref().is_none_or(|(_, other)| other.generation < copy.generation) => {
                    best = Some((index, copy));
                }
                Ok(_) => {}
                Err(why) => faults.push(why),
            }
        }
        Ok(best.ok_or_else(|| faults.join(", and ")))
    }

    fn copy(&self, at: u64) -> Result<Result<Copy, String>, PortError> {
        let failed = |error| PortError::failed(format!("cannot read {}", self.name), error);
        let mut header = [0; HEADER_BYTES];
        self.disk.read(at, &mut header).map_err(failed)?;
        if header == [0; HEADER_BYTES] {
            return Ok(Ok(Copy { generation: 0, json: Vec::new() }));
        }
        let (magic, rest) = header.split_at(MAGIC.len());
        let (generation, rest) = rest.split_at(8);
        let (length, digest) = rest.split_at(4);
        let bytes = length.iter().rev().fold(0_usize, |bytes, byte| bytes << 8 | usize::from(*byte));
        if magic != MAGIC || bytes > OPERATION_BYTES_MAX {
            return Ok(Err("a header is not one".to_owned()));
        }
        let mut json = vec![0; bytes];
        self.disk.read(at + HEADER_BYTES as u64, &mut json).map_err(failed)?;
        let generation = generation.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        if digest != checksum(generation, &json).as_bytes() {
            return Ok(Err(format!("the digest of generation {generation} does not stand")));
        }
        Ok(Ok(Copy { generation, json }))
    }
}

fn read_operation(json: &[u8]) -> Result<Option<Operation>, String> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json).map(Some).map_err(|error| format!("it is no operation of this version: {error}"))
}

fn offset(slot: usize, copy: usize) -> u64 {
    ((slot * 2 + copy) * COPY_BYTES) as u64
}

fn encode(generation: u64, json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + json.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&length(json));
    bytes.extend_from_slice(checksum(generation, json).as_bytes());
    bytes.extend_from_slice(json);
    bytes
}

fn checksum(generation: u64, json: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&length(json));
    hasher.update(json);
    hasher.finalize()
}

fn length(json: &[u8]) -> [u8; 4] {
    u32::try_from(json.len()).expect("`put` lets no longer operation pass than fits a copy").to_le_bytes()
}

#[cfg(test)]
mod tests;
