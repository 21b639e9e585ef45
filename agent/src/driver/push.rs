//! Pushes: whether an offer is taken, and what the history keeps of it. They need no lease, for they change nothing that runs.

use std::sync::Arc;

use rollback::engine::push::{Admission, admit};
use rollback::model::digest::Digest;
use rollback::model::ids::ReleaseId;
use rollback::model::record::Record;
use rollback::model::refusal::{Refusal, Unfit};
use rollback::model::release::{Integrity, Manifest};

use super::Driver;
use crate::config::Component;
use crate::ports::{LaidDown, PortError, PushError, Pushed, Staging};

/// Which release somebody pushes, and where to.
#[derive(Debug, Clone)]
pub struct PushOf {
    /// The component.
    pub component: Component,
    /// The release.
    pub release: ReleaseId,
    /// Who pushes it.
    pub by: String,
}

/// What has come of an offer.
pub enum Begun {
    /// It waits for what the host lacks.
    Staged(Box<dyn Staging>),
    /// The very release is there, intact.
    Known(Box<Manifest>),
}

impl Driver {
    /// Begins to lay a release down, or goes on with what an earlier push has left.
    ///
    /// # Errors
    /// When a rule forbids it, which is recorded, or the disk fails.
    pub async fn begin_push(&self, of: &PushOf, pushed: Pushed) -> Result<Begun, PushError> {
        let component = of.component.clone();
        let memory = self.history().memory(&component.environment, &component.name).await.unwrap_or_default();
        let (store, now) = (Arc::clone(self.store()), self.clock().now());
        let begun = on_disk(move || {
            let (release, tree) = (pushed.label.release.clone(), pushed.offer.tree());
            let admission = admit(&release, tree, &store.manifests(&component)?, &memory.quarantines);
            let manifest = match admission.map_err(PushError::Refused)? {
                Admission::Stage => return store.stage(&component, pushed, now).map(Begun::Staged),
                Admission::Known(manifest) => manifest,
            };
            let unfit = match store.check(&component, &release, now) {
                Integrity::Intact { .. } => return Ok(Begun::Known(manifest)),
                Integrity::Damaged { differences, more } => Unfit::Damaged { differences, more },
                Integrity::Unknown { why } => Unfit::IntegrityUnknown { cause: why },
            };
            Err(PushError::Refused(Refusal::TargetUnfit { release, unfit, forceable: false }))
        });
        self.noted(of, begun.await).await
    }

    /// Gives a staging what it awaits. `next` may block, and gives the next part, or none when there are no more.
    ///
    /// # Errors
    /// When it is not what was offered, which is recorded, or the disk fails.
    pub async fn fill_push(
        &self,
        of: &PushOf,
        mut staging: Box<dyn Staging>,
        mut next: impl FnMut() -> Option<(Digest, Vec<u8>)> + Send + 'static,
    ) -> Result<Box<dyn Staging>, PushError> {
        let filled = on_disk(move || {
            while let Some((content, data)) = next() {
                staging.put(content, &data)?;
            }
            Ok(staging)
        });
        self.noted(of, filled.await).await
    }

    /// Makes a release of what was staged, and records it.
    ///
    /// # Errors
    /// When something is missing, its name is taken meanwhile, or the disk fails.
    pub async fn end_push(&self, of: &PushOf, staging: Box<dyn Staging>) -> Result<LaidDown, PushError> {
        let now = self.clock().now();
        let laid = self.noted(of, on_disk(move || staging.finish(now)).await).await?;
        let (component, environment) = (of.component.name.clone(), of.component.environment.clone());
        self.note(Record::ReleasePushed { component, environment, manifest: laid.manifest.clone() }).await;
        Ok(laid)
    }

    /// Records that a push was refused.
    pub async fn refused_push(&self, of: &PushOf, refusal: &Refusal) {
        tracing::warn!(release = %of.release, actor = of.by, code = refusal.code(), "refused: {}", rollback::explain::refusal(refusal));
        let record = Record::PushRefused {
            component: of.component.name.clone(),
            environment: of.component.environment.clone(),
            release: of.release.clone(),
            actor: of.by.clone(),
            refusal: refusal.clone(),
        };
        self.note(record).await;
    }

    /// Passes a result on, and records a refusal; a failure of the host is none.
    async fn noted<T>(&self, of: &PushOf, result: Result<T, PushError>) -> Result<T, PushError> {
        match &result {
            Err(PushError::Refused(refusal)) => self.refused_push(of, refusal).await,
            Err(PushError::Failed(error)) => tracing::warn!(release = %of.release, "{}", rollback::chain::Chain(error)),
            Ok(_) => {}
        }
        result
    }
}

/// Runs something that blocks on the disk away from the async threads.
async fn on_disk<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, PushError> + Send + 'static,
) -> Result<T, PushError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(error) => Err(PushError::Failed(PortError::failed("cannot finish a task on the disk", error))),
    }
}
