//! Content that goes wrong on its way, and stores that fail.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use mortar_model::{Blob, BlobStore, Context, Digest, DigestSet, Error, Kind, Range, Result};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::oneshot;

const PIECE: usize = 16 * 1024;

/// These bytes in pieces as a network brings them.
pub fn pieces(bytes: Bytes) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let starts = (0..bytes.len()).step_by(PIECE);
    stream::iter(starts.map(move |start| Ok(bytes.slice(start..bytes.len().min(start + PIECE)))))
}

/// A blob that says it has `length` bytes and has these.
pub fn claiming(length: u64, bytes: Bytes) -> Blob {
    Blob::stream(length, pieces(bytes))
}

/// A blob that says it has `length` bytes and fails after these.
pub fn breaking(length: u64, bytes: Bytes) -> Blob {
    Blob::stream(length, pieces(bytes).chain(stream::iter([Err(unavailable())])))
}

/// A blob that says it has `length` bytes and stalls after these, which it then reports.
pub fn stalling(length: u64, bytes: Bytes) -> (Blob, oneshot::Receiver<()>) {
    let (reached, stalled) = oneshot::channel();
    let stall = stream::once(async move {
        let _ = reached.send(());
        futures::future::pending().await
    });
    (Blob::stream(length, pieces(bytes).chain(stall)), stalled)
}

/// A store whose calls all fail from a given one on.
pub struct FailsAfter {
    inner: Arc<dyn BlobStore>,
    left: AtomicUsize,
}

impl FailsAfter {
    /// Over `inner`, letting `calls` calls through.
    pub fn new(inner: Arc<dyn BlobStore>, calls: usize) -> Self {
        Self { inner, left: AtomicUsize::new(calls) }
    }

    fn pass(&self) -> Result<()> {
        let passed = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        passed.map(drop).map_err(|_| unavailable())
    }
}

fn unavailable() -> Error {
    Error::new(Kind::Unavailable { message: "a fault was injected".into(), retry_after: None })
}

#[async_trait]
impl BlobStore for FailsAfter {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.pass()?;
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.pass()?;
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.pass()?;
        self.inner.find_missing(context, digests).await
    }
}
