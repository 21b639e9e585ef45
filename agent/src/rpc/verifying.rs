//! The full reading of a release as a stream: progress now and then, the result at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollback::model::ids::ReleaseId;
use rollback::model::refusal::Refusal;
use rollback::model::release::Integrity;
use rollback::wire::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::refusal::{failed, refused};
use crate::config::Component;
use crate::driver::Driver;
use crate::observe::{Depth, blocking, remembered};

/// How often progress is told: often enough to move a bar, rarely enough to cost nothing.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Events that wait for a slow client; progress that finds no place is dropped.
const EVENTS_WAITING_MAX: usize = 8;

/// Reads a release, the current one when none is named.
pub(super) async fn verify(
    driver: &Driver,
    host: String,
    component: Component,
    wanted: Option<ReleaseId>,
) -> Result<impl Stream<Item = Result<v1::VerifyEvent, Status>> + use<>, Status> {
    let observed = driver.observe(&component, Depth::Plan).await.map_err(|error| failed(&error))?;
    let wanted = match (wanted, observed.current.release()) {
        (Some(id), _) => id,
        (None, Some(id)) => id.clone(),
        (None, None) => {
            let path = component.root.join(&component.current).display().to_string();
            return Err(refused(Refusal::CurrentUnusable { current: observed.current, path }));
        }
    };
    let Some(release) = observed.release(&wanted).cloned() else {
        let known = observed.releases.iter().map(|release| release.id().clone()).collect();
        return Err(refused(Refusal::NoSuchRelease { wanted: wanted.to_string(), known }));
    };
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let driver = driver.clone();
    tokio::spawn(async move {
        let result = read(&driver, &component, &release.manifest, &sender).await;
        let result = match result {
            Ok(integrity) => integrity,
            Err(status) => return drop(sender.send(Err(status)).await),
        };
        let configuration = driver.store().configuration(&component, &wanted);
        let memory = driver.history().memory(&component.environment, &component.name).await.unwrap_or_default();
        let release = remembered(release.manifest, (result, configuration), &memory);
        let result = v1::VerifyResult {
            host,
            component: component.name.to_string(),
            environment: component.environment.to_string(),
            release: Some(release.into()),
        };
        let event = v1::VerifyEvent { event: Some(v1::verify_event::Event::Result(result)) };
        drop(sender.send(Ok(event)).await);
    });
    Ok(ReceiverStream::new(receiver))
}

async fn read(
    driver: &Driver,
    component: &Component,
    manifest: &rollback::model::release::Manifest,
    sender: &mpsc::Sender<Result<v1::VerifyEvent, Status>>,
) -> Result<Integrity, Status> {
    let bytes_read = Arc::new(AtomicU64::new(0));
    let (store, owned, id) = (Arc::clone(driver.store()), component.clone(), manifest.id.clone());
    let (now, counter) = (driver.clock().now(), Arc::clone(&bytes_read));
    let reading = blocking(move || {
        Ok(store.verify(&owned, &id, now, &|bytes| {
            counter.fetch_max(bytes, Ordering::Relaxed);
        }))
    });
    tokio::pin!(reading);
    loop {
        tokio::select! {
            result = &mut reading => return result.map_err(|error| failed(&error)),
            () = driver.clock().sleep(PROGRESS_INTERVAL) => {
                let progress = v1::VerifyProgress {
                    bytes_read: bytes_read.load(Ordering::Relaxed),
                    bytes: manifest.bytes,
                };
                let event = v1::VerifyEvent { event: Some(v1::verify_event::Event::Progress(progress)) };
                // A full channel drops progress, never the result.
                drop(sender.try_send(Ok(event)));
            }
        }
    }
}
