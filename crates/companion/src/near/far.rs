//! The blobs of all upstreams, each found by its instance name. What turns out to be gone is no longer known to be there.

use crate::upstream::Upstreams;
use async_trait::async_trait;
use mortar_model::{Blob, BlobStore, Context, Digest, DigestSet, Range, Result};
use std::sync::Arc;

pub(crate) struct Far {
    upstreams: Arc<Upstreams>,
}

impl Far {
    pub fn new(upstreams: Arc<Upstreams>) -> Self {
        Self { upstreams }
    }
}

#[async_trait]
impl BlobStore for Far {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let upstream = self.upstreams.of(&context.instance)?;
        let read = upstream.heard(upstream.remote.read(&upstream.context(context), digest, range).await);
        if read.as_ref().is_err_and(mortar_model::Error::is_not_found) {
            upstream.forget(context, [digest]);
        }
        read
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let upstream = self.upstreams.of(&context.instance)?;
        upstream.heard(upstream.remote.write(&upstream.context(context), digest, blob).await)?;
        upstream.note(context, [digest]);
        Ok(())
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.upstreams.of(&context.instance)?.find_missing(context, digests).await
    }
}
