//! The file system: releases, their manifests and indexes, and the links that lead to them.
//!
//! A release is never written into. What is known of it lies in the component's state directory:
//! `manifests/ID.json`, `manifests/ID.index` and `configuration/ID/`. Below the component's root only links are made:
//! `current`, the configuration's link, and for each release a hidden one prepared for the next switch. A push writes into
//! a hidden directory beside the releases, which becomes one by its last rename.
#![expect(clippy::disallowed_methods, reason = "this module is the file system")]

mod adopt;
mod beneath;
mod configuration;
mod digest;
mod index;
mod prune;
mod push;
mod store;
mod switch;
pub mod switched;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rollback::model::host::{Configuration, Current};
use rollback::model::ids::ReleaseId;
use rollback::model::release::{Integrity, Manifest};

use crate::config::Component;
use crate::ports::{Adopted, PortError, PushError, Pushed, Staging, Store};

pub use store::parse_manifest;

/// The releases on the host's disk.
///
/// One instance serves all components; calls may come from several threads at once. Looks run side by side, what is
/// written is written by one thread at a time.
#[derive(Debug, Default)]
pub struct DiskStore {
    /// Held while files of the state directory or links are written.
    writing: Arc<Mutex<()>>,
    /// What is being pushed.
    pushes: Arc<push::Pushes>,
}

impl DiskStore {
    /// Makes a store. It holds nothing open: every call names its component.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn write(&self) -> MutexGuard<'_, ()> {
        // What a panicking writer left is what a crash leaves, and every reader copes with that.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for DiskStore {
    fn current(&self, component: &Component) -> Result<Current, PortError> {
        switch::current(component)
    }

    /// A manifest that is torn or unreadable is not listed, so its release is no target; [`Store::adopt`] writes it anew.
    fn manifests(&self, component: &Component) -> Result<Vec<Manifest>, PortError> {
        store::manifests(component)
    }

    /// Besides new directories it takes those whose manifest is torn, unless their index says that files changed, and
    /// freezes the configuration of releases that have none yet. It also prepares each release's links and removes those
    /// of releases that are gone, and what pushes have left that nobody has taken up for a day.
    fn adopt(&self, component: &Component, now: Timestamp) -> Result<Adopted, PortError> {
        self.pushes.remove_old(component, now);
        adopt::adopt(component, now, || self.write())
    }

    fn forget(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError> {
        let _writing = self.write();
        store::remove_manifest(component, release)?;
        configuration::remove(component, release)
    }

    /// The manifest goes first: one that names no configuration is given one by the next adoption.
    fn thaw(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError> {
        let _writing = self.write();
        let attempt = || format!("cannot thaw the configuration of release `{release}`");
        let manifest = store::manifest(component, release).map_err(|error| PortError::failed(attempt(), error))?;
        store::write_manifest(component, &Manifest { configuration: None, ..manifest })?;
        configuration::remove(component, release)
    }

    fn remove(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError> {
        let _writing = self.write();
        prune::remove(component, release)
    }

    fn is_short(&self, component: &Component) -> bool {
        prune::is_short(component)
    }

    fn check(&self, component: &Component, release: &ReleaseId, now: Timestamp) -> Integrity {
        store::check(component, release, now, || self.write())
    }

    fn verify(
        &self,
        component: &Component,
        release: &ReleaseId,
        now: Timestamp,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Integrity {
        let read = store::Reading { component, release, progress };
        store::verify(&read, now, || self.write())
    }

    fn configuration(&self, component: &Component, release: &ReleaseId) -> Configuration {
        configuration::look(component, release)
    }

    fn writable(&self, component: &Component) -> Result<(), PortError> {
        switch::writable(component)
    }

    fn link_current(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError> {
        let _writing = self.write();
        switch::link_current(component, release)
    }

    fn stage(&self, component: &Component, pushed: Pushed, now: Timestamp) -> Result<Box<dyn Staging>, PushError> {
        let place = self.pushes.take(component, &pushed)?;
        let writing = Arc::clone(&self.writing);
        Ok(Box::new(push::Staged::begin(component.clone(), pushed, (place, writing), now)?))
    }

    /// A component that keeps no configuration has no link to ensure.
    fn link_configuration(&self, component: &Component, release: &ReleaseId) -> Result<(), PortError> {
        let _writing = self.write();
        switch::link_configuration(component, release)
    }
}
