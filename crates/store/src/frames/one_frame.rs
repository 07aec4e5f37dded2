//! Single frames of content that is at hand.

use super::Flaw;
use std::cell::RefCell;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, ErrorCode, compress_bound, get_error_name};

/// The level at which small blobs and parts of blobs are compressed.
const LEVEL: i32 = 3;
/// A frame is kept in place of its content only if it saves one part in so many.
const LEAST_SAVING: usize = 16;
/// Content shorter than this is never worth a frame.
const SHORTEST: usize = 64;

thread_local! {
    static CODEC: RefCell<Codec> = RefCell::new(Codec::new(LEVEL, false));
}

/// A frame of this content, if that is worth its while.
pub fn shrink(content: &[u8]) -> Option<Vec<u8>> {
    if content.len() < SHORTEST {
        return None;
    }
    let frame = with_codec(|codec| codec.compress(content)).ok()?;
    (frame.len() <= content.len() - content.len() / LEAST_SAVING).then_some(frame)
}

/// The content of frames that hold exactly `size` bytes. The caller bounds the size: so much memory is taken.
pub fn grow(frames: &[u8], size: usize) -> Result<Vec<u8>, Flaw> {
    with_codec(|codec| codec.decompress(frames, size))
}

/// A frame of this content, whether or not that makes it shorter.
pub fn deflate(content: &[u8]) -> Result<Vec<u8>, Flaw> {
    with_codec(|codec| codec.compress(content))
}

/// What compresses and decompresses frame by frame; making one costs more than a small frame.
pub(super) struct Codec {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
}

impl Codec {
    /// With `checksum`, frames carry one of their content.
    pub fn new(level: i32, checksum: bool) -> Self {
        let mut compressor = CCtx::create();
        for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(checksum)] {
            compressor.set_parameter(parameter).expect("zstd knows this parameter");
        }
        Self { compressor, decompressor: DCtx::create() }
    }

    /// A frame of this content.
    pub fn compress(&mut self, content: &[u8]) -> Result<Vec<u8>, Flaw> {
        let mut frame = Vec::with_capacity(compress_bound(content.len()));
        self.compressor.compress2(&mut frame, content).map_err(garbage)?;
        Ok(frame)
    }

    /// Content of a known size from the frames that hold it.
    pub fn decompress(&mut self, frames: &[u8], size: usize) -> Result<Vec<u8>, Flaw> {
        let mut content = Vec::with_capacity(size);
        self.decompressor.decompress(&mut content, frames).map_err(garbage)?;
        match content.len() == size {
            true => Ok(content),
            false => Err(Flaw::TooShort { expected: size as u64, actual: content.len() as u64 }),
        }
    }
}

fn garbage(code: ErrorCode) -> Flaw {
    Flaw::Garbage(get_error_name(code))
}

/// With this thread's codec.
pub(super) fn with_codec<T>(work: impl FnOnce(&mut Codec) -> T) -> T {
    CODEC.with_borrow_mut(work)
}
