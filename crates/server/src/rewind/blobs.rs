//! The store as clients see it: reading a lost blob has it made again.

use super::{Demand, End, Rewinder, advice, inputs::is_loss, not_now};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use mortar_model::{
    Blob, BlobStore, ByteStream, Context, Digest, DigestFunction, DigestSet, Error, HashIndex, Kind, Range,
    Result, context::Lost,
};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};
use tokio::{sync::Semaphore, task::JoinSet};

/// Blobs that are made again at the same time while nobody waits for them yet; more are made when they are needed.
const IN_ADVANCE: usize = 16;

/// Makes lost blobs again for callers that want it (`Lost::Remade`): a read waits for that, and a search for missing
/// blobs leaves out what will be made again, which is begun and not waited for. All others are told the truth.
///
/// Stands right behind the services. Of a store's powers it forwards `HashIndex`, and answers with what results know of
/// a blob that is lost; uploads, local files and the rest have no use for lost blobs.
pub(crate) struct Rewinding {
    blobs: Arc<dyn BlobStore>,
    index: Arc<dyn HashIndex>,
    known: Arc<dyn HashIndex>,
    rewinder: Rewinder,
    in_advance: Mutex<JoinSet<()>>,
    permits: Arc<Semaphore>,
}

impl Rewinding {
    /// Over the store that `rewinder` makes blobs for; `known` has the digests of blobs that results name.
    pub(crate) fn new(rewinder: Rewinder, known: Arc<dyn HashIndex>) -> Self {
        let (blobs, index) = (rewinder.0.parts.blobs.clone(), rewinder.0.parts.index.clone());
        let permits = Arc::new(Semaphore::new(IN_ADVANCE));
        Self { blobs, index, known, rewinder, in_advance: Mutex::default(), permits }
    }

    /// Begins to make blobs that somebody will need soon.
    fn make_in_advance(&self, context: &Context, lost: &DigestSet) {
        let mut tasks = self.in_advance.lock();
        while tasks.try_join_next().is_some() {}
        for digest in lost.iter() {
            let Ok(permit) = self.permits.clone().try_acquire_owned() else { return };
            let (rewinder, context) = (self.rewinder.clone(), Context { deadline: None, ..context.clone() });
            tasks.spawn(async move {
                // What becomes of it is counted and logged there; whoever needs the blob finds out by himself.
                let _ = rewinder.remake(&context, digest, &Demand::default()).await;
                drop(permit);
            });
        }
    }
}

#[async_trait]
impl BlobStore for Rewinding {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let read = self.blobs.read(context, digest, range).await;
        if context.lost == Lost::Told {
            return read;
        }
        let again = Again { rewinder: self.rewinder.clone(), context: context.clone(), digest, range };
        let blob = match read {
            Err(error) if is_loss(&error) => return again.read(error).await,
            read => read?,
        };
        if blob.as_bytes().is_some() {
            return Ok(blob);
        }
        let (length, inner) = (blob.len(), blob.into_stream());
        Ok(Blob::stream(length, Guarded { state: State::Passing(inner), begun: false, again }))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.blobs.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let missing = self.blobs.find_missing(context, digests).await?;
        if context.lost == Lost::Told || missing.is_empty() {
            return Ok(missing);
        }
        let promising = self.rewinder.promising(context, &missing).await?;
        self.make_in_advance(context, &promising);
        Ok(missing.into_iter().filter(|digest| !promising.contains(digest)).collect())
    }
}

#[async_trait]
impl HashIndex for Rewinding {
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        let here = self.index.lookup(context, function, hash).await?;
        if here.is_some() || context.lost == Lost::Told {
            return Ok(here);
        }
        let Some(digest) = self.known.lookup(context, function, hash).await? else { return Ok(None) };
        let promising = self.rewinder.promising(context, &DigestSet::from_iter([digest])).await?;
        Ok(promising.contains(&digest).then_some(digest))
    }
}

/// One read of a blob, which may have to be done again.
#[derive(Clone)]
struct Again {
    rewinder: Rewinder,
    context: Context,
    digest: Digest,
    range: Range,
}

impl Again {
    /// Makes the blob, for whose loss a read failed, and reads it again.
    async fn read(&self, error: Error) -> Result<Blob> {
        self.remake(error).await?;
        self.rewinder.0.parts.blobs.read(&self.context, self.digest, self.range).await
    }

    /// Makes the blob again. Where that cannot be, the error says why.
    async fn remake(&self, error: Error) -> Result<()> {
        let digest = self.digest;
        match self.rewinder.remake(&self.context, digest, &Demand::default()).await? {
            Some(End::Made) => Ok(()),
            Some(End::Gone(why)) => Err(Error::not_found("blob", digest).hint(advice(digest, &why))),
            Some(End::NotNow(kind)) => Err(not_now(digest, &kind)),
            None => Err(error),
        }
    }
}

/// A blob on its way to a client. What fails before the first byte has passed is made and read again; the client is none
/// the wiser. What fails later is made again, and the client is told to read again: what it has may be damaged.
struct Guarded {
    state: State,
    begun: bool,
    again: Again,
}

enum State {
    Passing(ByteStream),
    Remaking(BoxFuture<'static, Result<Blob>>),
    Over,
}

impl Guarded {
    fn remake(&self, error: Error) -> BoxFuture<'static, Result<Blob>> {
        let (again, begun) = (self.again.clone(), self.begun);
        async move {
            if !begun {
                return again.read(error).await;
            }
            again.remake(error).await?;
            let message = format!(
                "blob `{}` turned out to be damaged while it was read, and was made again; read it again",
                again.digest
            );
            Err(Error::new(Kind::Aborted { message }))
        }
        .boxed()
    }
}

impl Stream for Guarded {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = match &mut self.state {
                State::Over => return Poll::Ready(None),
                State::Remaking(remaking) => match ready!(remaking.poll_unpin(cx)) {
                    Ok(blob) => {
                        self.state = State::Passing(blob.into_stream());
                        // One that is lost again at once is for the client to ask for again, if it will.
                        self.begun = true;
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
                State::Passing(inner) => match ready!(inner.poll_next_unpin(cx)) {
                    Some(Err(error)) if is_loss(&error) => {
                        self.state = State::Remaking(self.remake(error));
                        continue;
                    }
                    item => item,
                },
            };
            match item {
                Some(Ok(_)) => self.begun = true,
                Some(Err(_)) | None => self.state = State::Over,
            }
            return Poll::Ready(item);
        }
    }
}
