//! A push as two streams: the offer in, what the host lacks out, the contents in, the result out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollback::convert::ConvertError;
use rollback::model::digest::Digest;
use rollback::model::offer::{Label, Offer, OfferBuilder, OfferError, Offered};
use rollback::model::refusal::Refusal;
use rollback::wire::v1;
use rollback::wire::v1::push_event::Event;
use rollback::wire::v1::push_request::What;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::refusal::{invalid, not_pushed, refused};
use crate::driver::{Begun, Driver, PushOf};
use crate::ports::{Came, Count, Pushed, Sharing, Staging};

/// Pushes at a time: each holds an offer in memory, 60 MB at most, and they share one disk.
pub(super) const PUSHES_MAX: usize = 4;
/// How often it is told how far a push is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Longest silence of a client that something is awaited of: it reads its own disk, no more.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Events that wait for a slow client; progress that finds no place is dropped.
const EVENTS_WAITING_MAX: usize = 8;
/// Parts of contents that wait for the disk: 1 MiB each at most.
const PARTS_WAITING_MAX: usize = 4;
/// Entries of one message.
const ENTRIES_MAX: usize = 10_000;
/// Digests of one message.
const LACK_MAX: usize = 10_000;

/// A push that has got a place.
pub(super) struct Push {
    pub(super) driver: Driver,
    pub(super) host: String,
    pub(super) of: PushOf,
    pub(super) label: Label,
}

type Events = mpsc::Sender<Result<v1::PushEvent, Status>>;

/// Reads what is pushed, the first message.
pub(super) async fn header(
    requests: &mut Streaming<v1::PushRequest>,
) -> Result<(Option<v1::ComponentSelector>, Label), Status> {
    match next(requests).await? {
        Some(What::Header(mut header)) => {
            let selector = header.selector.take();
            Ok((selector, Label::try_from(header).map_err(invalid)?))
        }
        Some(What::Entries(_) | What::Offered(_) | What::Content(_)) | None => Err(out_of_order("the header")),
    }
}

impl Push {
    /// Runs in a task of its own; ends when the client goes.
    pub(super) fn run(
        self,
        requests: Streaming<v1::PushRequest>,
        place: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<v1::PushEvent, Status>> {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        tokio::spawn(async move {
            let last = match self.steps(requests, &events).await {
                Ok(result) => Ok(event(Event::Result(result))),
                Err(status) => Err(status),
            };
            drop(place);
            // Who has gone does not hear it.
            drop(events.send(last).await);
        });
        ReceiverStream::new(receiver)
    }

    async fn steps(&self, mut requests: Streaming<v1::PushRequest>, events: &Events) -> Result<v1::PushResult, Status> {
        let offer = match offered(&mut requests).await? {
            Ok(offer) => Arc::new(offer),
            Err(error) => {
                let refusal = Refusal::OfferUnfit { release: self.of.release.clone(), why: error.to_string() };
                self.driver.refused_push(&self.of, &refusal).await;
                return Err(refused(refusal));
            }
        };
        let placed = Arc::new(AtomicU64::new(0));
        let told = Told { events, placed: &placed, bytes_all: offer.bytes() };
        let pushed = Pushed {
            label: self.label.clone(),
            offer: Arc::clone(&offer),
            by: self.of.by.clone(),
            placed: Arc::clone(&placed),
        };
        let begun = told.while_(self.driver.begin_push(&self.of, pushed)).await.map_err(not_pushed)?;
        let staging = match begun {
            Begun::Staged(staging) => staging,
            Begun::Known(_) => return Ok(self.result(&offer, true, Came::default())),
        };
        lack(events, &staging.lacking()).await?;
        let staging = told.while_(self.receive(requests, staging)).await?;
        let laid = told.while_(self.driver.end_push(&self.of, staging)).await.map_err(not_pushed)?;
        Ok(self.result(&offer, false, laid.came))
    }

    /// Passes the contents on to the disk, as they come.
    async fn receive(
        &self,
        mut requests: Streaming<v1::PushRequest>,
        staging: Box<dyn Staging>,
    ) -> Result<Box<dyn Staging>, Status> {
        let (parts, mut waiting) = mpsc::channel(PARTS_WAITING_MAX);
        let forwarding = async move {
            loop {
                let part = match next(&mut requests).await? {
                    Some(What::Content(part)) => part,
                    Some(What::Header(_) | What::Entries(_) | What::Offered(_)) => {
                        return Err(out_of_order("a content"));
                    }
                    None => return Ok(()),
                };
                let content = <[u8; 32]>::try_from(part.content)
                    .map_err(|_| Status::invalid_argument("field `content`: a digest has 32 bytes"))?;
                if parts.send((Digest::from_bytes(content), part.data)).await.is_err() {
                    // The disk has given up, and says why.
                    return Ok(());
                }
            }
        };
        let filling = self.driver.fill_push(&self.of, staging, move || waiting.blocking_recv());
        let (forwarded, filled) = tokio::join!(forwarding, filling);
        let staging = filled.map_err(not_pushed)?;
        // Without the end of the stream it has broken off: what has come is kept, and is no release.
        forwarded.map(|()| staging)
    }

    fn result(&self, offer: &Offer, known: bool, came: Came) -> v1::PushResult {
        let count = |count: Count| Some(v1::PushCount { files: count.files, bytes: count.bytes });
        let sharing = match came.sharing {
            Sharing::Reflink => v1::Sharing::Reflink,
            Sharing::Copy => v1::Sharing::Copy,
            Sharing::Hardlink => v1::Sharing::Hardlink,
        };
        v1::PushResult {
            host: self.host.clone(),
            component: self.of.component.name.to_string(),
            environment: self.of.component.environment.to_string(),
            release: self.of.release.to_string(),
            tree: offer.tree().as_bytes().to_vec(),
            known,
            shared: count(came.shared),
            sharing: sharing.into(),
            resumed: count(came.resumed),
            sent: count(came.sent),
        }
    }
}

/// Whom to tell how far it is.
struct Told<'a> {
    events: &'a Events,
    placed: &'a AtomicU64,
    bytes_all: u64,
}

