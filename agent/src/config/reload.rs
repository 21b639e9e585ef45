//! Tells when files of the configuration have changed; what to do about it is the application's decision.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::settings::Paths;

/// Quiet time after a change: an editor or a package writes a file in several steps, all within this.
pub const QUIET: Duration = Duration::from_millis(200);
/// Longest wait for quiet: files that never rest are reported all the same.
pub const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);

/// Says why the configuration cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}")]
pub struct WatchError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: notify::Error,
}

/// Watches the configuration's directory with all below it, and further directories (of keys that are kept elsewhere)
/// without what is below them.
///
/// The receiver gets one message once changes have come to rest, however many they were; messages that nobody has taken
/// yet count as one. Watching ends when the receiver is dropped. Call it within a tokio runtime.
///
/// # Errors
/// When a directory does not exist or the kernel has no more watches.
pub fn watch(paths: &Paths, further: &[PathBuf]) -> Result<mpsc::Receiver<()>, WatchError> {
    let (raw, changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if counts(&event) {
            // A full channel has the news already; a closed one has no reader any more.
            let _ = raw.try_send(());
        }
    })
    .map_err(|source| WatchError { path: paths.configuration.clone(), source })?;
    let mut add =
        |path: &Path, mode| watcher.watch(path, mode).map_err(|source| WatchError { path: path.to_owned(), source });
    add(&paths.configuration, RecursiveMode::Recursive)?;
    for path in further.iter().filter(|path| !path.starts_with(&paths.configuration)) {
        add(path, RecursiveMode::NonRecursive)?;
    }
    let (settled, receiver) = mpsc::channel(1);
    tokio::spawn(settle(watcher, changes, settled));
    Ok(receiver)
}

/// Tells whether an event can mean another content; reading alone does not. A watcher's own error means that events may
/// be lost, so it counts.
fn counts(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(event) => !matches!(event.kind, EventKind::Access(_)),
        Err(error) => {
            tracing::warn!(error = %error, "watching the configuration failed, reading it again");
            true
        }
    }
}

/// Turns bursts of changes into single messages until the receiver is gone; holds the watcher alive meanwhile.
async fn settle(_watcher: RecommendedWatcher, mut changes: mpsc::Receiver<()>, settled: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = settled.closed() => return,
            change = changes.recv() => if change.is_none() { return },
        }
        let deadline = Instant::now() + QUIET_WAIT_MAX;
        loop {
            tokio::select! {
                () = sleep(QUIET) => break,
                () = sleep_until(deadline) => break,
                change = changes.recv() => if change.is_none() { return },
            }
        }
        if matches!(settled.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &Path) -> Paths {
        let paths = Paths { configuration: root.join("etc"), state: root.join("state"), runtime: root.join("run") };
        std::fs::create_dir_all(paths.configuration.join("components.d")).expect("made");
        paths
    }

    #[tokio::test]
    async fn a_burst_of_changes_is_one_message_and_new_directories_are_seen() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let paths = paths(held.path());
        let mut changes = watch(&paths, &[]).expect("watched");
        for at in 0..50 {
            std::fs::write(paths.configuration.join("components.d/web.toml"), format!("# {at}")).expect("written");
        }
        assert_eq!(changes.recv().await, Some(()));
        assert!(changes.try_recv().is_err(), "the burst was one message");
        std::fs::create_dir(paths.configuration.join("agent.d")).expect("made");
        assert_eq!(changes.recv().await, Some(()));
        std::fs::rename(paths.configuration.join("components.d/web.toml"), paths.configuration.join("agent.d/x.toml"))
            .expect("moved");
        assert_eq!(changes.recv().await, Some(()));
    }

    #[tokio::test]
    async fn keys_kept_elsewhere_are_watched_and_missing_directories_named() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let paths = paths(held.path());
        let keys = held.path().join("keys");
        let error = watch(&paths, std::slice::from_ref(&keys)).expect_err("there is no such directory");
        assert_eq!(error.to_string(), format!("cannot watch {}", keys.display()));
        std::fs::create_dir(&keys).expect("made");
        let mut changes = watch(&paths, std::slice::from_ref(&keys)).expect("watched");
        std::fs::write(keys.join("agent.crt"), "new").expect("written");
        assert_eq!(changes.recv().await, Some(()));
    }
}
