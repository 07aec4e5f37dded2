//! A blob from its chunks.

use super::ChunkedBlobs;
use crate::blocking::{gather, hop};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mortar_model::{Blame, Blob, ByteStream, Context, Digest, Error, Hasher, Range, Result};

/// Chunks that are opened ahead of the one that is read.
const AHEAD: usize = 2;

impl ChunkedBlobs {
    /// A part of a blob that consists of these chunks. A whole blob is checked against its digest, and its last bytes
    /// are held back until they are known to match; what does not is `blame`'s.
    pub(super) fn concatenate(
        &self,
        context: &Context,
        digest: Digest,
        chunks: &[Digest],
        range: Range,
        blame: Blame,
    ) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        let inner = self.inner.clone();
        let context = context.clone();
        let reads = stream::iter(parts(chunks, offset, length)).map(move |(chunk, range)| {
            let (inner, context) = (inner.clone(), context.clone());
            async move {
                let read = inner.read(&context, chunk, range).await;
                read.map(Blob::into_stream).map_err(|error| lost(digest, chunk, error))
            }
        });
        let bytes = Blob::stream(length, reads.buffered(AHEAD).try_flatten());
        Ok(match range.is_all_of(digest) {
            true => Blob::stream(length, checked(bytes.into_stream(), digest, blame)),
            false => bytes,
        })
    }
}

/// The chunks that a part of their blob lies in, and which of their bytes.
fn parts(chunks: &[Digest], offset: u64, length: u64) -> Vec<(Digest, Range)> {
    let (end, mut start) = (offset + length, 0);
    let mut parts = Vec::new();
    for chunk in chunks {
        let (from, to) = (offset.max(start), end.min(start + chunk.size()));
        if from < to {
            parts.push((*chunk, Range { offset: from - start, limit: Some(to - from) }));
        }
        start += chunk.size();
    }
    parts
}

/// Who reads asked for the blob: that is what is not found, whatever chunk it is for the lack of.
fn lost(digest: Digest, chunk: Digest, error: Error) -> Error {
    match error.is_not_found() {
        true => Error::not_found("blob", digest).with_source(Error::not_found("chunk", chunk)),
        false => error,
    }
}

/// These bytes, hashed on blocking threads. The last ones come only if all of them are what the digest says.
fn checked(bytes: ByteStream, digest: Digest, blame: Blame) -> impl Stream<Item = Result<Bytes>> {
    let start = Some((bytes, Hasher::new(digest.function())));
    let pieces = stream::try_unfold(start, move |state| async move {
        let Some((mut bytes, mut hasher)) = state else { return Ok(None) };
        let pieces = gather(&mut bytes).await?;
        let ended = pieces.is_empty();
        let (pieces, hasher) = hop(move || {
            pieces.iter().for_each(|piece| hasher.update(piece));
            if ended || hasher.size() >= digest.size() {
                let actual = hasher.clone().finish();
                if actual != digest {
                    return Err(Error::mismatch(digest, actual.to_string(), blame));
                }
            }
            Ok((pieces, hasher))
        })
        .await?;
        Ok::<_, Error>(Some((stream::iter(pieces.into_iter().map(Ok)), (!ended).then_some((bytes, hasher)))))
    });
    pieces.try_flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::Sha256;

    #[test]
    fn a_range_lies_in_the_chunks_that_it_touches() {
        let chunks: Vec<_> =
            [b"aaa".as_slice(), b"b", b"cccc"].iter().map(|c| Digest::of(Sha256, c)).collect();
        for (offset, length, expected) in [
            (0, 8, vec![(0, 0, 3), (1, 0, 1), (2, 0, 4)]),
            (0, 3, vec![(0, 0, 3)]),
            (2, 3, vec![(0, 2, 1), (1, 0, 1), (2, 0, 1)]),
            (3, 1, vec![(1, 0, 1)]),
            (5, 2, vec![(2, 1, 2)]),
            (8, 0, vec![]),
            (4, 0, vec![]),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(chunk, offset, limit)| (chunks[chunk], Range { offset, limit: Some(limit) }))
                .collect();
            assert_eq!(parts(&chunks, offset, length), expected, "{length} bytes at {offset}");
        }
    }
}
