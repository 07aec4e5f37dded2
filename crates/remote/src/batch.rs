//! Small blobs, many to a call: BatchReadBlobs and BatchUpdateBlobs, cut to what one message may hold.
//!
//! Blobs that one batch cannot hold are the business of `read` and `write`.

use crate::{
    Inner, MAX_MESSAGE, Remote,
    call::wrong_content,
    capabilities::{SHORTEST_COMPRESSED, ZSTD},
    compression::{deflate, inflate, off_the_reactor},
    retry::Backoff,
};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{Batches, Blame, Blob, Context, Digest, Error, Result};
use mortar_wire::{digest_to_wire, digests_to_wire, function_to_wire, reapi, required_digest, rpc, status};
use std::{collections::HashMap, sync::Arc};

/// What one entry costs beside its content.
const ENTRY: u64 = 128;

impl Remote {
    /// Reads many small blobs in as few calls as the server's limit allows; each one has a result of its own, in the
    /// order asked for. A blob too large for a batch is refused by the server.
    pub async fn read_batch(&self, context: &Context, digests: &[Digest]) -> Result<Vec<Result<Bytes>>> {
        let limit = self.0.terms(context).await?.batch_limit;
        let mut results = Vec::with_capacity(digests.len());
        for batch in batches(digests, limit, |digest| *digest) {
            let mut backoff = Backoff::new(&self.0.options.retry, context);
            results.extend(loop {
                match self.0.read_one_batch(context, batch).await {
                    Ok(read) => break read,
                    Err(error) => backoff.pause(error).await?,
                }
            });
        }
        Ok(results)
    }

    /// Writes many small blobs in as few calls as the server's limit allows; each one has a result of its own.
    pub async fn write_batch(&self, context: &Context, blobs: &[(Digest, Bytes)]) -> Result<Vec<Result<()>>> {
        let limit = self.0.terms(context).await?.batch_limit;
        let mut results = Vec::with_capacity(blobs.len());
        for batch in batches(blobs, limit, |(digest, _)| *digest) {
            let mut backoff = Backoff::new(&self.0.options.retry, context);
            results.extend(loop {
                match self.0.write_one_batch(context, batch).await {
                    Ok(written) => break written,
                    Err(error) => backoff.pause(error).await?,
                }
            });
        }
        Ok(results)
    }
}

#[async_trait]
impl Batches for Remote {
    async fn read_batch(&self, context: &Context, digests: &[Digest]) -> Result<Vec<Result<Bytes>>> {
        Self::read_batch(self, context, digests).await
    }
}

impl Inner {
    /// One call; all digests are of the same function.
    pub(crate) async fn read_one_batch(
        self: &Arc<Self>,
        context: &Context,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes>>> {
        let Some(first) = digests.first() else { return Ok(Vec::new()) };
        let function = first.function();
        let request = reapi::BatchReadBlobsRequest {
            instance_name: context.instance.to_string(),
            digests: digests_to_wire(digests.iter().copied()),
            acceptable_compressors: self.options.compression.then_some(ZSTD).into_iter().collect(),
            digest_function: function_to_wire(function).into(),
        };
        let (mut client, lease) = self.cas();
        let answer =
            self.unary(context, lease, client.batch_read_blobs(self.request(context, request))).await?;
        let mut answers = HashMap::with_capacity(digests.len());
        for response in answer.responses {
            let digest = required_digest("responses.digest", function, response.digest.clone());
            answers.insert(digest.map_err(|error| self.garbled(error))?, response);
        }
        let this = self.clone();
        let digests = digests.to_vec();
        let contents =
            move || Ok(digests.iter().map(|digest| this.content(*digest, answers.get(digest))).collect());
        match self.options.compression {
            true => off_the_reactor(contents).await,
            false => contents(),
        }
    }

    fn content(
        &self,
        digest: Digest,
        answer: Option<&reapi::batch_read_blobs_response::Response>,
    ) -> Result<Bytes> {
        let answer = answer.ok_or_else(|| self.unanswered(digest))?;
        judged(digest, answer.status.clone())?;
        let data = match answer.compressor {
            0 => answer.data.clone(),
            ZSTD if self.options.compression => inflated(digest, &answer.data)?,
            _ => return Err(wrong_content(digest, "compressed content, which was not asked for".into())),
        };
        let blob = Blob::bytes(data).verified(digest, Blame::Server)?;
        Ok(blob.as_bytes().cloned().unwrap_or_default())
    }

    /// One call; all digests are of the same function.
    pub(crate) async fn write_one_batch(
        &self,
        context: &Context,
        blobs: &[(Digest, Bytes)],
    ) -> Result<Vec<Result<()>>> {
        let Some((first, _)) = blobs.first() else { return Ok(Vec::new()) };
        let function = first.function();
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: context.instance.to_string(),
            requests: self.entries(context, blobs).await?,
            digest_function: function_to_wire(function).into(),
        };
        let (mut client, lease) = self.cas();
        let answer =
            self.unary(context, lease, client.batch_update_blobs(self.request(context, request))).await?;
        let mut answers = HashMap::with_capacity(blobs.len());
        for response in answer.responses {
            let digest = required_digest("responses.digest", function, response.digest);
            answers.insert(digest.map_err(|error| self.garbled(error))?, response.status);
        }
        let result = |digest: Digest| match answers.get(&digest) {
            Some(status) => judged(digest, status.clone()),
            None => Err(self.unanswered(digest)),
        };
        Ok(blobs.iter().map(|(digest, _)| result(*digest)).collect())
    }

