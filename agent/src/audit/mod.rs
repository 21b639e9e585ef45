//! The audit: forwards every record of the history to journald, in order, at least once, and never makes anybody wait.
//!
//! The history is the truth. One thread reads it from a cursor on and sends each record as one datagram on a socket that
//! does not block. When journald is gone, stopped or full, it tries again later; the cursor moves only past what the
//! socket took. Losing the cursor means that records are sent again.
#![expect(clippy::disallowed_methods, reason = "this module owns the cursor file and the socket of the journal")]

mod cursor;
pub mod fields;
mod native;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollback::model::record::ChainedRecord;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ports::{History, PortError};

use cursor::Cursor;

/// The socket of journald.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Records that are read at once: a few hundred kilobytes, and the cursor is flushed once for all of them.
const BATCH: u32 = 64;

/// First pause after journald or the history has refused: a socket takes ten datagrams at least, so a journald that is
/// only slower than the history still gets a thousand a second.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Longest pause: journald is restarted in a second, and five more make no audit late.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Longest time without a look at the history, should nobody call [`Audit::wake`].
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The forwarder; dropping it stops its thread after the datagram that is under way.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    wake: Notify,
    lag: AtomicU64,
    degraded: Mutex<Option<String>>,
}

impl Audit {
    /// Starts the forwarder's thread. `cursor` is a file that tells how far it came; it is made when there is none.
    ///
    /// # Errors
    /// When the thread, its timer or its socket cannot be made. A journald that is not there is no error.
    pub fn start(history: Arc<dyn History>, socket: &Path, cursor: &Path) -> Result<Self, PortError> {
        let failed = |error| PortError::failed("cannot start the audit's thread", error);
        let own = UnixDatagram::unbound().map_err(failed)?;
        own.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let audit = Self { shared: Arc::default(), stop: CancellationToken::new() };
        let forwarder = Forwarder {
            history,
            own,
            socket: socket.to_owned(),
            cursor: cursor.to_owned(),
            shared: Arc::clone(&audit.shared),
        };
        let stop = audit.stop.clone();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || runtime.block_on(stop.run_until_cancelled(forwarder.run())))
            .map_err(failed)?;
        Ok(audit)
    }

    /// Says that there may be new records; never waits.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Gives the number of records that journald has not taken, as of the last look at the history.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.shared.lag.load(Ordering::Relaxed)
    }

    /// Says in one sentence what is wrong with the audit: journald does not take records, or the history no longer has
    /// what was forwarded from it, so that its newest records were cut off or it was replaced.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Forwarder {
    history: Arc<dyn History>,
    own: UnixDatagram,
    socket: PathBuf,
    cursor: PathBuf,
    shared: Arc<Shared>,
}

impl Forwarder {
    async fn run(self) {
        let mut cursor = cursor::read(&self.cursor);
        let mut compared = None;
        let mut pause = PAUSE_MIN;
        loop {
            let before = cursor.sequence;
            let result = match &compared {
                None => self.compare(&mut cursor).await.map(|warning| compared = Some(warning)),
                Some(_) => self.forward(&mut cursor).await,
            };
            let warning = compared.clone().flatten();
            match result {
                Ok(()) if compared.is_some() && self.lag_after(&cursor).await == Some(0) => {
                    pause = PAUSE_MIN;
                    self.tell(warning);
                    // Time-out or not, the next thing is a look at the history.
                    tokio::time::timeout(LOOK_EVERY, self.shared.wake.notified()).await.ok();
                }
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    self.lag_after(&cursor).await;
                    let error = rollback::chain::Chain(&error).to_string();
                    self.tell(Some(warning.map_or(error.clone(), |warning| format!("{warning}; {error}"))));
                    pause = if cursor.sequence == before { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Compares the cursor with the history; when the history no longer has what was forwarded, begins it anew and gives
    /// the warning.
    async fn compare(&self, cursor: &mut Cursor) -> Result<Option<String>, PortError> {
        if cursor.sequence == 0 {
            return Ok(None);
        }
        let forwarded = self.history.after(cursor.sequence - 1, 1).await?;
        if forwarded.first().is_some_and(|record| record.digest == cursor.digest) {
            return Ok(None);
        }
        let head = self.history.head().await?;
        let warning = format!(
            "record {} was forwarded to the journal as {} and the history, now at record {}, does not have it",
            cursor.sequence,
            cursor.digest.short(),
            head.sequence
        );
        tracing::error!("{warning}");
        *cursor = Cursor::default();
        Ok(Some(warning))
    }

    /// Sends one batch; the cursor then stands after the last record that the socket took, also on an error.
    async fn forward(&self, cursor: &mut Cursor) -> Result<(), PortError> {
        let records = self.history.after(cursor.sequence, BATCH).await?;
        let before = cursor.sequence;
        let mut result = Ok(());
        for record in &records {
            result = self.send(record);
            if result.is_err() {
                break;
            }
            *cursor = Cursor { sequence: record.sequence, digest: record.digest };
        }
        if cursor.sequence != before {
            // A cursor that cannot be written costs only that records are sent again after a restart.
            result = result.and(cursor::write(&self.cursor, cursor));
        }
        result
    }

    fn send(&self, record: &ChainedRecord) -> Result<(), PortError> {
        let fields = fields::fields(record);
        let attempt = || format!("cannot forward record {} to {}", record.sequence, self.socket.display());
        let sent = self.own.send_to(&native::encode(&fields, native::VALUE_BYTES_MAX), &self.socket);
        match sent {
            Ok(_) => Ok(()),
            // The socket's buffers were set smaller than anybody's: a short entry is better than none for ever.
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => self
                .own
                .send_to(&native::encode(&fields, native::VALUE_BYTES_SHORT), &self.socket)
                .map(|_| ())
                .map_err(|error| PortError::failed(attempt(), error)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(PortError::Unfit { attempt: attempt(), found: "journald does not take anything".to_owned() })
            }
            Err(error) => Err(PortError::failed(attempt(), error)),
        }
    }

    /// Notes how many records are to be forwarded; none when the history does not answer.
    async fn lag_after(&self, cursor: &Cursor) -> Option<u64> {
        let head = self.history.head().await.ok()?;
        let lag = head.sequence.saturating_sub(cursor.sequence);
        self.shared.lag.store(lag, Ordering::Relaxed);
        Some(lag)
    }

    fn tell(&self, degraded: Option<String>) {
        *self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner) = degraded;
    }
}
