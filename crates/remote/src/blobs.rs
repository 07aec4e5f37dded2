//! The port of blobs: which way each one travels. Small ones in batches, large ones as streams, the empty one not at all.

use crate::{Inner, Remote, retry::Backoff};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use mortar_model::{Blame, Blob, BlobStore, Context, Digest, DigestSet, Error, Kind, Range, Result};
use mortar_wire::{digests_to_wire, function_to_wire, reapi, required_digest};
use std::sync::Arc;

/// Digests in one FindMissingBlobs: some 85 bytes each, in all well below the 4 MiB that gRPC takes by default.
const DIGESTS: usize = 20_000;
/// Such calls at the same time.
const CALLS: usize = 4;

#[async_trait]
impl BlobStore for Remote {
    /// A whole blob is checked against its digest; a part of one cannot be, and is only checked for its length.
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        if digest.is_empty() {
            return Ok(Blob::bytes(""));
        }
        if length == 0 {
            return self.0.empty_part(context, digest).await;
        }
        if !range.is_all_of(digest) {
            return self.0.read_stream(context, digest, offset, length).await;
        }
        if self.0.is_small(context, digest).await?
            && let Some(blob) = self.0.read_small(context, digest).await?
        {
            return Ok(blob);
        }
        self.0.read_stream(context, digest, 0, length).await?.verified(digest, Blame::Server)
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        if digest.size() == 0 || blob.len() != digest.size() {
            return blob.verified(digest, Blame::Client).map(drop);
        }
        if !self.0.is_small(context, digest).await? {
            return self.0.write_stream(context, digest, blob).await;
        }
        let bytes = blob.into_bytes().await?;
        if self.0.write_small(context, digest, bytes.clone()).await? {
            return Ok(());
        }
        self.0.write_stream(context, digest, Blob::bytes(bytes)).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let mut by_function = std::collections::BTreeMap::<_, Vec<Digest>>::new();
        for digest in digests.iter().filter(|digest| !digest.is_empty()) {
            by_function.entry(digest.function()).or_default().push(digest);
        }
        let batches: Vec<&[Digest]> =
            by_function.values().flat_map(|digests| digests.chunks(DIGESTS)).collect();
        let calls: Vec<_> = batches.into_iter().map(|batch| self.0.find_missing(context, batch)).collect();
        let missing: Vec<DigestSet> = futures::stream::iter(calls).buffered(CALLS).try_collect().await?;
        let is_missing = |digest: &Digest| missing.iter().any(|missing| missing.contains(digest));
        Ok(digests.iter().filter(is_missing).collect())
    }
}

impl Inner {
    /// Whether the blob travels in a batch.
    pub(crate) async fn is_small(&self, context: &Context, digest: Digest) -> Result<bool> {
        if digest.size() > self.options.small_blob {
            return Ok(false);
        }
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            match self.terms(context).await {
                Ok(terms) => return Ok(digest.size() <= terms.batch_limit),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    /// None if the server knows no batches.
    async fn read_small(self: &Arc<Self>, context: &Context, digest: Digest) -> Result<Option<Blob>> {
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            match self.read_one_batch(context, &[digest]).await.and_then(only) {
                Ok(bytes) => return Ok(Some(Blob::bytes(bytes))),
                Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => return Ok(None),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    /// False if the server knows no batches.
    async fn write_small(&self, context: &Context, digest: Digest, bytes: bytes::Bytes) -> Result<bool> {
        let entry = [(digest, bytes)];
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            match self.write_one_batch(context, &entry).await.and_then(only) {
                Ok(()) => return Ok(true),
                Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => return Ok(false),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    /// No bytes of a blob: ByteStream cannot ask for that, so it is asked whether the blob is there.
    async fn empty_part(&self, context: &Context, digest: Digest) -> Result<Blob> {
        match self.find_missing(context, &[digest]).await?.is_empty() {
            true => Ok(Blob::bytes("")),
            false => Err(Error::not_found("blob", digest)),
        }
    }

    /// One call; all digests are of the same function.
    async fn find_missing(&self, context: &Context, digests: &[Digest]) -> Result<DigestSet> {
        let Some(first) = digests.first() else { return Ok(DigestSet::new()) };
        let function = first.function();
        let request = reapi::FindMissingBlobsRequest {
            instance_name: context.instance.to_string(),
            blob_digests: digests_to_wire(digests.iter().copied()),
            digest_function: function_to_wire(function).into(),
        };
        let mut backoff = Backoff::new(&self.options.retry, context);
        let answer = loop {
            let (mut client, lease) = self.cas();
            let call = client.find_missing_blobs(self.request(context, request.clone()));
            match self.unary(context, lease, call).await {
                Ok(answer) => break answer,
                Err(error) => backoff.pause(error).await?,
            }
        };
        let missing = answer.missing_blob_digests.into_iter();
        missing
            .map(|digest| required_digest("missing_blob_digests", function, Some(digest)))
            .collect::<Result<_>>()
            .map_err(|error| self.garbled(error))
    }
}

fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(Error::internal("a batch of one has no result")))
}
