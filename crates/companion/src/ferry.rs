//! Sees to it that blobs are upstream: asks for what is not known to be there, and uploads what is missing, small blobs
//! together, large ones as streams.
//!
//! Both those who owe and those who execute come here; a blob that one of them carries is not carried by the other.

use crate::upstream::{Upstream, add};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use mortar_model::{Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Error, Result};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Notify;

/// Larger ones travel alone.
const SMALL: u64 = 64 << 10;
/// Content in one batch.
const BATCH: u64 = 256 << 10;
/// Blobs in one batch, however small.
const BATCH_COUNT: usize = 1_000;
/// So many bytes together, of blobs that nobody has heard of, are sent without a question, which would take a round trip.
const UNASKED: u64 = 16 << 10;
/// Batches and streams at the same time.
const BATCHES: usize = 8;
const STREAMS: usize = 4;
/// Blobs at the same time, of any size, where there are no batches.
const SINGLES: usize = 16;

/// What became of each blob. An error is shared by those that a call was about.
pub(crate) type Carried = HashMap<Digest, Result<(), Arc<Error>>>;

/// Carries blobs from the local store.
#[derive(Clone)]
pub(crate) struct Ferry {
    local: Arc<dyn BlobStore>,
    under_way: Arc<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    /// By upstream and its instance.
    blobs: Mutex<HashSet<(usize, String, Digest)>>,
    landed: Notify,
}

impl Ferry {
    /// Reads what it carries from `local`.
    pub fn new(local: Arc<dyn BlobStore>) -> Self {
        Self { local, under_way: Arc::default() }
    }

    /// Returns when each of these is upstream, or why it cannot be.
    pub async fn carry(&self, upstream: &Upstream, context: &Context, digests: &DigestSet) -> Carried {
        let mut carried = Carried::new();
        let mut left = upstream.unknown(context, digests.iter());
        let known = digests.iter().filter(|digest| !left.contains(digest));
        carried.extend(known.map(|digest| (digest, Ok(()))));
        while !left.is_empty() {
            let landed = self.under_way.landed.notified();
            let claim = Claim::of(&self.under_way, upstream, context, &left);
            if claim.digests.is_empty() {
                landed.await;
            } else {
                let done = self.carry_claimed(upstream, context, &claim.digests).await;
                left = left.iter().filter(|digest| !done.contains_key(digest)).collect();
                carried.extend(done);
            }
            drop(claim);
            let still = upstream.unknown(context, left.iter());
            carried
                .extend(left.iter().filter(|digest| !still.contains(digest)).map(|digest| (digest, Ok(()))));
            left = still;
        }
        carried
    }

    async fn carry_claimed(&self, upstream: &Upstream, context: &Context, digests: &DigestSet) -> Carried {
        let missing = match self.missing(upstream, context, digests).await {
            Ok(missing) => missing,
            Err(error) => {
                let error = Arc::new(error);
                return digests.iter().map(|digest| (digest, Err(error.clone()))).collect();
            }
        };
        let found = digests.iter().filter(|digest| !missing.contains(digest));
        let mut carried: Carried = found.map(|digest| (digest, Ok(()))).collect();
        add(&upstream.counts.found_blobs, carried.len() as u64);
        let takes_batches = upstream.link.takes_batches();
        let (small, large): (Vec<_>, Vec<_>) =
            missing.iter().partition(|digest| takes_batches && digest.size() <= SMALL);
        let batches = batches(small).into_iter().map(|batch| self.send_batch(upstream, context, batch));
        let streams = large.into_iter().map(|digest| self.send_stream(upstream, context, digest));
        let at_once = if takes_batches { STREAMS } else { SINGLES };
        let (batches, streams) = tokio::join!(
            stream::iter(batches.collect::<Vec<_>>()).buffer_unordered(BATCHES).collect::<Vec<_>>(),
            stream::iter(streams.collect::<Vec<_>>()).buffer_unordered(at_once).collect::<Vec<_>>(),
        );
        for (digest, sent) in batches.into_iter().flatten().chain(streams) {
            if sent.is_ok() {
                upstream.note(context, [digest]);
                add(&upstream.counts.sent_blobs, 1);
                add(&upstream.counts.sent_bytes, digest.size());
            }
            carried.insert(digest, sent);
        }
        carried
    }

