//! The calls to an upstream. Each passes its breaker and is told in the words of the upstream's own instance names.

use super::{Upstream, add, is_away};
use bytes::Bytes;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Context, Digest, DigestSet, Error, ExecuteRequest,
    Executor, Outcome, Progress, Range, Result,
};
use mortar_remote::{
    Capabilities, Remote,
    breaker::{Breaker, Call, Cause, GuardedActions, GuardedBlobs, GuardedExecutor, is_refusal},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// An upstream behind its breaker.
pub(super) struct Guarded {
    blobs: GuardedBlobs,
    actions: GuardedActions,
    executor: GuardedExecutor,
}

impl Guarded {
    pub fn new(remote: &Remote, breaker: &Breaker) -> Self {
        let remote = Arc::new(remote.clone());
        Self {
            blobs: GuardedBlobs::new(remote.clone(), breaker.clone()),
            actions: GuardedActions::new(remote.clone(), breaker.clone()),
            executor: GuardedExecutor::new(remote, breaker.clone()),
        }
    }
}

impl Upstream {
    /// A result; none also where the upstream is away: a build goes on without its cache.
    pub async fn look_up(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let begun = Instant::now();
        let found = self.guarded.actions.get(&self.context(context), key).await?;
        // Where it executes, the way without it is no shorter.
        if let Some(result) = &found
            && !self.has_executed.load(Ordering::Relaxed)
        {
            self.benefit.found(result, begun.elapsed());
        }
        Ok(found)
    }

    /// Writes a result.
    pub async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.heard(self.guarded.actions.put(&self.context(context), key, result).await)?;
        add(&self.counts.sent_results, 1);
        Ok(())
    }

    /// Reads a blob. What turns out to be gone is no longer known to be there; while the upstream is left alone, it has
    /// nothing.
    pub async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let (begun, there) = (Instant::now(), self.context(context));
        // What a cache of no use has given names is still fetched.
        let open = self.breaker.standing().open[Call::Read as usize];
        let read = match open {
            Some(Cause::NoBenefit) => self.remote.read(&there, digest, range).await,
            _ => self.guarded.blobs.read(&there, digest, range).await,
        };
        match self.heard(read) {
            Ok(blob) => Ok(self.benefit.watched(digest, begun, blob)),
            Err(error) if error.is_not_found() => {
                self.forget(context, [digest]);
                Err(error)
            }
            Err(error) if is_refusal(&error) => Err(Error::not_found("blob", digest).with_source(error)),
            Err(error) => Err(error),
        }
    }

    /// Writes a blob.
    pub async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.heard(self.guarded.blobs.write(&self.context(context), digest, blob).await)
    }

    /// Writes small blobs together. Each has a result of its own.
    pub async fn write_batch(&self, context: &Context, blobs: &[(Digest, Bytes)]) -> Result<Vec<Result<()>>> {
        let there = self.context(context);
        let bytes = blobs.iter().map(|(digest, _)| digest.size()).sum();
        let write = Box::pin(self.remote.write_batch(&there, blobs));
        self.heard(self.breaker.call(&there, Call::Write, bytes, write).await)
    }

    /// Asks which are missing, under the upstream's own instance name.
    pub async fn ask_missing(&self, there: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.heard(self.guarded.blobs.find_missing(there, digests).await)
    }

    /// Executes. By `is_refusal` it is known that the upstream is left alone.
    pub async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        self.has_executed.store(true, Ordering::Relaxed);
        let there = Context { operation: None, ..self.context(context) };
        self.heard(self.guarded.executor.execute(&there, request, progress).await)
    }

    /// What it says that it offers, under its own instance name.
    pub async fn ask_terms(&self, there: &Context) -> Result<Capabilities> {
        let ask = Box::pin(self.remote.capabilities(there));
        self.heard(self.breaker.call(there, Call::LookUp, 0, ask).await)
    }

    /// Takes note of how a call went. To tell people is the breaker's.
    fn heard<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(error) if is_refusal(error) => {}
            Err(error) if is_away(error) => *self.failure.lock() = Some(error.to_string()),
            _ => *self.failure.lock() = None,
        }
        outcome
    }

    /// Why it is not used, or could not be the last time.
    pub fn trouble(&self) -> Option<String> {
        let failure = self.failure.lock().clone();
        let open = self.breaker.standing().open;
        let shut: Vec<_> =
            Call::ALL.into_iter().filter_map(|call| Some((call, open[call as usize]?))).collect();
        let Some((_, cause)) = shut.first() else { return failure };
        let calls: Vec<_> = shut.iter().map(|(call, _)| call.to_string()).collect();
        let failure = failure.map(|failure| format!("; {failure}")).unwrap_or_default();
        Some(format!("left alone ({}): {cause}{failure}", calls.join(", ")))
    }

    /// Whether it takes what is owed, as far as is known.
    pub fn takes_writes(&self) -> bool {
        let open = self.breaker.standing().open;
        let is_open = |call: Call| open[call as usize].is_some();
        !is_open(Call::Write) && !is_open(Call::FindMissing) && self.failure.lock().is_none()
    }

    /// Returns when it is no longer left alone; never, if it is not now.
    pub async fn comes_back(&self) {
        self.breaker.closes().await;
    }
}
