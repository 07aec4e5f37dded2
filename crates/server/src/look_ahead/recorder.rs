//! Notes what clients ask the action cache for.

use super::Trails;
use async_trait::async_trait;
use mortar_model::{ActionCache, ActionKey, ActionResult, Context, Result};
use std::sync::Arc;

/// An action cache whose look-ups are noted, found or not: what is missing now is there for the next who asks.
/// Stands before everything, where clients are.
pub(crate) struct Recorder {
    inner: Arc<dyn ActionCache>,
    trails: Trails,
}

impl Recorder {
    /// Over an action cache.
    pub(crate) fn new(inner: Arc<dyn ActionCache>, trails: Trails) -> Self {
        Self { inner, trails }
    }
}

#[async_trait]
impl ActionCache for Recorder {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.trails.note(context, key);
        self.inner.get(context, key).await
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.inner.put(context, key, result).await
    }
}
