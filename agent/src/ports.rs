//! The traits that the driver sees: what it asks of the file system, of the service manager, of probes and of the history.
//!
//! Each has a real implementation in an effect module and a fake in `tests/support/world`. Implementations do not know
//! each other. All of them are safe to call again after a crash: see each method.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::health::{ProbeResult, UnitState};
use rollback::model::host::{Activation, Configuration, Current, Lease};
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId, UnitName};
use rollback::model::offer::{Label, Offer};
use rollback::model::operation::{ChainHead, Evidence, Operation, Step};
use rollback::model::record::{ChainedRecord, HistoryFilter, HistoryLine, Record};
use rollback::model::refusal::Refusal;
use rollback::model::release::{Integrity, Manifest, Quarantine};
use rollback::model::watch::Moment;

use crate::config::{Component, Probe};

/// Says why an effect on the host failed: what was attempted on which object, with the cause as source.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The attempt failed and nothing is known to have changed.
    #[error("{attempt}")]
    Failed {
        /// What was attempted on which object.
        attempt: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The attempt took longer than its deadline.
    #[error("{attempt} took longer than {limit_ms} ms")]
    Deadline {
        /// What was attempted on which object.
        attempt: String,
        /// The deadline.
        limit_ms: u64,
    },
    /// The state of the object is not what the attempt needs.
    #[error("{attempt}: {found}")]
    Unfit {
        /// What was attempted on which object.
        attempt: String,
        /// What was found.
        found: String,
    },
    /// An fsync failed: what is on the disk is unknown, and the same fsync must not be tried again.
    #[error("{attempt}: the disk did not confirm it, what is stored is unknown")]
    Durability {
        /// What was attempted on which object.
        attempt: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl PortError {
    /// Wraps a cause with what was attempted.
    pub fn failed(attempt: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed { attempt: attempt.into(), source: source.into() }
    }
}

/// The releases of one component on disk, their manifests, and its two links.
///
/// All calls block on the disk; the driver calls them from blocking tasks.
pub trait Store: Send + Sync {
    /// Tells where `current` leads, without following it further than one step.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn current(&self, component: &Component) -> Result<Current, PortError>;

    /// Lists the releases that have a manifest, in no particular order; a directory without one is not listed.
    ///
    /// # Errors
    /// When the manifests cannot be read.
    fn manifests(&self, component: &Component) -> Result<Vec<Manifest>, PortError>;

    /// Adopts every directory of the releases directory that has no manifest yet: reads it in full, freezes the
    /// configuration beside the manifest, and writes the manifest durably. Gives the new manifests.
    ///
    /// Bad directories (hostile names, devices inside) are skipped and reported as errors beside the manifests.
    ///
    /// # Errors
    /// When the releases directory cannot be read or the state directory cannot be written.
    fn adopt(&self, component: &Component, now: Timestamp) -> Result<Adopted, PortError>;

    /// Forgets what was recorded of a release, so that it is adopted anew; its directory is left alone.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    fn forget(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError>;

    /// Forgets the configuration that was frozen with a release, so that the next adoption freezes it anew. Only for a
    /// release that never ran: what ran comes back with what it ran with.
    ///
    /// # Errors
    /// When the release is not recorded, or the state directory cannot be written.
    fn thaw(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError>;

    /// Removes a release and what was recorded of it. `current` must not lead there, and no operation may need it.
    ///
    /// Its name goes in one step, so a crash leaves the whole release or none; what is left of its files then has a
    /// hidden name and goes with the next removal.
    ///
    /// # Errors
    /// When `current` leads there, or the disk fails.
    fn remove(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError>;

    /// Tells whether the disk of the releases is short of space or inodes.
    fn is_short(&self, component: &Component) -> bool;

    /// Judges a release by a stat of every entry; what moved is read and compared, and recorded anew when it stands.
    fn check(&self, component: &Component, release: &ReleaseId, now: Timestamp) -> Integrity;

    /// Judges a release by reading every file, on all cores; `progress` is told the bytes read so far.
    fn verify(
        &self,
        component: &Component,
        release: &ReleaseId,
        now: Timestamp,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Integrity;

    /// Tells whether the configuration that was frozen with a release is at hand and stands.
    fn configuration(&self, component: &Component, release: &ReleaseId) -> Configuration;

    /// Tells whether the links of a component can be switched at all; nothing is changed. A full disk is no hindrance.
    ///
    /// # Errors
    /// When the file system of its root is read-only, or its root cannot be written.
    fn writable(&self, component: &Component) -> Result<(), PortError>;

    /// Ensures that `current` leads to the release, durably (link exchange, fsync of the directory).
    ///
    /// # Errors
    /// When it cannot be ensured; [`PortError::Durability`] when the exchange was made but not confirmed.
    fn link_current(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError>;

    /// Begins to lay down a release, or goes on with what an earlier push of the same files has left: takes every file
    /// that is there already, and those of other releases of the component.
    ///
    /// # Errors
    /// When its name is taken, there is no room, or the same files are being pushed; nothing was written then. When the
    /// disk fails.
    fn stage(&self, component: &Component, pushed: Pushed, now: Timestamp) -> Result<Box<dyn Staging>, PushError>;

    /// Ensures that the configuration link leads to what was frozen with the release, durably.
    ///
    /// # Errors
    /// As [`Store::link_current`].
    fn link_configuration(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError>;
}

/// A release that is pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What its maker says of it.
    pub label: Label,
    /// Its entries.
    pub offer: Arc<Offer>,
    /// Who pushes it.
    pub by: String,
    /// The bytes that are in place, for who looks on.
    pub placed: Arc<AtomicU64>,
}

/// Why a release was not laid down.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It must not be.
    #[error("{}", rollback::explain::refusal(.0))]
    Refused(Refusal),
    /// It could not be. What has arrived is kept, unless that was what filled the disk.
    #[error(transparent)]
    Failed(#[from] PortError),
}

/// A release that is being laid down in a directory beside the releases, hidden from everybody.
///
/// Dropping it keeps what has arrived whole: [`Store::stage`] goes on with it, also in another process.
pub trait Staging: Send {
    /// The contents that the host lacks, in the order in which they are awaited.
    fn lacking(&self) -> Vec<Digest>;

    /// Takes the next bytes of a content.
    ///
    /// # Errors
    /// When it is not the one that is awaited, is not what was offered, or cannot be written.
    fn put(&mut self, content: Digest, data: &[u8]) -> Result<(), PushError>;

    /// Makes a release of it: proves that it is what was offered, flushes it, gives it its name and records it. `now` is
    /// when the call is made.
    ///
    /// # Errors
    /// When something is missing or not what was offered, the name is taken meanwhile, or the disk fails.
    fn finish(self: Box<Self>, now: Timestamp) -> Result<LaidDown, PushError>;
}

/// A release that was laid down.
#[derive(Debug, Clone)]
pub struct LaidDown {
    /// What was recorded.
    pub manifest: Manifest,
    /// Where its files come from.
    pub came: Came,
}

/// Where the files of a pushed release come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// Other releases of the component, and files of the same content in the release itself.
    pub shared: Count,
    /// A push that broke off.
    pub resumed: Count,
    /// The client.
    pub sent: Count,
    /// How files are shared.
    pub sharing: Sharing,
}

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How files are shared between releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Two files with one place on the disk until one is written.
    Reflink,
    /// Two files.
    #[default]
    Copy,
    /// One file with two names.
    Hardlink,
}

/// What an adoption found.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The manifests that were written.
    pub manifests: Vec<Manifest>,
    /// The directories that were left alone, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// So many at most, the last ones.
    pub lines_max: usize,
    /// Only what was logged before; a log without times takes no notice of it.
    pub until: Option<Timestamp>,
}

/// A service manager: systemd over D-Bus, or plain processes.
///
/// Only units that the configuration names are ever passed.
#[async_trait]
pub trait Units: Send + Sync {
    /// Ensures that the units do not run: stops them in the order given, each by its job's end; what does not stop in
    /// `limit` is killed. Units that do not run are left alone.
    ///
    /// # Errors
    /// When one still runs after it was killed.
    async fn stop(&self, component: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError>;

    /// Ensures that the units run what `current` leads to: forgets their failures, starts them in the order given, each
    /// by its job's end. A unit that runs already is left alone.
    ///
    /// # Errors
    /// When one does not start, or not in `limit`; the job is then cancelled.
    async fn start(&self, component: &Component, units: &[UnitName], limit: Duration) -> Result<(), PortError>;

    /// Reads the units' states, in the order given.
    ///
    /// # Errors
    /// When the manager does not answer; a unit that does not exist is a state, not an error.
    async fn states(&self, component: &Component, units: &[UnitName]) -> Result<Vec<UnitState>, PortError>;

    /// Lists the processes of the units.
    ///
    /// # Errors
    /// When the manager does not answer; a unit that does not run has no process.
    async fn processes(&self, component: &Component, units: &[UnitName]) -> Result<Vec<u32>, PortError>;

    /// Gives the last lines that the units logged, oldest first; empty when there are none to be had.
    async fn log_tail(&self, component: &Component, units: &[UnitName], tail: Tail) -> Vec<String>;
}

/// Runs probes.
#[async_trait]
pub trait Prober: Send + Sync {
    /// Asks one probe until it passes or has failed its consecutive tries, within its own limits and `limit` in all.
    async fn ask(&self, component: &Component, probe: &Probe, limit: Duration) -> ProbeResult;
}

/// The append-only history, on its own thread.
///
/// No call but [`History::audit`] waits longer than [`HISTORY_LIMIT`]; on a full, locked or damaged database it fails, and the driver goes on.
#[async_trait]
pub trait History: Send + Sync {
    /// Appends records in one transaction and gives the new head. `durable` waits until the disk has confirmed it.
    ///
    /// # Errors
    /// When the database cannot be written; nothing of the batch is stored then.
    async fn append(&self, now: Timestamp, records: Vec<Record>, durable: bool) -> Result<ChainHead, PortError>;

    /// Finds the newest state of an operation: its end, or its start when it has not ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn operation(&self, id: OperationId) -> Result<Option<StoredOperation>, PortError>;

    /// Lists operations, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn list(&self, filter: HistoryFilter) -> Result<Vec<HistoryLine>, PortError>;

    /// Gives what is remembered of a component's releases: activations oldest first, and when which became good.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn memory(&self, environment: &Environment, component: &ComponentName) -> Result<Memory, PortError>;

    /// Gives the records after a sequence number, at most `records_max`, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn after(&self, sequence: u64, records_max: u32) -> Result<Vec<ChainedRecord>, PortError>;

    /// Gives the head of the chain.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn head(&self) -> Result<ChainHead, PortError>;

    /// Recomputes the whole chain and compares the projections with it: seconds, and it delays no other call.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn audit(&self) -> Result<ChainAudit, PortError>;

    /// Stores the lease of an environment, replacing the one that is there.
    ///
    /// # Errors
    /// When the database cannot be written.
    async fn put_lease(&self, lease: Lease) -> Result<(), PortError>;

    /// Removes the lease of an environment if that operation holds it.
    ///
    /// # Errors
    /// When the database cannot be written.
    async fn drop_lease(&self, environment: &Environment, operation: OperationId) -> Result<(), PortError>;

    /// Gives all leases.
    ///
    /// # Errors
    /// When the database cannot be read.
    async fn leases(&self) -> Result<Vec<Lease>, PortError>;

    /// Says in one sentence why the history is degraded (moved aside, full, locked); none when it is well.
    fn degraded(&self) -> Option<String>;
}

/// Longest wait for the history: past it the intent journal alone carries an operation on.
pub const HISTORY_LIMIT: Duration = Duration::from_secs(2);

/// An operation as the history has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOperation {
    /// The operation.
    pub operation: Operation,
    /// What was saved of what it left.
    pub evidence: Vec<Evidence>,
    /// Whether its end is recorded.
    pub ended: bool,
}

/// What is remembered of a component's releases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Every activation, oldest first: found ones, and those of operations that ended with the release running.
    pub activations: Vec<Activation>,
    /// Since when a release's digest is good, newest first.
    pub good: Vec<(Digest, Timestamp)>,
    /// The digests that may not be activated.
    pub quarantines: Vec<(Digest, Quarantine)>,
    /// The releases that retention must keep.
    pub pins: Vec<ReleaseId>,
}

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq)]
pub enum ChainAudit {
    /// Every record stands.
    Sound(ChainHead),
    /// A record does not follow from the one before it, or a projection differs from it.
    Broken {
        /// The first bad record.
        sequence: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// The intent journal: fixed-size slots, written in place, which work on a full disk.
///
/// All calls block on the disk.
pub trait IntentJournal: Send + Sync {
    /// Stores an operation in its slot, taking a free one the first time. `durable` waits for the disk.
    ///
    /// After a crash the slot holds either this or the state before, never a mixture.
    ///
    /// # Errors
    /// When all slots are taken, the operation is too large for one, or the disk fails.
    fn put(&self, operation: &Operation, durable: bool) -> Result<(), PortError>;

    /// Frees the slot of an operation. Not flushed: recovery finds the operation ended in the history and frees it again.
    ///
    /// # Errors
    /// When the disk fails.
    fn clear(&self, operation: OperationId) -> Result<(), PortError>;

    /// Gives every operation that has a slot, in the order of acceptance, with slots that cannot be read as errors.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn load(&self) -> Result<Vec<Result<Operation, String>>, PortError>;
}

/// The dead-man's switch: goes back without the agent when a watch does not end in time.
#[async_trait]
pub trait DeadMan: Send + Sync {
    /// Arms the switch of an operation durably, or changes its deadline: `lasts` after `from`.
    ///
    /// # Errors
    /// When it cannot be made sure that it fires: the disk or the service manager fails, or it has fired.
    async fn arm(
        &self,
        component: &Component,
        operation: &Operation,
        from: Moment,
        lasts: Duration,
    ) -> Result<(), PortError>;

    /// Disarms the switch of an operation durably. Gives what came of it when it has fired; none when it was disarmed, or
    /// never armed.
    ///
    /// # Errors
    /// When the disk fails: it may fire yet.
    async fn disarm(&self, operation: OperationId) -> Result<Option<Fired>, PortError>;

    /// Tells whether the switch of an operation has fired, and what came of it.
    ///
    /// # Errors
    /// When the disk fails.
    async fn fired(&self, operation: OperationId) -> Result<Option<Fired>, PortError>;

    /// Forgets that a switch has fired, once that is recorded.
    ///
    /// # Errors
    /// When the disk fails.
    async fn forget(&self, operation: OperationId) -> Result<(), PortError>;

    /// Lists the operations whose switches are armed.
    ///
    /// # Errors
    /// When the disk fails.
    async fn armed(&self) -> Result<Vec<OperationId>, PortError>;
}

/// What came of a switch that has fired.
#[derive(Debug, Clone, PartialEq)]
pub struct Fired {
    /// When; none when it was cut off in the middle, or is not finished yet.
    pub at: Option<Timestamp>,
    /// What it did, in order; nothing where another hand had gone on.
    pub steps: Vec<Step>,
}

/// The time: passed in, so that tests can turn it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Names this boot of the host; empty when the kernel does not tell.
    fn boot(&self) -> String;
    /// Time since the host booted, suspended time included.
    fn boottime(&self) -> Duration;
    /// Waits.
    async fn sleep(&self, time: Duration);
    /// Ten random bytes for an operation's identifier.
    fn random(&self) -> [u8; 10];
}

/// Facts about processes and host, for evidence and for the status.
pub trait Facts: Send + Sync {
    /// Describes a process in one line; none when it is gone.
    fn process(&self, pid: u32) -> Option<String>;

    /// Tells what processes use; those that are gone are left out.
    fn used(&self, pids: &[u32]) -> Vec<Used>;
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The process.
    pub pid: u32,
    /// When it was started, in seconds since 1970: a process id alone is given again.
    pub started_at: u64,
    /// Its resident memory.
    pub memory_bytes: u64,
    /// The CPU that it has used so far, in milliseconds.
    pub cpu_ms: u64,
}
