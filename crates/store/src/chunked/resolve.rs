//! Which blobs are here by their recipes. A chunk may be a blob that was cut itself, after a recipe named it, so recipes
//! are followed for a few levels, all blobs of a level in one question to the store.

use super::ChunkedBlobs;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{ChunkMapping, Context, Digest, DigestSet, Result};
use std::collections::HashMap;

/// How deep recipes are followed. One level is the rule: recipes are made of what is stored whole.
const DEPTH: usize = 8;
/// Recipes that are looked up at the same time.
const LOOKUPS: usize = 16;

/// What became of blobs whose bytes are not stored whole.
#[derive(Default)]
pub(super) struct Resolved {
    recipes: HashMap<Digest, ChunkMapping>,
    /// Chunks that are stored whole.
    present: DigestSet,
}

impl Resolved {
    /// Whether all chunks of this blob are here.
    pub(super) fn is_complete(&self, digest: Digest) -> bool {
        self.flat(digest).is_some()
    }

    /// What this blob consists of, in chunks that are stored whole; none if one of them is not here.
    pub(super) fn flat(&self, digest: Digest) -> Option<ChunkMapping> {
        let mut chunks = Vec::new();
        self.flatten(digest, DEPTH, &mut chunks)?;
        Some(ChunkMapping { function: self.recipes.get(&digest)?.function, chunks })
    }

    fn flatten(&self, digest: Digest, depth: usize, chunks: &mut Vec<Digest>) -> Option<()> {
        for chunk in &self.recipes.get(&digest)?.chunks {
            match self.present.contains(chunk) {
                true => chunks.push(*chunk),
                false => self.flatten(*chunk, depth.checked_sub(1)?, chunks)?,
            }
        }
        Some(())
    }

    /// The blobs whose recipes are of no use any more.
    pub(super) fn broken(&self) -> Vec<Digest> {
        self.recipes.keys().copied().filter(|digest| !self.is_complete(*digest)).collect()
    }
}

impl ChunkedBlobs {
    /// What is known of these blobs, which are not stored whole. Those that are complete are promised to the caller,
    /// with their chunks.
    pub(super) async fn resolve(&self, context: &Context, digests: DigestSet) -> Result<Resolved> {
        let (mut resolved, mut level) = (Resolved::default(), digests);
        for _ in 0..DEPTH {
            let unknown: Vec<_> =
                level.iter().filter(|digest| !resolved.recipes.contains_key(digest)).collect();
            let lookups = unknown.into_iter().map(|digest| async move {
                self.recipes.get(context, digest).await.map(|found| found.map(|mapping| (digest, mapping)))
            });
            let found: Vec<_> = stream::iter(lookups)
                .buffer_unordered(LOOKUPS)
                .try_filter_map(async |found| Ok(found))
                .try_collect()
                .await?;
            let chunks: DigestSet =
                found.iter().flat_map(|(_, mapping)| mapping.chunks.iter().copied()).collect();
            resolved.recipes.extend(found);
            if chunks.is_empty() {
                break;
            }
            let missing = self.inner.find_missing(context, &chunks).await?;
            resolved.present.extend(chunks.into_iter().filter(|chunk| !missing.contains(chunk)));
            level = missing.into_iter().filter(|chunk| chunk.size() >= self.smallest).collect();
        }
        Ok(resolved)
    }

    /// The chunks of a blob that is not stored whole, all of which are; none if it is not here.
    pub(super) async fn complete(&self, context: &Context, digest: Digest) -> Result<Option<ChunkMapping>> {
        let resolved = self.resolve(context, DigestSet::from_iter([digest])).await?;
        self.drop_broken(resolved.broken()).await?;
        Ok(resolved.flat(digest))
    }

    /// Drops these recipes, unless they turn out to be good.
    pub(super) async fn drop_broken(&self, broken: Vec<Digest>) -> Result<()> {
        if broken.is_empty() {
            return Ok(());
        }
        let glance = Context::glance();
        let alone = self.recipes.alone().await;
        let again = self.resolve(&glance, broken.into_iter().collect()).await?;
        for digest in again.broken() {
            tracing::info!("chunks of blob `{digest}` are gone: it counts as missing");
            self.recipes.remove(digest, &alone).await?;
        }
        Ok(())
    }
}
