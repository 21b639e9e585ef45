//! Operations as streams of events: observed only, so that a client that goes away ends nothing.

use std::sync::Arc;

use rollback::explain;
use rollback::model::ids::OperationId;
use rollback::model::plan::Plan;
use rollback::wire::v1;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::driver::{Following, Progress};
use crate::ports::History;

/// Events that wait for a slow client: more than one operation has.
const EVENTS_WAITING_MAX: usize = 64;

fn event(host: &str, progress: &Progress) -> v1::OperationEvent {
    v1::OperationEvent {
        host: host.to_owned(),
        operation: Some((*progress.operation).clone().into()),
        doing: progress.doing.as_ref().map(explain::effect).unwrap_or_default(),
        head: progress.head.map(Into::into),
    }
}

fn is_over(progress: &Progress) -> bool {
    progress.doing.is_none() && progress.operation.outcome().is_some()
}

/// Follows one operation to its end. A reader that lagged gets the end from the history.
pub(super) fn of_one(
    host: String,
    id: OperationId,
    following: Following,
    history: Arc<dyn History>,
) -> impl Stream<Item = Result<v1::OperationEvent, Status>> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::spawn(async move {
        let Following { so_far, mut updates } = following;
        let mut over = is_over(&so_far);
        if sender.send(Ok(event(&host, &so_far))).await.is_err() {
            return;
        }
        while !over {
            let next = tokio::select! {
                next = updates.recv() => next,
                () = sender.closed() => return,
            };
            let progress = match next {
                Ok(progress) if progress.operation.id == id => progress,
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => match ended(id, history.as_ref()).await {
                    Some(progress) => progress,
                    None => {
                        let text =
                            format!("the agent stopped before operation {id} ended; ask again with the same operation");
                        drop(sender.send(Err(Status::unavailable(text))).await);
                        return;
                    }
                },
            };
            over = is_over(&progress);
            if sender.send(Ok(event(&host, &progress))).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn ended(id: OperationId, history: &dyn History) -> Option<Progress> {
    let stored = history.operation(id).await.ok()??;
    let head = history.head().await.ok();
    stored.ended.then(|| Progress { operation: Arc::new(stored.operation), doing: None, head })
}

/// Follows every operation from now on, with the plan for the caller's filter.
pub(super) fn of_all(
    host: String,
    mut updates: broadcast::Receiver<Progress>,
) -> impl Stream<Item = Result<(Plan, v1::OperationEvent), Status>> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = updates.recv() => next,
                () = sender.closed() => return,
            };
            let item = match next {
                Ok(progress) => Ok((progress.operation.plan.clone(), event(&host, &progress))),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    Err(Status::data_loss(format!("{missed} events were missed: this watcher is too slow")))
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
