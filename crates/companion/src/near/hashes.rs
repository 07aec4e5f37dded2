//! Blobs by their hash alone, as HTTP asks for them: the local store's, else those of upstreams whose sizes were told by
//! results and trees that passed by.

use super::Near;
use async_trait::async_trait;
use mortar_model::{ActionCache, BlobStore, Codec, Context, Digest, DigestFunction, HashIndex, Result};
use mortar_store::{DiskStore, SizesSeen};
use std::sync::Arc;

/// Sizes that are remembered, some 100 bytes each.
const SIZES: u64 = 100_000;

pub(crate) struct Hashes {
    disk: Arc<DiskStore>,
    seen: Arc<dyn HashIndex>,
}

impl Hashes {
    /// An index, and the ports that it looks at.
    pub fn watching(
        near: &Near,
        results: Arc<dyn ActionCache>,
        codec: Arc<dyn Codec>,
    ) -> (Self, Arc<dyn BlobStore>, Arc<dyn ActionCache>) {
        let (seen, near_blobs) = (SizesSeen::new(SIZES, codec), Arc::new(near.clone()));
        let index = Self { disk: near.disk().clone(), seen: seen.index(near_blobs.clone()) };
        (index, seen.blobs(near_blobs), seen.actions(results))
    }
}

#[async_trait]
impl HashIndex for Hashes {
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        match self.disk.lookup(context, function, hash).await? {
            None => self.seen.lookup(context, function, hash).await,
            found => Ok(found),
        }
    }
}
