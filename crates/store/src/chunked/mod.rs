//! A decorator of blob stores: large blobs that were cut, or put together of chunks, are kept as chunks, each chunk
//! once, and a recipe instead of their bytes.
//!
//! - `recipe`: what a blob consists of, as a record · `resolve`: which blobs are here by their recipes
//! - `read`: a blob from its chunks · `cut`: [`Chunks`], blob to chunks and chunks to blob
//! - `files`: what else a store can do, for such blobs
//!
//! How blobs are cut is `chunking`'s business; where chunks and recipes lie, and for how long, the store's beneath.

mod cut;
mod files;
mod read;
mod recipe;
mod resolve;

pub use files::{ChunkedFiles, ChunkedHashes};

use crate::{chunking, records::Records};
use async_trait::async_trait;
use mortar_model::{
    Blame, Blob, BlobStore, ChunkingParameters, Context, Digest, DigestSet, Error, Forget, Range, Result,
};
use recipe::Recipes;
use std::sync::Arc;

/// Keeps blobs that were split or spliced as chunks. Whoever reads them, or asks for them, does not see the difference:
/// a blob is here if its bytes are, or if its recipe is known and all of its chunks are here. A recipe whose chunks are
/// gone is dropped.
///
/// Stands right above the store of the bytes, so that everybody above it (completeness, inputs of actions, the HTTP
/// cache) goes through it.
///
/// Of the store's other powers, [`Chunks`](mortar_model::Chunks) is its own; `LocalFiles` and `HashIndex` are forwarded
/// by [`ChunkedFiles`] and [`ChunkedHashes`], which know the blobs that are here as chunks. `UploadSessions` and
/// `EncodedBlobs` pass it by: what is uploaded is whole until somebody has it cut (services ask first whether a blob is
/// here), and frames are of blobs that are stored whole. `Values` and results have nothing to do with it.
#[derive(Clone)]
pub struct ChunkedBlobs {
    inner: Arc<dyn BlobStore>,
    recipes: Arc<Recipes>,
    forget: Option<Arc<dyn Forget>>,
    parameters: ChunkingParameters,
    /// Blobs smaller than this have no recipe: they are one chunk, or are spliced and kept whole. So most look-ups of
    /// missing blobs are over without one of recipes.
    smallest: u64,
}

/// The most chunks that one blob may have.
const MAX_CHUNKS: usize = 500_000;

/// Drops what is known of the chunks of a blob, which stay. Whether anything was known.
pub async fn forget_chunks(records: Arc<dyn Records>, digest: Digest) -> Result<bool> {
    let recipes = Recipes::new(records);
    let alone = recipes.alone().await;
    let known = recipes.get(&Context::glance(), digest).await?.is_some();
    recipes.remove(digest, &alone).await?;
    Ok(known)
}

impl ChunkedBlobs {
    /// Over `inner`, which keeps chunks and whole blobs; recipes are kept in `records`. What was cut is dropped by
    /// `forget`; without that power the bytes stay beside the chunks until the store evicts them.
    pub fn new(
        inner: Arc<dyn BlobStore>,
        records: Arc<dyn Records>,
        forget: Option<Arc<dyn Forget>>,
        parameters: ChunkingParameters,
    ) -> Result<Self> {
        chunking::check(&parameters)?;
        let smallest = parameters.rep_max_cdc.minimum.min(parameters.fast_cdc_2020.average);
        Ok(Self { inner, recipes: Arc::new(Recipes::new(records)), forget, parameters, smallest })
    }
}

#[async_trait]
impl BlobStore for ChunkedBlobs {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        match self.inner.read(context, digest, range).await {
            Err(error) if error.is_not_found() && digest.size() >= self.smallest => {
                let mapping = self.complete(context, digest).await?.ok_or(error)?;
                self.concatenate(context, digest, &mapping.chunks, range, Blame::Server)
            }
            other => other,
        }
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        if blob.len() != digest.size() {
            return Err(Error::mismatch(digest, format!("{} bytes", blob.len()), Blame::Client));
        }
        if digest.size() >= self.smallest && self.complete(context, digest).await?.is_some() {
            return Ok(());
        }
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let missing = self.inner.find_missing(context, digests).await?;
        let large: DigestSet = missing.iter().filter(|digest| digest.size() >= self.smallest).collect();
        if large.is_empty() {
            return Ok(missing);
        }
        let resolved = self.resolve(context, large).await?;
        self.drop_broken(resolved.broken()).await?;
        Ok(missing.into_iter().filter(|digest| !resolved.is_complete(*digest)).collect())
    }
}
