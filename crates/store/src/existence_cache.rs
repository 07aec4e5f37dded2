//! A decorator of blob stores: remembers for a while what is there, so that it is not asked for again.

use crate::bounded::{Bounded, bounded};
use async_trait::async_trait;
use futures::StreamExt;
use mortar_model::{
    Blob, BlobStore, Clock, Context, Digest, DigestSet, Error, InstanceName, Kind, Range, Result,
    context::Promise,
};
use quick_cache::UnitWeighter;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Answers `find_missing` from memory for what `inner` called present, or took, a short time ago. What is absent is
/// never remembered, and a blob that turns out to be lost when it is read is forgotten at once.
///
/// Stands before a store that is expensive to ask: one behind a network, or object storage. Not before the disk store,
/// which answers from memory itself and where every question has to extend the promise. What is remembered does not
/// extend the promise of the store below, so `trust` must be well below its lease: who was told that a blob is there
/// then still has the rest of the lease, at least `lease - trust`, to use it. What is deleted below behind its back is
/// called present for up to `trust`. No powers are forwarded: those of a far store are its own.
pub struct ExistenceCache {
    inner: Arc<dyn BlobStore>,
    /// When the store was asked about what it called present.
    known: Known,
    trust: Duration,
    clock: Arc<dyn Clock>,
}

/// Far stores may keep instances apart.
type Key = (InstanceName, Digest);
type Known = Arc<Bounded<Key, Instant, UnitWeighter>>;

impl ExistenceCache {
    /// Over `inner`. Remembers at most `max_blobs` blobs (some 150 bytes each), for at most `trust`.
    pub fn new(inner: Arc<dyn BlobStore>, max_blobs: u64, trust: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { inner, known: bounded(max_blobs, 1, UnitWeighter), trust, clock }
    }

    fn knows(&self, key: &Key, now: Instant) -> bool {
        let asked = self.known.get(key);
        let fresh = asked.is_some_and(|asked| now.saturating_duration_since(asked) < self.trust);
        if asked.is_some() && !fresh {
            self.known.remove(key);
        }
        fresh
    }
}

fn key(context: &Context, digest: Digest) -> Key {
    (context.instance.clone(), digest)
}

/// Whether this error of a read says that the blob is not, or no longer, there.
fn is_loss(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound { .. } | Kind::DataLoss { .. })
}

/// A blob whose loss is noted when it is found out on the way.
fn watched(blob: Blob, known: Known, key: Key) -> Blob {
    if blob.as_bytes().is_some() {
        return blob;
    }
    let note = move |item: &Result<_>| {
        if item.as_ref().is_err_and(is_loss) {
            known.remove(&key);
        }
    };
    Blob::stream(blob.len(), blob.into_stream().inspect(note))
}

#[async_trait]
impl BlobStore for ExistenceCache {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let key = key(context, digest);
        match self.inner.read(context, digest, range).await {
            Ok(blob) => Ok(watched(blob, self.known.clone(), key)),
            Err(error) => {
                if is_loss(&error) {
                    self.known.remove(&key);
                }
                Err(error)
            }
        }
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let asked = self.clock.now();
        self.inner.write(context, digest, blob).await?;
        self.known.insert(key(context, digest), asked);
        Ok(())
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let asked = self.clock.now();
        let unknown: DigestSet =
            digests.iter().filter(|digest| !self.knows(&key(context, *digest), asked)).collect();
        if unknown.is_empty() {
            return Ok(unknown);
        }
        let missing = self.inner.find_missing(context, &unknown).await?;
        // A glance promises nothing that could be relied on later.
        if context.promise == Promise::Lease {
            for digest in unknown.iter().filter(|digest| !missing.contains(digest)) {
                self.known.insert(key(context, digest), asked);
            }
        }
        Ok(missing)
    }
}
