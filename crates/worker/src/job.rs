//! One attempt to run one action: for whom, how far it has come, and whether it is still wanted.

use mortar_model::{Clock, Context, Digest, Error, ExecutionMetadata, Kind, Progress, Result, Stage};
use std::{future::Future, sync::Arc, time::SystemTime};
use tokio_util::sync::CancellationToken;

/// What is known of an attempt while it goes on.
pub struct Job {
    /// For whom.
    pub context: Context,
    /// The Action message.
    pub action: Digest,
    /// The times so far.
    pub metadata: ExecutionMetadata,
    /// Told of each step.
    pub progress: Arc<dyn Progress>,
    /// Whether it is no longer wanted.
    pub cancelled: CancellationToken,
    /// Where times come from.
    pub clock: Arc<dyn Clock>,
}

impl Job {
    /// Enters a step: notes the time where `place` says, and reports it.
    pub fn enter(&mut self, place: impl FnOnce(&mut ExecutionMetadata) -> &mut Option<SystemTime>) {
        self.note(place);
        self.progress.report(Stage::Executing, &self.metadata);
    }

    /// Notes the time.
    pub fn note(&mut self, place: impl FnOnce(&mut ExecutionMetadata) -> &mut Option<SystemTime>) {
        *place(&mut self.metadata) = Some(self.clock.wall());
    }

    /// What the future gives, unless the attempt is cancelled before. Only for futures that can be dropped without harm:
    /// not for those that wait for a thread.
    pub async fn unless_cancelled<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.cancelled.run_until_cancelled(future).await.unwrap_or_else(|| Err(self.stopped()))
    }

    /// An error once the attempt is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.is_cancelled() { Err(self.stopped()) } else { Ok(()) }
    }

    /// That it was cancelled.
    pub fn stopped(&self) -> Error {
        Error::new(Kind::Cancelled {
            message: format!("the execution of action `{}` was cancelled", self.action),
        })
    }
}
