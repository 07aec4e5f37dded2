//! Uploads in pieces, as Bazel makes them: taken by the local store, and owed when they are whole.

use crate::debts::Debts;
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{Context, Digest, Encoding, Result, Upload, UploadId, UploadSessions};
use std::sync::Arc;

pub(crate) struct Uploads {
    inner: Arc<dyn UploadSessions>,
    debts: Arc<Debts>,
}

impl Uploads {
    /// Over those of the local store.
    pub fn new(inner: Arc<dyn UploadSessions>, debts: Arc<Debts>) -> Self {
        Self { inner, debts }
    }
}

#[async_trait]
impl UploadSessions for Uploads {
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        let inner = self.inner.open(context, id, digest, encoding).await?;
        Ok(Box::new(OwedUpload { inner, debts: self.debts.clone(), context: context.clone(), digest }))
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        self.inner.committed(context, id).await
    }
}

struct OwedUpload {
    inner: Box<dyn Upload>,
    debts: Arc<Debts>,
    context: Context,
    digest: Digest,
}

#[async_trait]
impl Upload for OwedUpload {
    fn committed(&self) -> u64 {
        self.inner.committed()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let Self { inner, debts, context, digest } = *self;
        debts.owe_blob(&context, digest, inner.finish()).await
    }
}
