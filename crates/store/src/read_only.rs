//! A decorator of blob stores and of action caches: nothing can be written through it.

use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Context, Digest, DigestSet, Error, Kind, Range,
    Result,
};
use std::sync::Arc;

/// Refuses every write with `PermissionDenied`; reading is passed on.
///
/// Stands at the top of the stack that is served to callers who may read only, beside one without it for those who may
/// write; or before a store that others fill. Extending a promise is reading: what such a caller was told to be there
/// stays there for it too. Of the powers, those that only read (`LocalFiles`, `HashIndex`) may be passed around it as
/// they are; `UploadSessions`, `Values` and `EncodedBlobs` write, so whoever serves them refuses by itself.
pub struct ReadOnly<P: ?Sized> {
    inner: Arc<P>,
}

impl<P: ?Sized> ReadOnly<P> {
    /// Over `inner`.
    pub fn new(inner: Arc<P>) -> Self {
        Self { inner }
    }
}

fn refused(what: String) -> Error {
    Error::new(Kind::PermissionDenied { message: format!("{what} was not written: only reading is allowed") })
}

#[async_trait]
impl BlobStore for ReadOnly<dyn BlobStore> {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, _: &Context, digest: Digest, _: Blob) -> Result<()> {
        Err(refused(format!("blob `{digest}`")))
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.inner.find_missing(context, digests).await
    }
}

#[async_trait]
impl ActionCache for ReadOnly<dyn ActionCache> {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.inner.get(context, key).await
    }

    async fn put(&self, _: &Context, key: ActionKey, _: ActionResult) -> Result<()> {
        Err(refused(format!("the result of action `{}`", key.hex())))
    }
}
