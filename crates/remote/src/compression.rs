//! zstd on the way: content that is sent in frames, and frames that are taken apart as they come. Off the reactor, since
//! a message takes a millisecond or more.
//!
//! What comes is not trusted: no more content is made of it than was asked for, whatever it would decompress to. Whether
//! it is the right content is told by the digest, elsewhere.

use bytes::{Buf, Bytes};
use mortar_model::{Error, Result};
use std::io;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// What is sent is compressed at this level: a network's worth, not an archive's.
const LEVEL: i32 = 3;
/// Content that is made of frames at a time.
const PIECE: usize = 1 << 20;
/// The largest window of a frame, as a power of two: what zstd's own tools take.
const LARGEST_WINDOW: u32 = 27;

/// A frame of this content.
pub(crate) async fn deflated(content: Bytes) -> Result<Bytes> {
    off_the_reactor(move || deflate(&content)).await
}

/// A frame of this content. May block for a while.
pub(crate) fn deflate(content: &[u8]) -> Result<Bytes> {
    let frame = zstd::bulk::compress(content, LEVEL);
    frame.map(Bytes::from).map_err(|error| Error::internal("zstd could not compress").with_source(error))
}

/// The content of these frames, which is `size` bytes at most; none if they are no such frames. May block for a while.
pub(crate) fn inflate(frames: &[u8], size: usize) -> Option<Bytes> {
    zstd::bulk::decompress(frames, size).ok().map(Bytes::from)
}

/// Runs `work` where it may take its time.
pub(crate) async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal("compression was broken off").with_source(error)))
}

/// Takes a stream of frames apart.
pub(crate) struct Inflate {
    decoder: Decoder<'static>,
    input: Bytes,
    /// The decoder may have more content than it had room for.
    may_hold_more: bool,
}

impl Inflate {
    pub(crate) fn new() -> Result<Self> {
        let decoder = Decoder::new().and_then(|mut decoder| {
            decoder.set_parameter(DParameter::WindowLogMax(LARGEST_WINDOW)).map(|()| decoder)
        });
        let decoder = decoder.map_err(|error| Error::internal("zstd could not begin").with_source(error))?;
        Ok(Self { decoder, input: Bytes::new(), may_hold_more: false })
    }

    /// Whether more frames are needed before there is more content.
    pub(crate) fn is_hungry(&self) -> bool {
        self.input.is_empty() && !self.may_hold_more
    }

    /// Takes the next frames, or parts of them, when it is hungry.
    pub(crate) fn feed(&mut self, frames: Bytes) {
        self.input = frames;
    }

    /// The next content, empty if there is none yet: at most a piece, and at most `limit` bytes. What zstd does not take
    /// is an error within. May block for a while.
    pub(crate) fn step(&mut self, limit: u64) -> io::Result<Bytes> {
        let room = usize::try_from(limit).unwrap_or(usize::MAX).min(PIECE);
        let mut piece = Vec::with_capacity(room);
        while piece.len() < room && !self.is_hungry() {
            let (mut from, have) = (InBuffer::around(&self.input), piece.len());
            let mut to = OutBuffer::around_pos(&mut piece, have);
            self.decoder.run(&mut from, &mut to)?;
            let taken = from.pos();
            self.input.advance(taken);
            self.may_hold_more = piece.len() == room;
        }
        Ok(piece.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn joined(frames: &[Bytes], limit: usize) -> io::Result<Vec<u8>> {
        let (mut inflate, mut content) = (Inflate::new().unwrap(), Vec::new());
        for piece in frames {
            inflate.feed(piece.clone());
            while !inflate.is_hungry() && content.len() < limit {
                content.extend_from_slice(&inflate.step((limit - content.len()) as u64)?);
            }
        }
        Ok(content)
    }

    #[test]
    fn frames_in_any_pieces_are_their_content() {
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
        let frames: Vec<u8> = content.chunks(700_000).flat_map(|part| deflate(part).unwrap()).collect();
        for step in [1, 1000, frames.len()] {
            let pieces: Vec<Bytes> = frames.chunks(step).map(Bytes::copy_from_slice).collect();
            assert!(joined(&pieces, usize::MAX).unwrap() == content, "{step}");
            // No more than was asked for, and all of that.
            assert!(joined(&pieces, 2_000_001).unwrap() == content[..2_000_001], "{step}");
        }
    }

    #[test]
    fn garbage_is_found_out() {
        assert!(joined(&[Bytes::from_static(b"no frame at all")], usize::MAX).is_err());
        assert_eq!(inflate(b"no frame at all", 100), None);
        let frame = deflate(&[7; 1000]).unwrap();
        assert_eq!(inflate(&frame, 999), None);
        assert_eq!(inflate(&frame, 1000).unwrap(), vec![7; 1000]);
    }
}
