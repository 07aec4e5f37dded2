//! What each decorator decides, beyond the conformance suite, and the stores that these tests put below them.

mod existence_cache;
mod memory_tier;
mod metered;
mod read_only;
mod read_through;
mod result_tier;
mod single_flight;

use mortar_model::{Blob, BlobStore, Context, Digest, DigestSet, Error, Range};
use mortar_store::MemoryStore;
use mortar_testkit::faults;
use std::sync::Arc;

pub fn memory() -> Arc<MemoryStore> {
    MemoryStore::new(1 << 30)
}

pub async fn missing(store: &dyn BlobStore, context: &Context, digests: &[Digest]) -> Vec<Digest> {
    let digests = DigestSet::from_iter(digests.iter().copied());
    store.find_missing(context, &digests).await.unwrap().into_iter().collect()
}

/// Gives blobs as streams of pieces.
pub struct Streaming(pub Arc<MemoryStore>);

#[async_trait::async_trait]
impl BlobStore for Streaming {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob, Error> {
        let bytes = self.0.read(context, digest, range).await?.into_bytes().await?;
        Ok(faults::claiming(bytes.len() as u64, bytes))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<(), Error> {
        self.0.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet, Error> {
        self.0.find_missing(context, digests).await
    }
}

/// A store in which blobs are lost when they are read, at once or in the middle.
pub struct Losing {
    pub at_once: bool,
}

#[async_trait::async_trait]
impl BlobStore for Losing {
    async fn read(&self, _: &Context, digest: Digest, _: Range) -> Result<Blob, Error> {
        let lost = move || Error::not_found("blob", digest);
        match self.at_once {
            true => Err(lost()),
            false => Ok(Blob::stream(digest.size(), futures::stream::once(async move { Err(lost()) }))),
        }
    }

    async fn write(&self, _: &Context, _: Digest, _: Blob) -> Result<(), Error> {
        Ok(())
    }

    async fn find_missing(&self, _: &Context, _: &DigestSet) -> Result<DigestSet, Error> {
        Ok(DigestSet::new())
    }
}
