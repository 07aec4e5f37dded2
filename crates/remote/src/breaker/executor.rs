//! A decorator of executors: the breaker before an upstream that executes.

use super::{Breaker, Call, Patience};
use async_trait::async_trait;
use mortar_model::{Context, ExecuteRequest, Executor, Outcome, Progress, Result};
use std::sync::Arc;

/// Executions may take any time. They fail at once, those under way too, when the upstream falls silent or fails too often;
/// by [`is_refusal`](super::is_refusal) the caller knows to have the action executed elsewhere.
pub struct GuardedExecutor {
    inner: Arc<dyn Executor>,
    breaker: Breaker,
}

impl GuardedExecutor {
    /// `breaker` before `inner`.
    pub fn new(inner: Arc<dyn Executor>, breaker: Breaker) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl Executor for GuardedExecutor {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let execute = self.inner.execute(context, request, progress);
        let (outcome, mut guard) =
            self.breaker.guard(context, Call::Execute, Patience::Endless, execute).await?;
        let took = guard.elapsed();
        guard.answered(took);
        Ok(outcome)
    }
}
