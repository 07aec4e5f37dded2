//! A decorator of blob stores: the breaker before an upstream's blobs.

use super::{Breaker, Call, Guard, Patience};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mortar_model::{Blob, BlobStore, ByteStream, Context, Digest, DigestSet, Range, Result};
use std::{sync::Arc, time::Duration};

/// An upload may take the limit of an answer, and beyond that the time that it takes at this rate, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Passes on what the breaker lets pass; everything else fails at once.
///
/// Stands directly before the upstream, behind whatever keeps and merges. A read counts as answered when its first bytes
/// come; from then on each of its pieces must come
/// in the same time, or anything else from the upstream. No powers are forwarded.
pub struct GuardedBlobs {
    inner: Arc<dyn BlobStore>,
    breaker: Breaker,
}

impl GuardedBlobs {
    /// `breaker` before `inner`.
    pub fn new(inner: Arc<dyn BlobStore>, breaker: Breaker) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl BlobStore for GuardedBlobs {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let read = self.inner.read(context, digest, range);
        let (blob, mut guard) =
            self.breaker.guard(context, Call::Read, Patience::WhileBusy(Duration::ZERO), read).await?;
        let took = guard.elapsed();
        if blob.as_bytes().is_some() {
            guard.answered(took);
            return Ok(blob);
        }
        let (length, context) = (blob.len(), context.clone());
        let body = Body { stream: blob.into_stream(), guard, took, context };
        Ok(Blob::stream(length, futures::stream::unfold(Some(body), Body::next)))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let more = time_to_send(digest.size());
        let write = self.inner.write(context, digest, self.breaker.watched(blob));
        let patience = Patience::WhileBusy(more);
        let ((), mut guard) = self.breaker.guard(context, Call::Write, patience, write).await?;
        // That of the answer alone: how long the bytes took says nothing of the next blob.
        let took = guard.elapsed().saturating_sub(more);
        guard.answered(took);
        Ok(())
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let find = self.inner.find_missing(context, digests);
        let guarded =
            self.breaker.guard(context, Call::FindMissing, Patience::WhileBusy(Duration::ZERO), find).await;
        let (missing, mut guard) = guarded?;
        let took = guard.elapsed();
        guard.answered(took);
        Ok(missing)
    }
}

pub(super) fn time_to_send(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// A store from which blobs are sent to the upstream: what is taken of them shows that the upstream is there.
struct Sent {
    store: Arc<dyn BlobStore>,
    breaker: Breaker,
}

#[async_trait]
impl BlobStore for Sent {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        Ok(self.breaker.watched(self.store.read(context, digest, range).await?))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.store.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.store.find_missing(context, digests).await
    }
}

impl Breaker {
    /// A store whose blobs are only read to be sent to the upstream.
    pub fn sending_from(&self, store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        Arc::new(Sent { store, breaker: self.clone() })
    }

    /// A blob that is on its way to the upstream: what is taken of it shows that the upstream is there.
    fn watched(&self, blob: Blob) -> Blob {
        if blob.as_bytes().is_some() {
            return blob;
        }
        let (length, shared) = (blob.len(), self.0.clone());
        Blob::stream(length, blob.into_stream().inspect_ok(move |_| shared.touch()))
    }
}

/// What is still to come of a read.
struct Body {
    stream: ByteStream,
    guard: Guard,
    took: Duration,
    context: Context,
}

impl Body {
    async fn next(body: Option<Self>) -> Option<(Result<Bytes>, Option<Self>)> {
        let mut body = body?;
        let patience = Patience::WhileBusy(Duration::ZERO);
        match body.guard.timely(patience, body.stream.next()).await {
            Ok(Some(Ok(bytes))) => {
                body.guard.progressed();
                Some((Ok(bytes), Some(body)))
            }
            Ok(Some(Err(error))) => {
                body.guard.came_to(&body.context, &error);
                Some((Err(error), None))
            }
            Ok(None) => {
                body.guard.answered(body.took);
                None
            }
            Err(error) => Some((Err(error), None)),
        }
    }
}
