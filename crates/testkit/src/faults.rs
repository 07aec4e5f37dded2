//! Content that goes wrong on its way, and stores that fail.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use mortar_model::{
    Blob, BlobStore, Context, Digest, DigestFunction, DigestSet, Error, HashIndex, Kind, Range, Result,
    context::Promise,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
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

/// A store that loses blobs when it is told to, as a disk or an operator may, or as eviction does. What an invocation was
/// promised it keeps from eviction for as long as the invocation lasts.
pub struct Forgetful {
    inner: Arc<dyn BlobStore>,
    state: Mutex<Losses>,
}

#[derive(Default)]
struct Losses {
    /// Written by anybody, and not lost since.
    held: HashSet<Digest>,
    lost: HashSet<Digest>,
    damaged: HashSet<Digest>,
    /// What each invocation was promised.
    promised: HashMap<String, HashSet<Digest>>,
}

impl Losses {
    fn lose(&mut self, digest: Digest) {
        self.held.remove(&digest);
        self.lost.insert(digest);
    }
}

impl Forgetful {
    /// Over `inner`, which remembers.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Losses> {
        self.state.lock().expect("nothing panics while it is locked")
    }

    /// Loses a blob, whatever was promised.
    pub fn lose(&self, digest: Digest) {
        self.state().lose(digest);
    }

    /// Damages a blob: it counts as present until it is read.
    pub fn damage(&self, digest: Digest) {
        self.state().damaged.insert(digest);
    }

    /// Evicts a blob, unless an invocation was promised it. Whether it went.
    pub fn evict(&self, digest: Digest) -> bool {
        let mut state = self.state();
        let may_go = !state.promised.values().any(|promised| promised.contains(&digest));
        if may_go {
            state.lose(digest);
        }
        may_go
    }

    /// What is held, in no order.
    pub fn held(&self) -> Vec<Digest> {
        self.state().held.iter().copied().collect()
    }

    /// An invocation is over: nothing is promised to it any more.
    pub fn end(&self, invocation: &str) {
        self.state().promised.remove(invocation);
    }
}

#[async_trait]
impl BlobStore for Forgetful {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        {
            let mut state = self.state();
            if state.lost.contains(&digest) {
                return Err(Error::not_found("blob", digest));
            }
            if state.damaged.remove(&digest) {
                state.lose(digest);
                let message = format!("blob `{digest}` was damaged in the store and is missing from now on");
                return Err(Error::new(Kind::DataLoss { message }));
            }
        }
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await?;
        let mut state = self.state();
        state.lost.remove(&digest);
        state.held.insert(digest);
        Ok(())
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let missing = self.inner.find_missing(context, digests).await?;
        let mut state = self.state();
        let gone = |digest: &Digest| missing.contains(digest) || state.lost.contains(digest);
        let (gone, here): (Vec<_>, Vec<_>) = digests.iter().partition(gone);
        if context.promise == Promise::Lease {
            let invocation = context.request.tool_invocation_id.clone();
            state.promised.entry(invocation).or_default().extend(here);
        }
        Ok(gone.into_iter().collect())
    }
}

/// Finds what is held.
#[async_trait]
impl HashIndex for Forgetful {
    async fn lookup(&self, _: &Context, function: DigestFunction, hash: &[u8; 32]) -> Result<Option<Digest>> {
        let of_hash = |digest: &&Digest| digest.function() == function && digest.hash() == hash;
        Ok(self.state().held.iter().find(of_hash).copied())
    }
}
