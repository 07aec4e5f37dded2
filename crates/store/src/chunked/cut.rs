//! Blob to chunks, and chunks to blob.

use super::{ChunkedBlobs, MAX_CHUNKS};
use crate::{
    blocking::{gather, hop},
    chunking::{self, Chunker},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use mortar_model::{
    Blame, Blob, BlobStore, BlobStoreExt, ChunkMapping, ChunkingFunction, ChunkingParameters, Chunks,
    Context, Digest, DigestFunction, DigestSet, Error, Kind, Range, Result,
};

#[async_trait]
impl Chunks for ChunkedBlobs {
    fn parameters(&self) -> ChunkingParameters {
        self.parameters
    }

    async fn split(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<ChunkMapping> {
        if digest.size() >= self.smallest
            && let Some(known) = self.complete(context, digest).await?
        {
            self.forget(context, digest).await?;
            return Ok(known);
        }
        let function = function.unwrap_or(ChunkingFunction::FastCdc2020);
        let itself = ChunkMapping { function: Some(function), chunks: vec![digest] };
        if digest.size() < chunking::threshold(&self.parameters, function) {
            let missing = self.find_missing(context, &DigestSet::from_iter([digest])).await?;
            return missing.is_empty().then_some(itself).ok_or_else(|| Error::not_found("blob", digest));
        }
        let blob = self.inner.read(context, digest, Range::ALL).await?;
        let mapping = ChunkMapping {
            function: Some(function),
            chunks: self.cut(context, blob, digest.function(), function).await?,
        };
        if mapping == itself {
            return Ok(itself);
        }
        self.recipes.put(context, digest, &mapping).await?;
        self.forget(context, digest).await?;
        Ok(mapping)
    }

    async fn splice(&self, context: &Context, digest: Digest, mapping: ChunkMapping) -> Result<()> {
        check(digest, &mapping)?;
        if self.find_missing(context, &DigestSet::from_iter([digest])).await?.is_empty() {
            return Ok(());
        }
        let chunks = self.stored(context, digest, &mapping.chunks).await?;
        let whole = self.concatenate(context, digest, &chunks, Range::ALL, Blame::Client)?;
        if digest.size() < self.smallest {
            return self.inner.write(context, digest, whole).await;
        }
        whole.into_stream().try_for_each(async |_| Ok(())).await?;
        self.recipes.put(context, digest, &ChunkMapping { function: mapping.function, chunks }).await
    }
}

impl ChunkedBlobs {
    /// Cuts a blob, and keeps its chunks.
    async fn cut(
        &self,
        context: &Context,
        blob: Blob,
        digests: DigestFunction,
        function: ChunkingFunction,
    ) -> Result<Vec<Digest>> {
        let mut chunker = Chunker::new(&self.parameters, function);
        let mut stream = blob.into_stream();
        let mut chunks = Vec::new();
        loop {
            let pieces = gather(&mut stream).await?;
            if pieces.is_empty() {
                break;
            }
            let found;
            (chunker, found) = hop(move || {
                let found: Vec<_> = pieces.iter().flat_map(|piece| chunker.push(piece)).collect();
                Ok((chunker, named(digests, found)))
            })
            .await?;
            chunks.extend(self.keep(context, found).await?);
        }
        let found = hop(move || Ok(named(digests, chunker.finish()))).await?;
        chunks.extend(self.keep(context, found).await?);
        Ok(chunks)
    }

    /// Writes those of these chunks that are not stored yet.
    async fn keep(&self, context: &Context, chunks: Vec<(Digest, Bytes)>) -> Result<Vec<Digest>> {
        let all: DigestSet = chunks.iter().map(|(digest, _)| *digest).collect();
        let missing = self.inner.find_missing(context, &all).await?;
        let (mut digests, mut written) = (Vec::with_capacity(chunks.len()), DigestSet::new());
        for (digest, bytes) in chunks {
            if missing.contains(&digest) && written.insert(digest) {
                self.inner.write_bytes(context, digest, bytes).await?;
            }
            digests.push(digest);
        }
        Ok(digests)
    }

    /// These chunks, those that were cut themselves replaced by what they consist of, and without the empty one.
    async fn stored(&self, context: &Context, digest: Digest, chunks: &[Digest]) -> Result<Vec<Digest>> {
        let missing = self.inner.find_missing(context, &chunks.iter().copied().collect()).await?;
        let large = missing.iter().filter(|chunk| chunk.size() >= self.smallest).collect();
        let resolved = self.resolve(context, large).await?;
        let mut stored = Vec::with_capacity(chunks.len());
        for chunk in chunks.iter().filter(|chunk| chunk.size() > 0) {
            match missing.contains(chunk) {
                false => stored.push(*chunk),
                true => {
                    let parts = resolved.flat(*chunk).ok_or_else(|| Error::not_found("chunk", chunk))?;
                    stored.extend(parts.chunks);
                }
            }
        }
        check_count(digest, stored.len())?;
        Ok(stored)
    }

    /// Lets the bytes of a blob go that is kept as chunks by now.
    async fn forget(&self, context: &Context, digest: Digest) -> Result<()> {
        match &self.forget {
            Some(forget) => forget.forget(context, digest).await.map(drop),
            None => Ok(()),
        }
    }
}

fn named(function: DigestFunction, chunks: Vec<Bytes>) -> Vec<(Digest, Bytes)> {
    chunks.into_iter().map(|chunk| (Digest::of(function, &chunk), chunk)).collect()
}

/// Refuses what cannot be the chunks of the blob, whatever is in them.
fn check(digest: Digest, mapping: &ChunkMapping) -> Result<()> {
    check_count(digest, mapping.chunks.len())?;
    if let Some(other) = mapping.chunks.iter().find(|chunk| chunk.function() != digest.function()) {
        let message = format!("chunk `{other}` is of another digest function than blob `{digest}`");
        return Err(Error::invalid("chunk_digests", message));
    }
    let total = mapping.chunks.iter().map(Digest::size).fold(0, u64::saturating_add);
    if total != digest.size() {
        let actual = format!("{total} bytes in {} chunks", mapping.chunks.len());
        return Err(Error::mismatch(digest, actual, Blame::Client));
    }
    Ok(())
}

fn check_count(digest: Digest, chunks: usize) -> Result<()> {
    if chunks <= MAX_CHUNKS {
        return Ok(());
    }
    let message = format!("blob `{digest}` has {chunks} chunks; at most {MAX_CHUNKS} are accepted");
    Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }))
}