    /// What is sent of these blobs.
    async fn entries(&self, context: &Context, blobs: &[(Digest, Bytes)]) -> Result<Vec<Entry>> {
        if self.options.compression && self.terms(context).await?.zstd_batches {
            let blobs = blobs.to_vec();
            return off_the_reactor(move || blobs.into_iter().map(shorter).collect()).await;
        }
        Ok(blobs.iter().cloned().map(as_it_is).collect())
    }

    fn unanswered(&self, digest: Digest) -> Error {
        Error::internal(format!(
            "the server at `{}` left blob `{digest}` of a batch unanswered",
            self.endpoint
        ))
    }
}

type Entry = reapi::batch_update_blobs_request::Request;

fn as_it_is((digest, data): (Digest, Bytes)) -> Entry {
    Entry { digest: Some(digest_to_wire(digest)), data, compressor: 0 }
}

/// This blob as zstd, if that is shorter.
fn shorter((digest, data): (Digest, Bytes)) -> Result<Entry> {
    if data.len() as u64 >= SHORTEST_COMPRESSED {
        let frame = deflate(&data)?;
        if frame.len() < data.len() {
            return Ok(Entry { digest: Some(digest_to_wire(digest)), data: frame, compressor: ZSTD });
        }
    }
    Ok(as_it_is((digest, data)))
}

fn inflated(digest: Digest, frames: &[u8]) -> Result<Bytes> {
    let size = usize::try_from(digest.size()).ok().filter(|size| *size <= MAX_MESSAGE);
    let content = size.and_then(|size| inflate(frames, size));
    content.ok_or_else(|| wrong_content(digest, "no zstd of that size".into()))
}

fn judged(digest: Digest, status: Option<rpc::Status>) -> Result<()> {
    match status {
        Some(status) if status.code == tonic::Code::NotFound as i32 => Err(Error::not_found("blob", digest)),
        Some(status) if status.code != 0 => Err(status::from_rpc(status)),
        _ => Ok(()),
    }
}

/// Cuts into runs of one digest function whose content fits into `limit`; what alone is too large is a run by itself.
fn batches<T>(items: &[T], limit: u64, digest: impl Fn(&T) -> Digest) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let function = digest(rest.first()?).function();
        let mut size = 0;
        let fits = |item: &&T| {
            size += digest(item).size() + ENTRY;
            digest(item).function() == function && size <= limit
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, left) = rest.split_at(count);
        rest = left;
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::{self, Blake3, Sha256};

    #[test]
    fn batches_hold_what_fits() {
        let sized = |function, size| Digest::new(function, [1; 32], size);
        let cut = |digests: &[Digest], limit| -> Vec<usize> {
            batches(digests, limit, |digest| *digest).map(<[_]>::len).collect()
        };
        let same = |count, size| vec![sized(Sha256, size); count];
        assert_eq!(cut(&[], 10), [0; 0]);
        assert_eq!(cut(&same(5, 72), 2 * (72 + ENTRY)), [2, 2, 1]);
        assert_eq!(cut(&same(3, 1_000_000), 10), [1, 1, 1]);
        let mixed: Vec<Digest> =
            [Sha256, Sha256, Blake3, Sha256].map(|function: DigestFunction| sized(function, 1)).into();
        assert_eq!(cut(&mixed, 1 << 20), [2, 1, 1]);
    }
}