impl Told<'_> {
    /// Tells while something runs.
    async fn while_<T>(&self, running: impl Future<Output = T>) -> T {
        tokio::pin!(running);
        loop {
            tokio::select! {
                done = &mut running => return done,
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                    let bytes = self.placed.load(Ordering::Relaxed);
                    let progress = v1::PushProgress { bytes, bytes_all: self.bytes_all };
                    // A full channel drops progress, never the result.
                    drop(self.events.try_send(Ok(event(Event::Progress(progress)))));
                }
            }
        }
    }
}

fn event(event: Event) -> v1::PushEvent {
    v1::PushEvent { event: Some(event) }
}

/// Reads the next message, or none at the end.
async fn next(requests: &mut Streaming<v1::PushRequest>) -> Result<Option<What>, Status> {
    let message = tokio::time::timeout(SILENCE_LIMIT, requests.message()).await.map_err(|_| {
        Status::deadline_exceeded(format!("nothing has come for {} s, the push was given up", SILENCE_LIMIT.as_secs()))
    })??;
    let Some(message) = message else { return Ok(None) };
    message.what.map(Some).ok_or_else(|| Status::invalid_argument("field `what` is missing"))
}

fn out_of_order(awaited: &str) -> Status {
    Status::invalid_argument(format!("the push is out of order: {awaited} is awaited"))
}

/// Reads the entries. What is wrong with them is told apart from a stream that is out of order.
async fn offered(requests: &mut Streaming<v1::PushRequest>) -> Result<Result<Offer, OfferError>, Status> {
    let mut builder = OfferBuilder::default();
    loop {
        let entries = match next(requests).await? {
            Some(What::Entries(entries)) => entries.entries,
            Some(What::Offered(v1::Empty {})) => {
                // Sorting the largest offer takes a third of a second.
                let finished = tokio::task::spawn_blocking(|| builder.finish()).await;
                return finished.map_err(|error| Status::internal(error.to_string()));
            }
            Some(What::Header(_) | What::Content(_)) | None => return Err(out_of_order("an entry")),
        };
        if entries.len() > ENTRIES_MAX {
            return Err(invalid(ConvertError::Wrong {
                field: "entries",
                why: format!("has {} items, at most {ENTRIES_MAX} are accepted", entries.len()),
            }));
        }
        for entry in entries {
            if let Err(error) = builder.add(Offered::try_from(entry).map_err(invalid)?) {
                return Ok(Err(error));
            }
        }
    }
}

/// Tells what the host lacks.
async fn lack(events: &Events, lacking: &[Digest]) -> Result<(), Status> {
    let parts = lacking.chunks(LACK_MAX).map(|part| part.iter().map(|digest| digest.as_bytes().to_vec()).collect());
    let parts: Vec<Vec<Vec<u8>>> = parts.chain(std::iter::once(Vec::new())).collect();
    let last = parts.len() - 1;
    for (nth, contents) in parts.into_iter().enumerate() {
        let sent = events.send(Ok(event(Event::Lack(v1::PushLack { contents, complete: nth == last })))).await;
        sent.map_err(|_| Status::cancelled("the client has gone"))?;
    }
    Ok(())
}
