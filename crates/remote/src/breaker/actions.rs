//! A decorator of action caches: the breaker before an upstream's results.

use super::{Breaker, Call, Fault, Patience, fault};
use async_trait::async_trait;
use mortar_model::{ActionCache, ActionKey, ActionResult, Context, Result};
use std::{sync::Arc, time::Duration};

/// Look-ups that do not pass, or fail by a fault of the upstream, are misses: a build goes on without the cache, and says
/// nothing of each of them. Writes that do not pass fail at once.
///
/// Stands directly before the upstream, behind whatever keeps and merges.
pub struct GuardedActions {
    inner: Arc<dyn ActionCache>,
    breaker: Breaker,
}

impl GuardedActions {
    /// `breaker` before `inner`.
    pub fn new(inner: Arc<dyn ActionCache>, breaker: Breaker) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl ActionCache for GuardedActions {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let get = self.inner.get(context, key);
        match self.breaker.guard(context, Call::LookUp, Patience::Bounded, get).await {
            Ok((result, mut guard)) => {
                let took = guard.elapsed();
                guard.answered(took);
                Ok(result)
            }
            Err(error) if matches!(fault(&error), Fault::Upstream) => {
                tracing::debug!(%error, "a look-up that failed is a miss");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        let put = self.inner.put(context, key, result);
        let ((), mut guard) =
            self.breaker.guard(context, Call::Write, Patience::WhileBusy(Duration::ZERO), put).await?;
        let took = guard.elapsed();
        guard.answered(took);
        Ok(())
    }
}
