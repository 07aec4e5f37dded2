//! A decorator of blob stores: a near store before a far one.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use mortar_model::{Blob, BlobStore, ByteStream, Context, Digest, DigestSet, Error, Kind, Range, Result};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Copies into the near store that may be under way at once; blobs beyond that are read without being kept.
const MAX_COPIES: usize = 64;
/// Pieces of a blob that wait for the near store.
const AHEAD: usize = 4;

/// Reads from `fast`; what is not there, or cannot be read there, comes from `slow` and is written to `fast` on its
/// way.
///
/// For a near store before a far one: a local disk before object storage or before another server. `slow` is what
/// counts: it alone is asked what is missing, and a write is done when `slow` has the blob. Writes go to both, since
/// what was just made is mostly read next; the copy in `fast` may fail or be left out without anybody being told.
/// Only whole reads are kept; parts of a blob are passed through. A blob that comes as a stream flows at the pace of
/// the slower of its reader and `fast`, four pieces ahead at most; if `fast` fails, the rest flows past it.
///
/// Powers: `LocalFiles` of `fast` may be passed around it (it knows fewer blobs, never others). `UploadSessions` may be
/// those of `slow`, if a copy in `fast` is not wanted.
pub struct ReadThrough {
    fast: Arc<dyn BlobStore>,
    slow: Arc<dyn BlobStore>,
    copies: TaskTracker,
}

impl ReadThrough {
    /// `fast` before `slow`.
    pub fn new(fast: Arc<dyn BlobStore>, slow: Arc<dyn BlobStore>) -> Self {
        Self { fast, slow, copies: TaskTracker::new() }
    }

    /// Waits for the copies that are under way. Nothing may be read or written any more by then: this is how the
    /// owner shuts it down.
    pub async fn settle(&self) {
        self.copies.close();
        self.copies.wait().await;
        self.copies.reopen();
    }

    /// The blob as it is, which is written to the near store while it flows.
    fn copied(&self, context: &Context, digest: Digest, blob: Blob) -> Blob {
        if self.copies.len() >= MAX_COPIES || blob.len() != digest.size() {
            return blob;
        }
        let (copy, blob) = match blob.as_bytes() {
            Some(bytes) => (Blob::bytes(bytes.clone()), blob),
            None => {
                let (sender, mut receiver) = mpsc::channel(AHEAD);
                let flow = Flow { from: blob.into_stream(), copy: Some(sender) };
                let copy = stream::poll_fn(move |task| receiver.poll_recv(task));
                (Blob::stream(digest.size(), copy), Blob::stream(digest.size(), flow.stream()))
            }
        };
        let (fast, context) = (self.fast.clone(), context.clone());
        self.copies.spawn(async move {
            if let Err(error) = fast.write(&context, digest, copy).await {
                tracing::debug!(%digest, %error, "a blob was not kept in the near store");
            }
        });
        blob
    }
}

/// A stream and who else is to have it.
struct Flow {
    from: ByteStream,
    /// Absent once the near store has given up.
    copy: Option<mpsc::Sender<Result<Bytes>>>,
}

impl Flow {
    fn stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::unfold(self, |mut flow| async move {
            let item = flow.from.next().await?;
            if let Some(copy) = &mut flow.copy {
                let told = match &item {
                    Ok(bytes) => Ok(bytes.clone()),
                    Err(_) => Err(broken()),
                };
                if copy.send(told).await.is_err() {
                    flow.copy = None;
                }
            }
            Some((item, flow))
        })
        .fuse()
    }
}

/// What the near store is told of a blob that broke off, so that it does not keep one that seems whole.
fn broken() -> Error {
    Error::new(Kind::Aborted { message: "the blob broke off on its way".into() })
}

#[async_trait]
impl BlobStore for ReadThrough {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        range.within(digest)?;
        match self.fast.read(context, digest, range).await {
            Ok(blob) => return Ok(blob),
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(%digest, %error, "the near store cannot read a blob"),
        }
        let blob = self.slow.read(context, digest, range).await?;
        Ok(if range.is_all_of(digest) { self.copied(context, digest, blob) } else { blob })
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.slow.write(context, digest, self.copied(context, digest, blob)).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.slow.find_missing(context, digests).await
    }
}
