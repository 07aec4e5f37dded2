//! The calls to an upstream. Each passes its breaker and is told in the words of the upstream's own instance names.

use super::{Link, Upstream, add, is_away, is_full, is_stranger};
use bytes::Bytes;
use futures::{FutureExt, TryFutureExt, stream::BoxStream};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, AheadBounds, Blob, BlobStore, Coming, Context, Digest, DigestSet,
    Error, ExecuteRequest, Outcome, Progress, Range, Result, Whence,
};
use mortar_remote::{
    Capabilities, Inline,
    breaker::{Breaker, Call, Cause, GuardedActions, GuardedBlobs, is_refusal},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// An upstream behind its breaker.
pub(super) struct Guarded {
    blobs: GuardedBlobs,
    /// Those without the breaker.
    unguarded: Arc<dyn BlobStore>,
    actions: Arc<GuardedActions>,
}

impl Guarded {
    pub fn new(link: &Link, breaker: &Breaker) -> Self {
        let unguarded = link.blobs();
        Self {
            blobs: GuardedBlobs::new(unguarded.clone(), breaker.clone()),
            unguarded,
            actions: Arc::new(GuardedActions::new(link.actions(), breaker.clone())),
        }
    }
}

impl Upstream {
    /// A result; none also where the upstream is away or does not know us: a build goes on without its cache.
    pub async fn look_up(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let begun = Instant::now();
        let there = self.context(context);
        let (begun_here, answer) = self.looking_up.get(&self.guarded.actions, &there, key).await;
        let found = match answer {
            // Which may be the breaker's word.
            Ok(None) => return Ok(None),
            found => match self.heard(Call::LookUp, begun, found) {
                Err(error) if is_stranger(&error) => return Ok(None),
                found => found?,
            },
        };
        // Where it executes, the way without it is no shorter.
        if let Some(result) = &found
            && begun_here
            && !self.has_executed.load(Ordering::Relaxed)
        {
            self.benefit.found(result, begun.elapsed());
        }
        Ok(found)
    }

    /// Writes a result.
    pub async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.hear(Call::Write, self.guarded.actions.put(&self.context(context), key, result)).await?;
        add(&self.counts.sent_results, 1);
        Ok(())
    }

    /// What builds before asked for after an action; nothing, where the upstream knows nothing of the kind.
    pub async fn follow(
        &self,
        context: &Context,
        whence: Whence,
        bounds: AheadBounds,
    ) -> Result<BoxStream<'static, Result<Coming>>> {
        let there = self.context(context);
        let follow = Box::pin(self.link.follow(&there, whence, bounds));
        self.call(&there, Call::LookUp, 0, follow).await
    }

    /// Reads a blob. What turns out to be gone is no longer known to be there; while the upstream is left alone, it has
    /// nothing.
    pub async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let (begun, there) = (Instant::now(), self.context(context));
        // What a cache of no use has given names is still fetched.
        let open = self.breaker.standing().open[Call::Read as usize];
        let read = match open {
            Some(Cause::NoBenefit) => self.guarded.unguarded.read(&there, digest, range).await,
            _ => self.guarded.blobs.read(&there, digest, range).await,
        };
        match self.heard(Call::Read, begun, read) {
            Ok(blob) => Ok(self.benefit.watched(digest, begun, blob)),
            Err(error) if error.is_not_found() => {
                self.forget(context, [digest]);
                Err(error)
            }
            // Bazel makes what is not found, and fails by what it has tried to get for a while.
            Err(error) if is_refusal(&error) || is_away(&error) || is_stranger(&error) => {
                Err(Error::not_found("blob", digest).with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a blob.
    pub async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.hear(Call::Write, self.guarded.blobs.write(&self.context(context), digest, blob)).await
    }

    /// Writes a blob that is in `store`.
    pub async fn write_from(
        &self,
        context: &Context,
        digest: Digest,
        store: &Arc<dyn BlobStore>,
    ) -> Result<()> {
        let (there, store) = (self.context(context), self.breaker.sending_from(store.clone()));
        let write = Box::pin(self.link.write_from(&there, digest, &store));
        self.call(&there, Call::Write, digest.size(), write).await
    }

    /// Writes small blobs together. Each has a result of its own.
    pub async fn write_batch(&self, context: &Context, blobs: &[(Digest, Bytes)]) -> Result<Vec<Result<()>>> {
        let there = self.context(context);
        let bytes = blobs.iter().map(|(digest, _)| digest.size()).sum();
        let write = Box::pin(async {
            let mut written = self.link.write_batch(&there, blobs).await?;
            // A server without room says so of each blob: that is one failure of the server.
            let is_full = |written: &Result<()>| written.as_ref().is_err_and(is_full);
            match written.iter().all(is_full).then(|| written.pop()).flatten() {
                Some(Err(error)) => Err(error),
                _ => Ok(written),
            }
        });
        let written = self.call(&there, Call::Write, bytes, write).await?;
        // The call came through, and some store behind it may be away all the same.
        if let Some(error) = written.iter().filter_map(|one| one.as_ref().err()).find(|error| is_away(error))
        {
            *self.failure.lock() = Some(error.to_string());
        }
        Ok(written)
    }

    /// Asks which are missing, under the upstream's own instance name.
    pub async fn ask_missing(&self, there: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.hear(Call::FindMissing, self.guarded.blobs.find_missing(there, digests)).await
    }

    /// Executes. By `is_refusal` it is known that the upstream is left alone.
    pub async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        inline: &Inline,
        progress: &dyn Progress,
    ) -> Result<Box<Outcome>> {
        self.has_executed.store(true, Ordering::Relaxed);
        let there = Context { operation: None, ..self.context(context) };
        // An outcome has room for many things; in a box, those who wait for it need none at each step of its way.
        let execute = Box::pin(self.link.execute(&there, request, inline, progress)).map_ok(Box::new);
        self.call(&there, Call::Execute, 0, execute).await
    }

    /// Whether it waits for inputs that follow an execution. Who does not say so does not.
    pub async fn takes_inputs_later(&self, context: &Context) -> bool {
        // Which says nothing of how it is now, and is no call.
        if let Some(told) = self.link.is_known_to_take_inputs_later() {
            return told;
        }
        let there = self.context(context);
        let ask = Box::pin(self.link.takes_inputs_later(&there));
        self.call(&there, Call::LookUp, 0, ask).await.unwrap_or(false)
    }

    /// What it says that it offers, under its own instance name.
    pub async fn ask_terms(&self, there: &Context) -> Result<Capabilities> {
        let ask = Box::pin(self.link.capabilities(there));
        self.call(there, Call::LookUp, 0, ask).await
    }

    /// A call that no port stands for, through the breaker.
    // Here and below no async functions: they would have room for `work` twice, as given and as waited for.
    fn call<'a, T: 'a>(
        &'a self,
        there: &'a Context,
        call: Call,
        bytes: u64,
        work: impl Future<Output = Result<T>> + 'a,
    ) -> impl Future<Output = Result<T>> + 'a {
        self.hear(call, self.breaker.call(there, call, bytes, work))
    }

    fn hear<'a, T: 'a>(
        &'a self,
        call: Call,
        work: impl Future<Output = Result<T>> + 'a,
    ) -> impl Future<Output = Result<T>> + 'a {
        let begun = Instant::now();
        work.map(move |outcome| self.heard(call, begun, outcome))
    }

    /// Takes note of how a call went. To tell people that nobody was there is the breaker's.
    fn heard<T>(&self, call: Call, begun: Instant, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(error) if is_refusal(error) => {}
            Err(error) if is_away(error) || is_full(error) => *self.failure.lock() = Some(error.to_string()),
            Err(error) if is_stranger(error) => {
                *self.failure.lock() = Some(error.to_string());
                if self.admission.refused(call) {
                    tracing::warn!("upstream `{}` does not take our credentials: {error}", self.uri);
                }
            }
            Err(_) => *self.failure.lock() = None,
            Ok(_) => {
                *self.failure.lock() = None;
                if self.admission.admitted(call, begun) {
                    tracing::warn!("upstream `{}` takes our credentials again", self.uri);
                }
            }
        }
        outcome
    }

    /// Whether what it has can be read, as far as is known.
    pub fn gives_blobs(&self) -> bool {
        let open = self.breaker.standing().open[Call::Read as usize];
        matches!(open, None | Some(Cause::NoBenefit)) && self.failure.lock().is_none()
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
