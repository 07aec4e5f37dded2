//! The blobs that clients see: what is here, and what upstreams have.
//!
//! A read finds a blob here or fetches it, once for all who ask at the same time, and keeps it. A write is durable here
//! and owed to the upstream. Whether a blob is there is answered from here and from what is known; how far the upstream
//! itself is asked depends on who asks ([`Asks`]).

mod arriving;
mod encoded;
mod far;
mod hashes;
mod uploads;

pub(crate) use arriving::Arriving;
pub(crate) use encoded::Encoded;
pub(crate) use far::Far;
pub(crate) use hashes::Hashes;
pub(crate) use uploads::Uploads;

use crate::{debts::Debts, upstream::Upstreams};
use async_trait::async_trait;
use mortar_model::{Blob, BlobStore, Context, Digest, DigestSet, Range, Result};
use mortar_store::{DiskStore, ReadThrough, SingleFlight};
use std::sync::Arc;

/// Reads of larger blobs are not merged.
const MERGED: u64 = 4 << 20;
/// A smaller blob is sooner sent here than asked for there.
const WORTH_ASKING: u64 = 256 << 10;

/// About which blobs the upstream is asked, of those that are neither here nor known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// About none: what is not known to be there is missing.
    Nothing,
    /// About those that would cost a client more to send than the question costs, and those that were there once, of which
    /// the client may have no more than the name. The others are called missing: the client sends them over the
    /// loopback, and they go upstream only if they are missing there too. While nothing can be had of the upstream, all that
    /// is not here is missing.
    Large,
    /// About all.
    Everything,
}

/// Blobs here and upstream.
#[derive(Clone)]
pub(crate) struct Near {
    here: Arriving,
    fetching: Arc<SingleFlight>,
    through: Arc<ReadThrough>,
    upstreams: Arc<Upstreams>,
    debts: Arc<Debts>,
    asks: Asks,
}

impl Near {
    /// Over the local store.
    pub fn new(here: Arriving, upstreams: Arc<Upstreams>, debts: Arc<Debts>) -> Self {
        let far = Arc::new(Far::new(upstreams.clone()));
        let through = Arc::new(ReadThrough::new(here.disk().clone(), far));
        let fetching = Arc::new(SingleFlight::new(through.clone(), MERGED));
        Self { here, fetching, through, upstreams, debts, asks: Asks::Large }
    }

    /// The same blobs, for somebody else.
    pub fn asking(&self, asks: Asks) -> Self {
        Self { asks, ..self.clone() }
    }

    /// What is here.
    pub fn here(&self) -> &Arriving {
        &self.here
    }

    /// What is here and on the disk.
    pub fn disk(&self) -> &Arc<DiskStore> {
        self.here.disk()
    }

    /// Waits for what is being kept. Nothing may be read any more by then.
    pub async fn settle(&self) {
        self.here.settle().await;
        self.through.settle().await;
    }
}

#[async_trait]
impl BlobStore for Near {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        match self.here.read(context, digest, range).await {
            Err(error) if error.is_not_found() => self.fetching.read(context, digest, range).await,
            read => read,
        }
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.debts.owe_blob(context, digest, self.here.write(context, digest, blob)).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let absent = self.here.find_missing(context, digests).await?;
        if absent.is_empty() {
            return Ok(absent);
        }
        let upstream = self.upstreams.of(&context.instance)?;
        // What cannot be read is of no use to whoever asks in order to write or to execute, and may bring it.
        if self.asks == Asks::Large && !upstream.gives_blobs() {
            return Ok(absent);
        }
        let unknown = upstream.unknown(context, absent.iter());
        let worth = |digest: &Digest| match self.asks {
            Asks::Nothing => false,
            Asks::Large => digest.size() >= WORTH_ASKING || upstream.once_knew(context, *digest),
            Asks::Everything => true,
        };
        let (asked, mut missing): (Vec<_>, Vec<_>) = unknown.iter().partition(worth);
        if !asked.is_empty() {
            match upstream.find_missing(context, &DigestSet::from_iter(asked.iter().copied())).await {
                Ok(told) => missing.extend(told),
                // The client sends them here, where they wait until the upstream is back.
                Err(error) => {
                    tracing::debug!(%error, "what the upstream has is not known");
                    missing.extend(asked);
                }
            }
        }
        Ok(missing.into_iter().collect())
    }
}
