//! Blobs as zstd frames: from the local store as they lie there, else through it.

use super::Near;
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{BlobStore, ByteStream, Context, Digest, EncodedBlobs, Range, Result};
use mortar_store::Transcoding;
use std::sync::Arc;

pub(crate) struct Encoded {
    near: Near,
    through: Transcoding<dyn BlobStore>,
}

impl Encoded {
    pub fn new(near: Near) -> Self {
        let through = Transcoding::<dyn BlobStore>::new(Arc::new(near.clone()));
        Self { near, through }
    }
}

#[async_trait]
impl EncodedBlobs for Encoded {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        match self.near.disk().read_zstd(context, digest, range).await {
            Err(error) if error.is_not_found() => self.through.read_zstd(context, digest, range).await,
            read => read,
        }
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        let write = self.near.disk().write_zstd(context, digest, frames);
        self.near.debts.owe_blob(context, digest, write).await
    }
}
