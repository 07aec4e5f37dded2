//! The executor that waits for inputs which follow the call. It stands behind the look-up, which needs no input, and
//! before the queue, so that neither a place in that nor a worker's slot is held meanwhile.

use super::{
    Complete, Walk,
    arrivals::{Arrivals, Waiting},
};
use async_trait::async_trait;
use mortar_model::{
    BlobStore, Context, Digest, Error, ExecuteRequest, Executor, InputsFollow, Outcome, Progress, Result,
    context::Lost,
};
use std::sync::Arc;
use tokio::time::Instant;

/// Waits for inputs where the client said that they follow; for all others it is not there.
pub(crate) struct Following {
    /// The store with what makes lost blobs again: what that can make is not waited for.
    pub(crate) blobs: Arc<dyn BlobStore>,
    /// Tells what has come.
    pub(crate) arrivals: Arrivals,
    /// What need not be looked for.
    pub(crate) complete: Arc<Complete>,
    /// Executes what did not wait.
    pub(crate) next: Arc<dyn Executor>,
    /// Executes what did, in which time somebody else may have done the same.
    pub(crate) after_waiting: Arc<dyn Executor>,
}

/// What became of an execution's inputs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathered {
    /// They were there.
    AtOnce,
    /// They have come.
    Later,
}

#[async_trait]
impl Executor for Following {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let Some(follow) = &context.inputs_follow else {
            return self.next.execute(context, request, progress).await;
        };
        let context = Context { inputs_follow: None, ..context.clone() };
        // In a box: what waits in the queue afterwards needs no room for it.
        let next = match Box::pin(self.gather(&context, request.action_digest, follow)).await? {
            Gathered::AtOnce => &self.next,
            Gathered::Later => &self.after_waiting,
        };
        next.execute(&context, request, progress).await
    }
}

impl Following {
    /// Returns when all is there. Fails with what is not, when the time is over or too many wait already.
    async fn gather(&self, context: &Context, action: Digest, follow: &InputsFollow) -> Result<Gathered> {
        let until = Instant::now() + follow.patience;
        let context = Context { lost: Lost::Remade, ..context.clone() };
        let mut walk = Walk::new(&*self.blobs, &context, &self.complete).with_action(action);
        walk.go_on().await?;
        let Some(error) = walk.error() else { return Ok(Gathered::AtOnce) };
        let Some(mut waiting) = self.arrivals.wait() else { return Err(error) };
        tracing::debug!(session = follow.session(), %action, "waits for inputs");
        match tokio::time::timeout_at(until, all_of(&mut walk, &mut waiting)).await {
            Ok(end) => end?,
            Err(_) => {
                // What came without being told counts as well.
                walk.look_again(None).await?;
                walk.go_on().await?;
                if let Some(error) = walk.error() {
                    return Err(came_too_late(error, follow));
                }
            }
        }
        walk.error().map_or(Ok(Gathered::Later), Err)
    }
}

/// Waits until nothing is missing, or for no longer if that is too much to wait for.
async fn all_of(walk: &mut Walk<'_>, waiting: &mut Waiting) -> Result<()> {
    loop {
        let new = walk.newly_missing();
        if !new.is_empty() {
            let Some(new) = waiting.add(new, walk.named()) else { return Ok(()) };
            // These may have come before they were waited for.
            walk.look_again(Some(&new)).await?;
            walk.go_on().await?;
        } else if walk.is_whole() {
            return Ok(());
        } else {
            waiting.next().await?.into_iter().for_each(|digest| walk.arrived(digest));
            walk.go_on().await?;
        }
    }
}

fn came_too_late(error: Error, follow: &InputsFollow) -> Error {
    error.hint(format!(
        "the uploads of session `{}` were waited for; these had not come after {} ms",
        follow.session(),
        follow.patience.as_millis()
    ))
}
