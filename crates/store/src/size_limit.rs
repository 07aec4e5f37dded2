//! A decorator of blob stores: refuses blobs that are too large, before any of their bytes flow.

use async_trait::async_trait;
use mortar_model::{Blob, BlobStore, Context, Digest, DigestSet, Error, Kind, Range, Result};
use std::sync::Arc;

/// Refuses to write blobs larger than a limit, which clients are told as a capability of the server.
///
/// Stands at the top of a server's stack. Reading is not limited: what is stored already stays readable.
pub struct SizeLimit {
    inner: Arc<dyn BlobStore>,
    max_blob_size: u64,
}

impl SizeLimit {
    /// Over `inner`; `max_blob_size` in bytes.
    pub fn new(inner: Arc<dyn BlobStore>, max_blob_size: u64) -> Self {
        Self { inner, max_blob_size }
    }
}

#[async_trait]
impl BlobStore for SizeLimit {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        if digest.size() > self.max_blob_size {
            let message =
                format!("blob `{digest}` is too large: at most {} bytes are accepted", self.max_blob_size);
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.inner.find_missing(context, digests).await
    }
}
