//! A decorator of blob stores: small blobs that are read often, in memory.

use crate::bounded::{Bounded, bounded};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{Blame, Blob, BlobStore, Context, Digest, DigestSet, Range, Result};
use quick_cache::Weighter;
use std::sync::Arc;

/// Serves small blobs from memory, for as long as the store below has them.
///
/// Stands directly before the disk store, or before whatever is slower than memory and answers `find_missing`
/// quickly: each hit asks that for the blob. So the promise is extended as by any other read, and what was evicted,
/// purged or quarantined below is never served from here. Blobs enter when they are read, once their content was
/// hashed and matches; what is written enters when it is first read. The budget is never exceeded, and a blob is
/// copied when it enters, lest a small part hold a large buffer. Blobs are in it once, whatever their instance: who
/// may see one is what the store below says.
///
/// Powers go around it: `LocalFiles` and `EncodedBlobs` read below, `UploadSessions` write there, and nothing here can
/// disagree with them, since a digest has but one content.
pub struct MemoryTier {
    inner: Arc<dyn BlobStore>,
    held: Arc<Bounded<Digest, Bytes, Weight>>,
}

impl MemoryTier {
    /// The largest blob that is held, in bytes.
    pub const MAX_BLOB: u64 = 16 << 10;
    /// The budget where nobody has chosen another, in bytes.
    pub const DEFAULT_BUDGET: u64 = 16 << 20;
    /// What an entry takes besides its content, in bytes: digest, handle, place in the table.
    pub const ENTRY: u64 = 192;

    /// Over `inner`, in at most `budget` bytes of memory.
    pub fn new(inner: Arc<dyn BlobStore>, budget: u64) -> Self {
        Self { inner, held: bounded(budget, 4 << 10, Weight) }
    }

    /// What is held now, in bytes, entries included.
    pub fn bytes(&self) -> u64 {
        self.held.weight()
    }

    /// How many blobs are held.
    pub fn blobs(&self) -> usize {
        self.held.len()
    }

    /// The blob, if it is held here and the store below has it still.
    async fn hit(&self, context: &Context, digest: Digest) -> Result<Option<Bytes>> {
        let Some(bytes) = self.held.get(&digest) else { return Ok(None) };
        if self.inner.find_missing(context, &DigestSet::from_iter([digest])).await?.is_empty() {
            return Ok(Some(bytes));
        }
        self.held.remove(&digest);
        Ok(None)
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Digest, Bytes> for Weight {
    fn weight(&self, _: &Digest, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + MemoryTier::ENTRY
    }
}

#[async_trait]
impl BlobStore for MemoryTier {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        if digest.size() > Self::MAX_BLOB {
            return self.inner.read(context, digest, range).await;
        }
        let (offset, length) = range.within(digest)?;
        let bytes = match self.hit(context, digest).await? {
            Some(bytes) => bytes,
            None => {
                let blob = self.inner.read(context, digest, Range::ALL).await?;
                let whole = blob.verified(digest, Blame::Server)?.into_bytes().await?;
                let own = Bytes::copy_from_slice(&whole);
                self.held.insert(digest, own.clone());
                own
            }
        };
        Ok(Blob::bytes(bytes.slice(offset as usize..(offset + length) as usize)))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let missing = self.inner.find_missing(context, digests).await?;
        for digest in missing.iter() {
            self.held.remove(&digest);
        }
        Ok(missing)
    }
}
