//! zstd frames: content on its way in and out ([`Inflate`], [`deflate`]), large blobs at rest as seekable files
//! ([`compress`], [`Seekable`]), small blobs at rest as single frames ([`shrink`], [`grow`]).
//!
//! Pure codec code for threads that may block. Where files lie and what digests say is for those who call it.

mod inflate;
mod one_frame;
mod seekable;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use inflate::Inflate;
pub use one_frame::{deflate, grow, shrink};
pub use seekable::Seekable;
pub use table::{FrameEntry, SeekTable};
pub use writer::{Level, compress};

use mortar_model::{Blame, Digest, Error, Kind};
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Content bytes of each frame of a seekable file, but for the last: what a read in the middle decompresses in vain
/// at most.
pub const FRAME_CONTENT: usize = 256 * 1024;

/// No content at all, as a zstd frame: what a part of no bytes is sent as, since not every client takes a stream
/// without a frame for one.
pub const EMPTY_FRAME: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];

/// What is wrong with frames.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// zstd does not take them.
    #[error("no valid zstd: {0}")]
    Garbage(&'static str),
    /// They end within a frame.
    #[error("the zstd stream ends within a frame, after {content} bytes of content")]
    CutOff {
        /// What came before.
        content: u64,
    },
    /// They hold more than they should.
    #[error("the zstd stream holds more than the {expected} bytes of content that were announced")]
    TooLong {
        /// What they should hold.
        expected: u64,
    },
    /// They hold less than they should.
    #[error("the zstd stream holds {actual} bytes of content, {expected} were announced")]
    TooShort {
        /// What they should hold.
        expected: u64,
        /// What they hold.
        actual: u64,
    },
    /// They are out of proportion to their content.
    #[error("{length} bytes of zstd frames are too many for {expected} bytes of content")]
    Bloated {
        /// What the frames should hold.
        expected: u64,
        /// How long they are, at least.
        length: u64,
    },
    /// The table at the end of a seekable file does not fit the file.
    #[error("the seek table is damaged: {0}")]
    Table(String),
    /// A frame is not the one that the table names.
    #[error("frame {index} of the file is damaged: {what}")]
    Frame {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The file cannot be read or written.
    #[error("reading or writing zstd frames failed: {0}")]
    Io(#[from] io::Error),
}

impl Flaw {
    /// As an error about frames that a client sent as a blob.
    pub fn of_upload(self, digest: Digest) -> Error {
        match self {
            Self::TooLong { expected } => {
                Error::mismatch(digest, format!("more than {expected} bytes"), Blame::Client)
            }
            Self::TooShort { actual, .. } => {
                Error::mismatch(digest, format!("{actual} bytes"), Blame::Client)
            }
            Self::Io(source) => Error::io(format!("taking blob `{digest}`"), source),
            flaw => Error::invalid("data", format!("blob `{digest}`: {flaw}")),
        }
    }

    /// As an error about frames that a blob is kept in.
    pub fn at_rest(self, digest: Digest) -> Error {
        match self {
            Self::Io(source) => Error::io(format!("reading blob `{digest}`"), source),
            flaw => Error::new(Kind::DataLoss { message: format!("blob `{digest}` is damaged: {flaw}") }),
        }
    }
}

/// What frames are read from, and what is compressed: files, and bytes in memory.
pub trait ReadAt {
    /// Fills `buffer` with what stands at `offset`, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        match from.and_then(|from| from.get(..buffer.len())) {
            Some(found) => {
                buffer.copy_from_slice(found);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }
}
