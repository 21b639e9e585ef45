//! Tells when something in directories has changed, once it has come to rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Says why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}")]
pub struct WatchError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: notify::Error,
}

/// How long changes rest before they are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// Quiet time after a change.
    pub(crate) quiet: Duration,
    /// Longest wait for quiet: what never rests is told all the same.
    pub(crate) wait_max: Duration,
}

/// Watches directories, each with what is below it or without.
///
/// The receiver gets one message once changes that `counts` have come to rest, however many they were; messages that
/// nobody has taken yet count as one. Watching ends when the receiver is dropped. Call it within a tokio runtime.
///
/// # Errors
/// When a directory does not exist or the kernel has no more watches.
pub(crate) fn watch(
    directories: &[(PathBuf, RecursiveMode)],
    rest: Rest,
    counts: impl Fn(&Event) -> bool + Send + 'static,
) -> Result<mpsc::Receiver<()>, WatchError> {
    let (raw, changes) = mpsc::channel(1);
    let first = directories.first().map(|(path, _)| path.clone()).unwrap_or_default();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if is_change(&event, &counts) {
            // A full channel has the news already; a closed one has no reader any more.
            let _ = raw.try_send(());
        }
    })
    .map_err(|source| WatchError { path: first, source })?;
    for (path, mode) in directories {
        add(&mut watcher, path, *mode)?;
    }
    let (settled, receiver) = mpsc::channel(1);
    tokio::spawn(settle(watcher, rest, changes, settled));
    Ok(receiver)
}

fn add(watcher: &mut RecommendedWatcher, path: &Path, mode: RecursiveMode) -> Result<(), WatchError> {
    watcher.watch(path, mode).map_err(|source| WatchError { path: path.to_owned(), source })
}

/// Tells whether an event can mean another content; reading alone does not. A watcher's own error means that events may
/// be lost, so it counts.
fn is_change(event: &notify::Result<Event>, counts: &impl Fn(&Event) -> bool) -> bool {
    match event {
        Ok(event) => !matches!(event.kind, EventKind::Access(_)) && counts(event),
        Err(error) => {
            tracing::warn!(error = %error, "watching directories failed, looking at them again");
            true
        }
    }
}

/// Turns bursts of changes into single messages until the receiver is gone; holds the watcher alive meanwhile.
async fn settle(_watcher: RecommendedWatcher, rest: Rest, mut changes: mpsc::Receiver<()>, settled: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = settled.closed() => return,
            change = changes.recv() => if change.is_none() { return },
        }
        let deadline = Instant::now() + rest.wait_max;
        loop {
            tokio::select! {
                () = sleep(rest.quiet) => break,
                () = sleep_until(deadline) => break,
                change = changes.recv() => if change.is_none() { return },
            }
        }
        if matches!(settled.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
            return;
        }
    }
}
