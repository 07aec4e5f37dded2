//! The ports through which blobs come in: whoever waits for one is told when it can be read.

use super::Arrivals;
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Blob, BlobStore, ByteStream, ChunkMapping, ChunkingFunction, ChunkingParameters, Chunks, Context, Digest,
    DigestSet, EncodedBlobs, Encoding, Range, Result, Upload, UploadId, UploadSessions,
};
use std::sync::Arc;

/// Tells of what is written through it; all else is passed on. Stands right over what keeps blobs, so that the writes of
/// clients, of workers in this process and of rewinding all pass. What is put into the store beneath it (an import) is
/// found by those who look, not told.
pub(crate) struct Told<P: ?Sized> {
    port: Arc<P>,
    arrivals: Arrivals,
}

impl<P: ?Sized> Told<P> {
    /// Over one port.
    pub(crate) fn new(port: Arc<P>, arrivals: &Arrivals) -> Self {
        Self { port, arrivals: arrivals.clone() }
    }
}

#[async_trait]
impl<P: BlobStore + ?Sized> BlobStore for Told<P> {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.port.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.port.write(context, digest, blob).await?;
        self.arrivals.tell(digest);
        Ok(())
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.port.find_missing(context, digests).await
    }
}

#[async_trait]
impl<P: EncodedBlobs + ?Sized> EncodedBlobs for Told<P> {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        self.port.read_zstd(context, digest, range).await
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        self.port.write_zstd(context, digest, frames).await?;
        self.arrivals.tell(digest);
        Ok(())
    }
}

#[async_trait]
impl<P: Chunks + ?Sized> Chunks for Told<P> {
    fn parameters(&self) -> ChunkingParameters {
        self.port.parameters()
    }

    async fn split(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<ChunkMapping> {
        self.port.split(context, digest, function).await
    }

    async fn splice(&self, context: &Context, digest: Digest, mapping: ChunkMapping) -> Result<()> {
        self.port.splice(context, digest, mapping).await?;
        self.arrivals.tell(digest);
        Ok(())
    }
}

#[async_trait]
impl<P: UploadSessions + ?Sized> UploadSessions for Told<P> {
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        let upload = self.port.open(context, id, digest, encoding).await?;
        Ok(Box::new(ToldUpload { upload, digest, arrivals: self.arrivals.clone() }))
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        self.port.committed(context, id).await
    }
}

struct ToldUpload {
    upload: Box<dyn Upload>,
    digest: Digest,
    arrivals: Arrivals,
}

#[async_trait]
impl Upload for ToldUpload {
    fn committed(&self) -> u64 {
        self.upload.committed()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.upload.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.upload.finish().await?;
        self.arrivals.tell(self.digest);
        Ok(())
    }
}
