//! Lays down releases that are pushed: in a hidden directory beside the others, which becomes one by its last rename.
//!
//! The directory has the name of the release's tree digest, so that a push that broke off is found by the next one of the
//! same files, under whatever name. Until the rename nobody but the agent can read it, and adoption does not see it.

mod lay_down;
mod share;
mod staged;

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rollback::chain::Chain;
use rollback::model::refusal::Refusal;

use super::digest::DEPTH_MAX;
use super::{beneath, store};
use crate::config::Component;
use crate::ports::{PortError, PushError, Pushed};

pub(super) use staged::Staged;

/// Begins the name of every directory that a push writes into; the digest follows.
const PREFIX: &str = ".push-";
/// How long what a push has left is kept: who tries again does so on the same day.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// Most names in a releases directory that are looked at; see adoption.
const NAMES_MAX: usize = 10_000;

/// What is being pushed now.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// The component's state directory and the name of the staging directory.
    running: Mutex<HashSet<(PathBuf, String)>>,
}

impl Pushes {
    /// Takes the place of a push: the same files are laid down by one at a time.
    pub(super) fn take(self: &Arc<Self>, component: &Component, pushed: &Pushed) -> Result<Place, PushError> {
        let name = format!("{PREFIX}{}", pushed.offer.tree());
        let key = (component.state.clone(), name);
        if self.running().insert(key.clone()) {
            return Ok(Place { pushes: Arc::clone(self), key });
        }
        Err(PushError::Refused(Refusal::PushRuns { release: pushed.label.release.clone() }))
    }

    /// Removes what pushes have left that nobody has taken up for [`KEPT`]. What cannot be removed is logged.
    pub(super) fn remove_old(&self, component: &Component, now: Timestamp) {
        let remove = || -> Result<(), PortError> {
            let releases = store::open_releases(component)?;
            let failed = |name: &[u8], error| {
                let path = component.root.join(&component.releases.directory).join(beneath::as_path(name));
                PortError::failed(format!("cannot remove `{}`, which a push has left", path.display()), error)
            };
            let names = beneath::names(releases.as_fd(), NAMES_MAX).map_err(|error| failed(b"", error))?;
            for name in names.into_iter().filter(|name| name.starts_with(PREFIX.as_bytes())) {
                // Held while it is removed, so that no push takes it up meanwhile.
                let running = self.running();
                let key = (component.state.clone(), String::from_utf8_lossy(&name).into_owned());
                let stat = beneath::stat(releases.as_fd(), &name).map_err(|error| failed(&name, error.into()))?;
                let touched = Timestamp::new(stat.stx_mtime.tv_sec, 0).unwrap_or(now);
                if !running.contains(&key) && now.duration_since(touched) > KEPT {
                    beneath::remove(releases.as_fd(), &name, DEPTH_MAX + 2).map_err(|error| failed(&name, error))?;
                    tracing::info!(name = %key.1, "removed what a push has left");
                }
            }
            Ok(())
        };
        if let Err(error) = remove() {
            tracing::warn!("{}", Chain(&error));
        }
    }

    fn running(&self) -> MutexGuard<'_, HashSet<(PathBuf, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to lay certain files down; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pushes: Arc<Pushes>,
    key: (PathBuf, String),
}

impl Place {
    /// The name of the staging directory.
    fn name(&self) -> &str {
        &self.key.1
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pushes.running().remove(&self.key);
    }
}
