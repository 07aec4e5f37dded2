//! Blobs as zstd frames from a store that keeps them as they are.

use crate::{
    blocking::{gather, hop},
    frames::{EMPTY_FRAME, Flaw, Inflate, deflate},
};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use mortar_model::{Blob, BlobStore, ByteStream, Context, Digest, EncodedBlobs, Range, Result};
use std::sync::Arc;

/// Compresses on the fly what is read, and decompresses what is written.
///
/// For stores without an encoding of their own, so that whoever stands before them can offer compressed reads and
/// writes all the same. It costs the CPU that a store which keeps frames does not spend.
pub struct Transcoding<S: ?Sized> {
    inner: Arc<S>,
}

impl<S: BlobStore + ?Sized> Transcoding<S> {
    /// Over `inner`, where the blobs are.
    pub fn new(inner: Arc<S>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl<S: BlobStore + ?Sized> EncodedBlobs for Transcoding<S> {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        Ok(deflated(digest, self.inner.read(context, digest, range).await?))
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        self.inner.write(context, digest, inflated(digest, frames)).await
    }
}

/// This part of a blob as frames, each of as much content as is compressed at a time.
pub(crate) fn deflated(digest: Digest, part: Blob) -> ByteStream {
    if part.is_empty() {
        return stream::iter([Ok(Bytes::from_static(EMPTY_FRAME))]).boxed();
    }
    stream::try_unfold(part.into_stream().fuse().boxed(), move |mut content| async move {
        let pieces = gather(&mut content).await?;
        if pieces.is_empty() {
            return Ok(None);
        }
        let compress = move || match &pieces[..] {
            [piece] => deflate(piece),
            pieces => deflate(&pieces.concat()),
        };
        let frame = hop(move || compress().map_err(|flaw| flaw.at_rest(digest))).await?;
        Ok(Some((Bytes::from(frame), content)))
    })
    .boxed()
}

/// The blob that these frames should hold. Its stream fails where they do not.
pub(crate) fn inflated(digest: Digest, frames: Bytes) -> Blob {
    let state = Some((Inflate::new(digest.size()), frames));
    let content = stream::try_unfold(state, move |state| async move {
        match state {
            Some((inflate, frames)) => {
                hop(move || next_piece(inflate, frames).map_err(|flaw| flaw.of_upload(digest))).await
            }
            None => Ok(None),
        }
    });
    // Whoever gathers pieces asks once more at the end.
    Blob::stream(digest.size(), content.fuse())
}

type Step = Option<(Bytes, Option<(Inflate, Bytes)>)>;

fn next_piece(mut inflate: Inflate, mut frames: Bytes) -> Result<Step, Flaw> {
    let mut left = &frames[..];
    let piece = inflate.next(&mut left)?;
    let taken = frames.len() - left.len();
    frames.advance(taken);
    let is_last = frames.is_empty() && inflate.at_boundary();
    match piece {
        Some(piece) if is_last => inflate.finish().map(|()| Some((piece, None))),
        Some(piece) => Ok(Some((piece, Some((inflate, frames))))),
        None => inflate.finish().map(|()| None),
    }
}
