//! What else a store can do, for blobs that are kept as chunks too.

use super::ChunkedBlobs;
use async_trait::async_trait;
use mortar_model::{
    Blame, BlobStore, Context, Digest, DigestFunction, DigestSet, HashIndex, LocalFile, LocalFiles, Range,
    Result,
};
use std::sync::Arc;

/// Gives files of blobs, whether they are kept whole or as chunks.
///
/// Stands beside the [`ChunkedBlobs`] of the same store. A blob that is kept as chunks is written whole first, in
/// addition to its chunks, since a file has to be in one piece; the store evicts that copy like any blob, and whoever
/// has the blob split again lets it go.
pub struct ChunkedFiles {
    blobs: ChunkedBlobs,
    files: Arc<dyn LocalFiles>,
}

impl ChunkedFiles {
    /// Files of `blobs`, which are those of the store beneath it.
    pub fn new(blobs: ChunkedBlobs, files: Arc<dyn LocalFiles>) -> Self {
        Self { blobs, files }
    }
}

#[async_trait]
impl LocalFiles for ChunkedFiles {
    async fn local_file(&self, context: &Context, digest: Digest) -> Result<Option<LocalFile>> {
        let file = self.files.local_file(context, digest).await?;
        if file.is_some() || digest.size() < self.blobs.smallest {
            return Ok(file);
        }
        let Some(mapping) = self.blobs.complete(context, digest).await? else { return Ok(None) };
        let whole = self.blobs.concatenate(context, digest, &mapping.chunks, Range::ALL, Blame::Server)?;
        self.blobs.inner.write(context, digest, whole).await?;
        self.files.local_file(context, digest).await
    }

    fn damage(&self) -> u64 {
        self.files.damage()
    }
}

/// Finds blobs by hash alone, whether they are kept whole or as chunks.
///
/// Stands beside the [`ChunkedBlobs`] of the same store.
pub struct ChunkedHashes {
    blobs: ChunkedBlobs,
    hashes: Arc<dyn HashIndex>,
}

impl ChunkedHashes {
    /// The hashes of `blobs`, of which the store beneath it knows those that are whole.
    pub fn new(blobs: ChunkedBlobs, hashes: Arc<dyn HashIndex>) -> Self {
        Self { blobs, hashes }
    }
}

#[async_trait]
impl HashIndex for ChunkedHashes {
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        if let Some(whole) = self.hashes.lookup(context, function, hash).await? {
            return Ok(Some(whole));
        }
        let Some((size, _)) = self.blobs.recipes.find(&Context::glance(), function, hash).await? else {
            return Ok(None);
        };
        let digest = Digest::new(function, *hash, size);
        let missing = self.blobs.find_missing(context, &DigestSet::from_iter([digest])).await?;
        Ok(missing.is_empty().then_some(digest))
    }
}