    /// What is to be sent. A few bytes are sooner sent than asked for.
    async fn missing(
        &self,
        upstream: &Upstream,
        context: &Context,
        digests: &DigestSet,
    ) -> Result<DigestSet> {
        let bytes: u64 = digests.iter().map(|digest| digest.size()).sum();
        let are_news = || !digests.iter().any(|digest| upstream.once_knew(context, digest));
        match upstream.link.takes_batches() && bytes <= UNASKED && are_news() {
            true => Ok(digests.clone()),
            false => upstream.find_missing(context, digests).await,
        }
    }

    fn send_batch<'a>(
        &'a self,
        upstream: &'a Upstream,
        context: &'a Context,
        batch: Vec<Digest>,
    ) -> BoxFuture<'a, Vec<Sent>> {
        Box::pin(async move {
            let mut sent = Vec::with_capacity(batch.len());
            let mut blobs: Vec<(Digest, Bytes)> = Vec::with_capacity(batch.len());
            for digest in batch {
                match self.local.read_all(&Context::glance(), digest, SMALL).await {
                    Ok(bytes) => blobs.push((digest, bytes)),
                    Err(error) => sent.push((digest, Err(Arc::new(error)))),
                }
            }
            if blobs.is_empty() {
                return sent;
            }
            match upstream.write_batch(context, &blobs).await {
                Ok(written) => {
                    let each = blobs.iter().zip(written);
                    sent.extend(each.map(|((digest, _), written)| (*digest, written.map_err(Arc::new))));
                }
                // A server without batches takes them one by one.
                Err(error) if matches!(error.kind(), mortar_model::Kind::Unimplemented { .. }) => {
                    for (digest, bytes) in blobs {
                        let written = upstream.write(context, digest, Blob::bytes(bytes)).await;
                        sent.push((digest, written.map_err(Arc::new)));
                    }
                }
                Err(error) => {
                    let error = Arc::new(error);
                    sent.extend(blobs.iter().map(|(digest, _)| (*digest, Err(error.clone()))));
                }
            }
            sent
        })
    }

    fn send_stream<'a>(
        &'a self,
        upstream: &'a Upstream,
        context: &'a Context,
        digest: Digest,
    ) -> BoxFuture<'a, Sent> {
        Box::pin(async move {
            let sent = upstream.write_from(context, digest, &self.local).await;
            (digest, sent.map_err(Arc::new))
        })
    }
}

type Sent = (Digest, Result<(), Arc<Error>>);

/// Blobs that one caller carries. Others wait for the end of this.
struct Claim<'a> {
    under_way: &'a UnderWay,
    upstream: (usize, String),
    digests: DigestSet,
}

impl<'a> Claim<'a> {
    /// Those of `digests` that nobody else carries.
    fn of(under_way: &'a UnderWay, upstream: &Upstream, context: &Context, digests: &DigestSet) -> Self {
        let upstream = (upstream.index, context.instance.to_string());
        let mut blobs = under_way.blobs.lock();
        let mut free = |digest: &Digest| blobs.insert((upstream.0, upstream.1.clone(), *digest));
        let digests = digests.iter().filter(|digest| free(digest)).collect();
        drop(blobs);
        Self { under_way, upstream, digests }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut blobs = self.under_way.blobs.lock();
        for digest in self.digests.iter() {
            blobs.remove(&(self.upstream.0, self.upstream.1.clone(), digest));
        }
        drop(blobs);
        self.under_way.landed.notify_waiters();
    }
}

/// Small blobs in batches, those of one digest function each.
fn batches(mut small: Vec<Digest>) -> Vec<Vec<Digest>> {
    small.sort_by_key(|digest| digest.function() as u8);
    let mut batches: Vec<Vec<Digest>> = Vec::new();
    let mut bytes = 0;
    for digest in small {
        bytes += digest.size();
        match batches.last_mut() {
            Some(batch)
                if bytes < BATCH && batch.len() < BATCH_COUNT && batch[0].function() == digest.function() =>
            {
                batch.push(digest);
            }
            _ => {
                bytes = digest.size();
                batches.push(vec![digest]);
            }
        }
    }
    batches
}
