//! Where the contents of inputs come from: what is a file on this machine already, the near store, the far one.

use crate::{config::Stores, fetch::absent, job::Job};
use bytes::Bytes;
use mortar_model::{Blob, Digest, DigestSet, Error, LocalFile, Range, Result};

/// A blob up to this size is read as one piece and written where it is wanted; a larger one is linked, if the store has it
/// as a file, or flows. It is what the disk store keeps in its segments.
const ONE_PIECE: u64 = 128 * 1024;

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

    /// Makes sure that all of these are there; the error names those that are not.
    pub async fn expect(&self, contents: DigestSet) -> Result<()> {
        let (job, mut missing) = (self.job, contents);
        for store in self.stores.near.iter().chain([&self.stores.blobs]) {
            if missing.is_empty() {
                return Ok(());
            }
            missing = job.unless_cancelled(store.find_missing(&job.context, &missing)).await?;
        }
        if missing.is_empty() { Ok(()) } else { Err(absent(missing)) }
    }

    /// The content of one of them.
    pub async fn content(&self, digest: Digest) -> Result<Content> {
        let job = self.job;
        job.check()?;
        if digest.size() > ONE_PIECE
            && let Some(local) = &self.stores.local
            && let Some(file) = job.unless_cancelled(local.local_file(&job.context, digest)).await?
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

/// What went missing on the way is named as what was missing from the start is.
pub fn gone(digest: Digest, error: Error) -> Error {
    if error.is_not_found() { absent([digest]) } else { error }
}
