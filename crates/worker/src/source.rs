//! Where the contents of inputs come from: what is a file on this machine already, the near store, the far one. What is
//! small and far is brought near in batches before it is needed.

use crate::{
    config::{Near, Stores},
    fetch::absent,
    job::Job,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::join_all, stream};
use mortar_model::{Blob, BlobStoreExt, Context, Digest, DigestSet, Error, Kind, LocalFile, Range, Result};

/// A blob up to this size is read as one piece and written where it is wanted; a larger one is linked, if the store has it
/// as a file, or flows. It is what the disk store keeps in its segments.
const ONE_PIECE: u64 = 128 * 1024;

/// What is brought near in batches: blobs up to this size, so many to a batch, and so many batches at a time. All of them
/// are in memory for a moment.
const BATCHED: u64 = 64 * 1024;
const BATCH: usize = 256;
const BATCHES: usize = 4;

/// The stores as one action sees them.
pub struct Source<'a> {
    /// For whom.
    pub job: &'a Job,
    /// Where they are.
    pub stores: &'a Stores,
}

/// The content of a file.
pub enum Content {
    /// At hand.
    Bytes(Bytes),
    /// In a file of the store's, which must not be changed.
    Lent(LocalFile),
    /// On its way.
    Flow(Blob),
}

impl Source<'_> {
    /// A number that changes when the store found damage in what it may have lent.
    pub fn damage(&self) -> u64 {
        self.stores.local.as_ref().map_or(0, |local| local.damage())
    }

    /// Makes sure that all of these are there, and near if that is worth it; the error names those that are not.
    pub async fn expect(&self, contents: DigestSet) -> Result<()> {
        let far = self.not_near(contents).await?;
        if far.is_empty() {
            return Ok(());
        }
        let (job, blobs) = (self.job, &self.stores.blobs);
        let missing = job.unless_cancelled(blobs.find_missing(&job.context, &far)).await?;
        if !missing.is_empty() {
            return Err(absent(missing));
        }
        self.bring(far).await
    }

    /// Brings messages near that will be read. What is missing is found out by who reads it.
    pub async fn fetch(&self, messages: &[Digest]) -> Result<()> {
        // One that is alone costs a call either way.
        if self.stores.near.is_none() || messages.len() < 2 {
            return Ok(());
        }
        let far = self.not_near(messages.iter().copied().collect()).await?;
        self.bring(far).await
    }

    async fn not_near(&self, digests: DigestSet) -> Result<DigestSet> {
        let Some(near) = self.stores.near.as_ref().filter(|_| !digests.is_empty()) else {
            return Ok(digests);
        };
        self.job.unless_cancelled(near.blobs.find_missing(&self.job.context, &digests)).await
    }

    /// Reads what is small in batches and keeps it near. What cannot be read or kept so is read where it is needed.
    async fn bring(&self, far: DigestSet) -> Result<()> {
        let Some(near) = &self.stores.near else { return Ok(()) };
        let small: Vec<_> = far.iter().filter(|digest| digest.size() <= BATCHED).collect();
        let batches: Vec<Vec<Digest>> = small.chunks(BATCH).map(<[_]>::to_vec).collect();
        let brought = batches.into_iter().map(|batch| bring_batch(near, &self.job.context, batch));
        let all = stream::iter(brought).buffer_unordered(BATCHES).collect::<()>();
        self.job.unless_cancelled(all.map(Ok)).await
    }

    /// The content of one of them.
    pub async fn content(&self, digest: Digest) -> Result<Content> {
        let job = self.job;
        job.check()?;
        if digest.size() > ONE_PIECE
            && let Some(file) = self.lent(digest).await?
        {
            return Ok(Content::Lent(file));
        }
        let read = self.stores.blobs.read(&job.context, digest, Range::ALL);
        let blob = job.unless_cancelled(read).await.map_err(|error| gone(digest, error))?;
        if digest.size() > ONE_PIECE {
            return Ok(Content::Flow(blob));
        }
        let bytes = job.unless_cancelled(blob.into_bytes()).await;
        bytes.map(Content::Bytes).map_err(|error| gone(digest, error))
    }
}

impl Source<'_> {
    /// The store's own file. One that turns out to be damaged is not there any more: it is read like any other, from where
    /// it still is.
    pub async fn lent(&self, digest: Digest) -> Result<Option<LocalFile>> {
        let Some(local) = &self.stores.local else { return Ok(None) };
        match self.job.unless_cancelled(local.local_file(&self.job.context, digest)).await {
            Err(error) if matches!(error.kind(), Kind::DataLoss { .. }) => {
                tracing::debug!(%digest, %error, "a file of the store cannot be lent");
                Ok(None)
            }
            lent => lent,
        }
    }
}

async fn bring_batch(near: &Near, context: &Context, batch: Vec<Digest>) {
    let read = match near.far.read_batch(context, &batch).await {
        Ok(read) => read,
        Err(error) => return tracing::debug!(%error, "inputs could not be read as a batch"),
    };
    let found = batch.iter().zip(read).filter_map(|(digest, bytes)| Some((*digest, bytes.ok()?)));
    let writes = found.map(|(digest, bytes)| near.blobs.write_bytes(context, digest, bytes));
    for error in join_all(writes).await.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "an input was not kept near");
    }
}

/// What went missing on the way is named as what was missing from the start is.
pub fn gone(digest: Digest, error: Error) -> Error {
    if error.is_not_found() { absent([digest]) } else { error }
}
