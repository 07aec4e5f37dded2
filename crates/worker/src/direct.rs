//! The worker as an executor of its own.

use crate::Worker;
use async_trait::async_trait;
use mortar_model::{
    Context, Digest, Error, ExecuteRequest, ExecutionMetadata, Executor, Outcome, Progress, Result, Stage,
    session::{ExecutionId, Run},
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// For those who have an action and no server: nothing is looked up, queued or merged.
#[async_trait]
impl Executor for Worker {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let cancelled = CancellationToken::new();
        // Whoever drops this future wants no outcome; the task then kills the command and cleans up behind it.
        let _stop = cancelled.clone().drop_guard();
        let (worker, run) = (self.clone(), self.direct(context, request.action_digest));
        let mut task =
            tokio::spawn(async move { worker.run(run, Arc::new(Forward(sender)), cancelled).await });
        loop {
            tokio::select! {
                biased;
                Some((stage, metadata)) = reports.recv() => progress.report(stage, &metadata),
                ended = &mut task => {
                    return ended.unwrap_or_else(|error| Err(Error::internal("an execution panicked").with_source(error)));
                }
            }
        }
    }
}

impl Worker {
    fn direct(&self, context: &Context, action_digest: Digest) -> Run {
        Run {
            execution: ExecutionId("direct".into()),
            context: context.clone(),
            action_digest,
            metadata: ExecutionMetadata::default(),
            default_timeout: self.config().default_timeout,
        }
    }
}

struct Forward(mpsc::UnboundedSender<(Stage, ExecutionMetadata)>);

impl Progress for Forward {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        // Where nobody listens any more, nobody wants to know.
        self.0.send((stage, metadata.clone())).ok();
    }
}
