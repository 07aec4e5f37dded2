//! The calls of the scenarios, through the ports. What a server's handler does with a batch is done here: its blobs at
//! the same time.

use super::{
    super::{
        content::{Mint, Minted, Random},
        load::{Done, Failure, Load, Worker},
        mix::Sizes,
        sizes::{ASKED, Call, call},
    },
    engine::Ports,
    pages,
};
use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use mortar_model::{
    ActionCache, ActionResult, Blob, BlobStoreExt, Context, Digest, DigestFunction, DigestSet, Error,
    OutputFile, Range,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Content in one piece of a stream.
const PIECE: usize = 1 << 20;
/// Results that are kept to be looked up.
const RESULTS: usize = 256;
/// The largest blob of a batch.
const LARGEST_BATCHED: u64 = 4 << 20;

type Taken = Result<Done, Failure>;

fn context() -> Context {
    Context::internal()
}

/// Writes a blob as a stream, as it comes from a client.
async fn write(ports: &Ports, blob: Minted) -> Result<Digest, Error> {
    let Minted { digest, head, tail } = blob;
    let pieces =
        (0..head.len()).step_by(PIECE).map(move |from| head.slice(from..head.len().min(from + PIECE)));
    let pieces = stream::iter(pieces.chain([tail]).map(Ok));
    ports.blobs.write(&context(), digest, Blob::stream(digest.size(), pieces)).await?;
    Ok(digest)
}

/// Writes blobs that are to be read.
pub(super) async fn keep(ports: &Ports, mint: &Mint, count: usize) -> Result<Vec<Digest>> {
    let mut random = Random::new();
    let blobs = (0..count).map(|_| mint.blob(&mut random));
    Ok(stream::iter(blobs.map(|blob| write(ports, blob))).buffered(16).try_collect().await?)
}

pub(super) struct FindMissing {
    pub(super) present: Vec<Digest>,
    pub(super) count: usize,
    pub(super) function: DigestFunction,
}

#[async_trait::async_trait]
impl Load<Ports> for FindMissing {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let digest = |index: usize| match index % 2 {
            0 => worker.random.digest(self.function),
            _ => self.present[index % self.present.len()],
        };
        let digests: DigestSet = (0..self.count).map(digest).collect();
        worker.start_clock();
        worker.client.blobs.find_missing(&context(), &digests).await?;
        Ok(Done { items: self.count as u64, bytes: 0 })
    }
}

pub(super) struct BatchWrite {
    pub(super) mint: Mint,
    pub(super) count: usize,
}

#[async_trait::async_trait]
impl Load<Ports> for BatchWrite {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let mint = |_| {
            let blob = self.mint.blob(&mut worker.random);
            (blob.digest, blob.into_bytes())
        };
        let blobs: Vec<(Digest, Bytes)> = (0..self.count).map(mint).collect();
        let bytes = blobs.iter().map(|(digest, _)| digest.size()).sum();
        worker.start_clock();
        let (store, context) = (&worker.client.blobs, context());
        try_join_all(blobs.into_iter().map(|(digest, bytes)| store.write_bytes(&context, digest, bytes)))
            .await?;
        Ok(Done { items: self.count as u64, bytes })
    }
}

/// Reads what was kept, one batch or blob after the other, so that all of it is read before any is read again.
pub(super) struct Read {
    pub(super) kept: Vec<Digest>,
    /// Blobs in one call: more than one are read whole at the same time, one as a stream.
    pub(super) at_once: usize,
    pub(super) next: AtomicUsize,
}

impl Read {
    pub(super) fn of(kept: Vec<Digest>, at_once: usize) -> Self {
        Self { kept, at_once, next: AtomicUsize::new(0) }
    }

    /// Calls until all was read.
    pub(super) fn calls(&self) -> usize {
        self.kept.len() / self.at_once
    }
}

#[async_trait::async_trait]
impl Load<Ports> for Read {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let call = self.next.fetch_add(1, Ordering::Relaxed) % self.calls();
        let digests = &self.kept[call * self.at_once..][..self.at_once];
        let (store, context) = (&worker.client.blobs, context());
        let bytes = match digests {
            [digest] => read(&worker.client, *digest).await?,
            _ => {
                let reads = digests.iter().map(|digest| store.read_all(&context, *digest, LARGEST_BATCHED));
                try_join_all(reads).await?.iter().map(Bytes::len).sum::<usize>() as u64
            }
        };
        let expected: u64 = digests.iter().map(Digest::size).sum();
        if bytes != expected {
            return Err(Error::internal(format!("the store gave {bytes} bytes; expected {expected}")).into());
        }
        Ok(Done { items: digests.len() as u64, bytes })
    }
}

