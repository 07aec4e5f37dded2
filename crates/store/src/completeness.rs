//! The action cache that clients see: a result is kept and served only if it can be used.

mod closure;

use async_trait::async_trait;
use closure::Closure;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, Clock, Codec, Context, DigestSet, KeptResult, Result,
    ResultStore, SystemClock,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Serves a result only if it is a success and every blob that it needs is present: output files, trees and their
/// files, root directories and everything below them, stdout and stderr. Otherwise it is unknown, and the action runs
/// again. Asking extends the promise of all those blobs, so that a client may build on them.
///
/// Which blobs those are is found once, when the result is put, and kept with it: a look-up costs one search for missing
/// blobs and reads nothing. A result that is put and cannot be used (a failure, or one that lacks blobs) is not kept,
/// without an error, since clients may send any result that they have; blobs come before the results that name them.
///
/// A kept result that lacks a blob is removed, unless that blob may be made again by an action that is known.
///
/// Stands before every store of results that are served to clients.
pub struct Completeness {
    results: Arc<dyn ResultStore>,
    blobs: Arc<dyn BlobStore>,
    codec: Arc<dyn Codec>,
    clock: Arc<dyn Clock>,
    remakes: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    incomplete: AtomicU64,
    removed: AtomicU64,
    not_kept: AtomicU64,
}

/// What became of results since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletenessStats {
    /// Look-ups that were answered with a result.
    pub served: u64,
    /// Look-ups that found a result and did not serve it, since a blob was missing.
    pub incomplete: u64,
    /// Results removed for that reason.
    pub removed: u64,
    /// Successes that were put and not kept, since they named what was not there or could not be read.
    pub not_kept: u64,
}

impl Completeness {
    /// Over `results`, which need blobs in `blobs`; trees and directories are decoded by `codec`.
    pub fn new(results: Arc<dyn ResultStore>, blobs: Arc<dyn BlobStore>, codec: Arc<dyn Codec>) -> Self {
        let (clock, counts) = (Arc::new(SystemClock), Counts::default());
        Self { results, blobs, codec, clock, remakes: false, counts }
    }

    /// The same where lost blobs are made again: what lacks only such blobs is not served, but kept, since it is whole
    /// again when they are. Whoever fails to make one removes the results that need it.
    #[must_use]
    pub fn with_remakes(self) -> Self {
        Self { remakes: true, ..self }
    }

    /// What became of results since the start.
    pub fn stats(&self) -> CompletenessStats {
        let Counts { served, incomplete, removed, not_kept } = &self.counts;
        CompletenessStats {
            served: served.load(Ordering::Relaxed),
            incomplete: incomplete.load(Ordering::Relaxed),
            removed: removed.load(Ordering::Relaxed),
            not_kept: not_kept.load(Ordering::Relaxed),
        }
    }

    /// A result as it is kept by `put`; none if that would not keep it.
    pub async fn examine(
        &self,
        context: &Context,
        key: ActionKey,
        result: ActionResult,
    ) -> Result<Option<KeptResult>> {
        if !result.is_success() {
            return Ok(None);
        }
        let Some(closure) = self.closure(context, &result).await? else {
            count(&self.counts.not_kept);
            tracing::debug!(?key, "an action result is not kept: blobs that it needs are not there");
            return Ok(None);
        };
        let invocation = context.request.tool_invocation_id.clone();
        let (closure, stored) = (Arc::new(closure), self.clock.wall());
        Ok(Some(KeptResult { result, closure, invocation, stored }))
    }

    async fn missing_of(&self, context: &Context, closure: &DigestSet) -> Result<DigestSet> {
        match closure.is_empty() {
            true => Ok(DigestSet::new()),
            false => self.blobs.find_missing(context, closure).await,
        }
    }

    /// A result that lacks blobs was found.
    async fn lacks(&self, context: &Context, key: ActionKey, holes: &DigestSet) -> Result<()> {
        count(&self.counts.incomplete);
        if self.may_be_whole_again(holes).await? {
            tracing::debug!(?key, holes = holes.len(), "an action result lacks blobs that can be made again");
            return Ok(());
        }
        tracing::debug!(?key, holes = holes.len(), "an action result lacks blobs and is removed");
        if self.results.remove(context, key).await? {
            count(&self.counts.removed);
        }
        Ok(())
    }

    async fn may_be_whole_again(&self, holes: &DigestSet) -> Result<bool> {
        if !self.remakes {
            return Ok(false);
        }
        for hole in holes.iter() {
            if self.results.producers(hole).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All that a result needs, if all of it is there.
    async fn closure(&self, context: &Context, result: &ActionResult) -> Result<Option<DigestSet>> {
        let named = result.named_blobs();
        if !self.missing_of(context, &named).await?.is_empty() {
            return Ok(None);
        }
        let mut closure = Closure::new(context, &*self.blobs, &*self.codec, named);
        if !closure.add_trees(result).await? || !closure.add_roots(result).await? {
            return Ok(None);
        }
        // What the result itself names is asked for again, so that all of it is promised from the same moment on.
        let closure = closure.found;
        Ok(self.missing_of(context, &closure).await?.is_empty().then_some(closure))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[async_trait]
impl ActionCache for Completeness {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let Some(kept) = self.results.get(context, key).await? else { return Ok(None) };
        if !kept.result.is_success() {
            return Ok(None);
        }
        let holes = self.missing_of(context, &kept.closure).await?;
        if holes.is_empty() {
            count(&self.counts.served);
            return Ok(Some(kept.result));
        }
        self.lacks(context, key, &holes).await?;
        Ok(None)
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        match self.examine(context, key, result).await? {
            Some(kept) => self.results.put(context, key, kept).await,
            None => Ok(()),
        }
    }
}
