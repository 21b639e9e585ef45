//! Tells when files of the configuration have changed; what to do about it is the application's decision.

use std::path::PathBuf;
use std::time::Duration;

use notify::RecursiveMode;
use tokio::sync::mpsc;

use super::settings::Paths;
use crate::notice::{self, Rest, WatchError};

/// Quiet time after a change: an editor or a package writes a file in several steps, all within this.
pub const QUIET: Duration = Duration::from_millis(200);
/// Longest wait for quiet: files that never rest are reported all the same.
pub const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);

/// Watches the configuration's directory with all below it, and further directories (of keys that are kept elsewhere)
/// without what is below them. Gives one message per burst of changes.
///
/// # Errors
/// When a directory does not exist or the kernel has no more watches.
pub fn watch(paths: &Paths, further: &[PathBuf]) -> Result<mpsc::Receiver<()>, WatchError> {
    let mut directories = vec![(paths.configuration.clone(), RecursiveMode::Recursive)];
    let elsewhere = further.iter().filter(|path| !path.starts_with(&paths.configuration));
    directories.extend(elsewhere.map(|path| (path.clone(), RecursiveMode::NonRecursive)));
    notice::watch(&directories, Rest { quiet: QUIET, wait_max: QUIET_WAIT_MAX }, |_| true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
