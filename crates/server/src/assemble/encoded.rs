//! Blobs as zstd frames, of a server whose blobs are more than what lies on the disk as such.

use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{BlobStore, ByteStream, Context, Digest, EncodedBlobs, Kind, Range, Result};
use mortar_store::Transcoding;
use std::sync::Arc;

/// Passes on what the disk holds, as it holds it. What is not there as such (a blob of chunks, one that was lost and has
/// to be made again) is read from the whole stack and compressed on its way.
pub(super) struct Encoded {
    disk: Arc<dyn EncodedBlobs>,
    stack: Transcoding<dyn BlobStore>,
}

impl Encoded {
    /// Over a store and what stands before it.
    pub(super) fn new(disk: Arc<dyn EncodedBlobs>, stack: Arc<dyn BlobStore>) -> Self {
        Self { disk, stack: Transcoding::new(stack) }
    }
}

#[async_trait]
impl EncodedBlobs for Encoded {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        match self.disk.read_zstd(context, digest, range).await {
            Err(error) if matches!(error.kind(), Kind::NotFound { .. } | Kind::DataLoss { .. }) => {
                self.stack.read_zstd(context, digest, range).await
            }
            read => read,
        }
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        self.disk.write_zstd(context, digest, frames).await
    }
}
