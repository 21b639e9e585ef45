//! Asks every port and builds what the engine calls an observed component.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rollback::model::health::{Health, ProbeResult};
use rollback::model::host::{ObservedComponent, ObservedRelease};
use rollback::model::ids::HostName;
use rollback::model::release::{Integrity, Manifest};

use crate::config::Component;
use crate::driver::Ports;
use crate::ports::{Memory, PortError, Prober, Store};

/// Longest time for all probes of a component when it is only looked at.
const PROBES_LIMIT: Duration = Duration::from_secs(5);

/// How closely a component is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Links, units, and a stat of every file of every release.
    Quick,
    /// As `Quick`, and the probes are asked.
    Probes,
    /// Links and units; integrity is assumed, because a plan proves it for its candidates alone.
    Plan,
    /// As `Plan`, and the probes are asked: the baseline.
    PlanWithProbes,
}

impl Depth {
    fn asks_probes(self) -> bool {
        matches!(self, Self::Probes | Self::PlanWithProbes)
    }

    fn checks_files(self) -> bool {
        matches!(self, Self::Quick | Self::Probes)
    }
}

/// Runs something that blocks on the disk away from the async threads.
///
/// # Errors
/// Those of `act`.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(error) => Err(PortError::failed("cannot finish a task on the disk", error)),
    }
}

/// Asks the probes one after the other, in the order of the configuration; what `limit` leaves no time for fails.
pub(crate) async fn ask_probes(prober: &dyn Prober, component: &Component, limit: Duration) -> Vec<ProbeResult> {
    let mut results = Vec::new();
    let mut left = limit;
    for probe in &component.probes {
        let result = prober.ask(component, probe, left).await;
        left = left.saturating_sub(Duration::from_millis(result.duration_ms));
        results.push(result);
    }
    results
}

/// Looks at a component; the lease is the driver's to add.
///
/// # Errors
/// When its links or manifests cannot be read. A history that cannot be read is an empty memory.
pub(crate) async fn observe(
    ports: &Ports,
    host: HostName,
    component: &Component,
    depth: Depth,
) -> Result<ObservedComponent, PortError> {
    let now = ports.clock.now();
    let disk = read_disk(Arc::clone(&ports.store), component.clone(), depth.checks_files().then_some(now));
    let probes = async {
        if depth.asks_probes() { ask_probes(ports.prober.as_ref(), component, PROBES_LIMIT).await } else { Vec::new() }
    };
    let (disk, memory, units, probes) = tokio::join!(
        disk,
        ports.history.memory(&component.environment, &component.name),
        ports.units.states(component, &component.units),
        probes
    );
    let (current, releases) = disk?;
    let memory = memory.unwrap_or_default();
    Ok(ObservedComponent {
        host,
        name: component.name.clone(),
        environment: component.environment.clone(),
        observed_at: now,
        current,
        releases: releases.into_iter().map(|(manifest, found)| remembered(manifest, found, &memory)).collect(),
        activations: memory.activations,
        health: Health { units: units?, probes },
        lease: None,
        policy: component.policy.clone(),
        timeouts: component.timeouts,
        automatic_rollbacks: 0,
    })
}

type OnDisk = (Integrity, rollback::model::host::Configuration);

async fn read_disk(
    store: Arc<dyn Store>,
    component: Component,
    check: Option<Timestamp>,
) -> Result<(rollback::model::host::Current, Vec<(Manifest, OnDisk)>), PortError> {
    blocking(move || {
        let current = store.current(&component)?;
        let releases = store.manifests(&component)?.into_iter().map(|manifest| {
            let integrity = match check {
                Some(now) => store.check(&component, &manifest.id, now),
                None => Integrity::Intact { read_at: manifest.recorded_at },
            };
            let configuration = store.configuration(&component, &manifest.id);
            (manifest, (integrity, configuration))
        });
        Ok((current, releases.collect()))
    })
    .await
}

/// Adds what the history knows to what is on disk.
pub(crate) fn remembered(manifest: Manifest, found: OnDisk, memory: &Memory) -> ObservedRelease {
    let tree = manifest.tree;
    ObservedRelease {
        good_since: memory.good.iter().find(|(digest, _)| *digest == tree).map(|(_, since)| *since),
        quarantine: memory.quarantines.iter().find(|(digest, _)| *digest == tree).map(|(_, q)| q.clone()),
        pinned: memory.pins.contains(&manifest.id),
        manifest,
        integrity: found.0,
        configuration: found.1,
    }
}
