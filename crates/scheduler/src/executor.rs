//! The end of the server's chain of executors: has an action run by whichever worker the scheduler finds.
//!
//! Looking results up before, and recording them after, is done by the executors around this one.

use crate::{Config, Need, Scheduler, Submission, Ticket, Update};
use async_trait::async_trait;
use mortar_model::{Context, Digest, Error, ExecuteRequest, Executor, Outcome, Platform, Progress, Result};
use std::{sync::Arc, time::Duration};

/// Queues actions. Dropping the future of `execute` leaves the queue, and stops what runs if nobody else waits for it.
#[derive(Clone)]
pub struct QueueExecutor {
    scheduler: Scheduler,
    actions: Arc<dyn ActionSource>,
}

/// Knows what actions require; the server reads it from the Action and Command in the CAS.
#[async_trait]
pub trait ActionSource: Send + Sync {
    /// The requirements of one action. Fails with `MissingBlobs` where the messages are not in the CAS.
    async fn action(&self, context: &Context, action_digest: Digest) -> Result<ActionRequirements>;
}

/// What the scheduler needs to know of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionRequirements {
    /// What it asks of the worker.
    pub platform: Platform,
    /// What it needs of the worker's processors and memory, as far as it says.
    pub need: Need,
    /// It must not share an execution.
    pub do_not_cache: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

impl QueueExecutor {
    /// Queues on `scheduler` what `actions` knows.
    pub fn new(scheduler: Scheduler, actions: Arc<dyn ActionSource>) -> Self {
        Self { scheduler, actions }
    }

    async fn submit(&self, context: &Context, request: &ExecuteRequest) -> Result<Ticket> {
        let requirements = self.actions.action(context, request.action_digest).await?;
        check_timeout(request.action_digest, requirements.timeout, self.scheduler.config())?;
        // A request that skips the look-up may join what runs: that is an execution, not a cached result.
        let submission = Submission {
            action_digest: request.action_digest,
            platform: requirements.platform,
            priority: request.priority,
            merge: !requirements.do_not_cache,
            need: requirements.need,
        };
        self.scheduler.submit(context.clone(), submission).await
    }
}

#[async_trait]
impl Executor for QueueExecutor {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        // In a box: what waits in the queue needs no room for it.
        let mut ticket = Box::pin(self.submit(context, &request)).await?;
        loop {
            match ticket.next().await {
                Update::Progress(stage, metadata) => progress.report(stage, &metadata),
                Update::Done(end) => return Ok(*end?),
            }
        }
    }
}

/// The protocol has a server refuse what it would stop too early.
fn check_timeout(action: Digest, timeout: Option<Duration>, config: &Config) -> Result<()> {
    match timeout.filter(|timeout| *timeout > config.max_timeout) {
        None => Ok(()),
        Some(timeout) => {
            let message = format!(
                "action `{action}` asks for a timeout of {timeout:?}; at most {:?} is allowed",
                config.max_timeout
            );
            Err(Error::invalid("timeout", message))
        }
    }
}