/// Reads a blob to its end.
pub(super) async fn read(ports: &Ports, digest: Digest) -> Result<u64, Error> {
    let mut content = ports.blobs.read(&context(), digest, Range::ALL).await?.into_stream();
    let mut bytes = 0;
    while let Some(piece) = content.next().await {
        bytes += piece?.len() as u64;
    }
    Ok(bytes)
}

pub(super) struct Write(pub(super) Mint);

#[async_trait::async_trait]
impl Load<Ports> for Write {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let blob = self.0.blob(&mut worker.random);
        let digest = write(&worker.client, blob).await?;
        Ok(Done { items: 1, bytes: digest.size() })
    }
}

/// A result that names these files.
pub(super) fn result_of(files: &[Digest]) -> ActionResult {
    let file = |(number, digest): (usize, &Digest)| OutputFile {
        path: format!("out/{number}"),
        digest: *digest,
        is_executable: false,
        contents: Bytes::new(),
        properties: None,
    };
    ActionResult { files: files.iter().enumerate().map(file).collect(), ..ActionResult::default() }
}

pub(super) struct PutResult {
    pub(super) actions: Arc<dyn ActionCache>,
    pub(super) result: ActionResult,
    pub(super) function: DigestFunction,
}

#[async_trait::async_trait]
impl Load<Ports> for PutResult {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let action = worker.random.digest(self.function);
        worker.start_clock();
        self.actions.put(&context(), action.into(), self.result.clone()).await?;
        Ok(Done { items: 1, bytes: 0 })
    }
}

pub(super) struct GetResult {
    actions: Arc<dyn ActionCache>,
    known: Vec<Digest>,
}

impl GetResult {
    /// Keeps results first.
    pub(super) async fn prepare(put: &PutResult) -> Result<Self> {
        let mut random = Random::new();
        let known: Vec<Digest> = (0..RESULTS).map(|_| random.digest(put.function)).collect();
        let context = context();
        let puts = known.iter().map(|action| put.actions.put(&context, (*action).into(), put.result.clone()));
        stream::iter(puts).buffer_unordered(16).try_collect::<()>().await?;
        Ok(Self { actions: put.actions.clone(), known })
    }
}

#[async_trait::async_trait]
impl Load<Ports> for GetResult {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let action = self.known[worker.random.below(self.known.len())];
        match self.actions.get(&context(), action.into()).await? {
            Some(_) => Ok(Done { items: 1, bytes: 0 }),
            None => Err(Error::not_found("action result", action).into()),
        }
    }
}

/// The calls of a build.
pub(super) struct Mix {
    sizes: Sizes,
    read: Read,
    find: FindMissing,
    results: Option<(PutResult, GetResult)>,
}

impl Mix {
    pub(super) async fn prepare(ports: &Ports, sizes: Sizes, put: Option<PutResult>) -> Result<Self> {
        let mut kept = Vec::new();
        for mint in sizes.all() {
            kept.extend(keep(ports, mint, 4).await?);
        }
        let function = kept.first().map(Digest::function).unwrap_or_default();
        let find = FindMissing { present: kept.clone(), count: ASKED, function };
        let results = match put {
            Some(put) => {
                let get = GetResult::prepare(&put).await?;
                Some((put, get))
            }
            None => None,
        };
        Ok(Self { sizes, read: Read::of(kept, 1), find, results })
    }
}

#[async_trait::async_trait]
impl Load<Ports> for Mix {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        let done = match (call(&mut worker.random), &self.results) {
            (Call::GetResult, Some((_, get))) => get.call(worker).await?,
            (Call::PutResult, Some((put, _))) => put.call(worker).await?,
            (Call::FindMissing, _) => self.find.call(worker).await?,
            (Call::Write, _) => {
                let blob = self.sizes.draw(&mut worker.random).blob(&mut worker.random);
                Done { items: 1, bytes: write(&worker.client, blob).await?.size() }
            }
            // A store without results is read instead.
            _ => self.read.call(worker).await?,
        };
        Ok(Done { items: 1, ..done })
    }
}

/// Reads of which none is of what the page cache has: it is emptied before all is read once more.
pub(super) struct Cold {
    pub(super) inner: Read,
    pub(super) directory: PathBuf,
    pub(super) calls: AtomicUsize,
}

#[async_trait::async_trait]
impl Load<Ports> for Cold {
    async fn call(&self, worker: &mut Worker<Ports>) -> Taken {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.inner.calls()) {
            let directory = self.directory.clone();
            let dropped = tokio::task::spawn_blocking(move || pages::drop_below(&directory)).await;
            let failed = |error| Error::io("dropping the store's files from the page cache", error);
            dropped.map_err(|error| failed(error.into()))?.map_err(failed)?;
            worker.start_clock();
        }
        self.inner.call(worker).await
    }
}
