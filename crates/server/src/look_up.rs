//! The first executor of the chain: a result that is known is not made again.

use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, Context, ExecuteRequest, ExecutionMetadata, Executor, Outcome, Progress, Result,
    Stage, Termination,
};
use std::sync::Arc;

/// Answers from the action cache where it can, else asks the next executor.
///
/// An action that must not be cached has no result there, so nothing needs to be known of the action here.
pub(crate) struct LookUp {
    actions: Arc<dyn ActionCache>,
    next: Arc<dyn Executor>,
}

impl LookUp {
    /// Stands before the queue.
    pub(crate) fn new(actions: Arc<dyn ActionCache>, next: Arc<dyn Executor>) -> Self {
        Self { actions, next }
    }
}

#[async_trait]
impl Executor for LookUp {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        if !request.skip_cache_lookup {
            progress.report(Stage::CacheCheck, &ExecutionMetadata::default());
            if let Some(result) = self.actions.get(context, ActionKey::from(request.action_digest)).await? {
                return Ok(Outcome {
                    result,
                    cached: true,
                    termination: Termination::Exited,
                    message: String::new(),
                    server_logs: Vec::new(),
                });
            }
        }
        self.next.execute(context, request, progress).await
    }
}
