//! Reads the files of other caches. Whatever is wrong with one of them is `DataLoss` or a mismatch of that blob.

use super::layout::Form;
use crate::{
    blocking::{PIECE, hop},
    frames::Inflate,
};
use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use mortar_model::{Blob, Digest, Error, Kind, Result};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A skippable zstd frame, as which bazel-remote keeps its header.
const MAGIC: u32 = 0x184d_2a50;
/// Up to the number of offsets; the offsets of the chunks follow, which are of no interest here.
const FIXED_HEADER: usize = 29;

/// How much content a file holds, by its length or its name.
pub(super) fn size(path: &Path, form: Form) -> Result<u64> {
    match form {
        Form::Plain => Ok(fs::metadata(path).map_err(|error| unreadable(&error))?.len()),
        Form::CasBlob(size) => Ok(size),
    }
}

/// A whole file, refused if it is larger than `limit` bytes.
pub(super) fn bytes(path: &Path, limit: u64) -> Result<Bytes> {
    let length = size(path, Form::Plain)?;
    if length > limit {
        return Err(damaged(format!("it has {length} bytes; at most {limit} are read")));
    }
    fs::read(path).map(Bytes::from).map_err(|error| unreadable(&error))
}

/// The content of a blob, which whoever takes it has to check.
pub(super) fn content(path: PathBuf, form: Form, digest: Digest) -> Blob {
    let state = State::Closed(path, form);
    let pieces = stream::try_unfold(state, move |state| hop(move || state.next(digest)));
    Blob::stream(digest.size(), pieces.fuse())
}

enum State {
    Closed(PathBuf, Form),
    Plain(File),
    Zstd(Box<(File, Inflate, Bytes)>),
}

impl State {
    fn next(self, digest: Digest) -> Result<Option<(Bytes, Self)>> {
        match self {
            Self::Closed(path, form) => Self::open(&path, form, digest)?.next(digest),
            Self::Plain(mut file) => {
                let piece = read(&mut file, PIECE as u64)?;
                Ok((!piece.is_empty()).then_some((piece, Self::Plain(file))))
            }
            Self::Zstd(mut state) => {
                let (file, inflate, input) = &mut *state;
                loop {
                    let mut left = &input[..];
                    let piece = inflate.next(&mut left).map_err(|flaw| flaw.at_rest(digest))?;
                    let taken = input.len() - left.len();
                    input.advance(taken);
                    if let Some(piece) = piece {
                        return Ok(Some((piece, Self::Zstd(state))));
                    }
                    *input = read(file, PIECE as u64)?;
                    if input.is_empty() {
                        let (_, inflate, _) = *state;
                        return inflate.finish().map(|()| None).map_err(|flaw| flaw.at_rest(digest));
                    }
                }
            }
        }
    }

    /// Opens a file and leaves it at the beginning of its content.
    fn open(path: &Path, form: Form, digest: Digest) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| unreadable(&error))?;
        if form == Form::Plain {
            return Ok(Self::Plain(file));
        }
        let header = read(&mut file, FIXED_HEADER as u64)?;
        let header: &[u8; FIXED_HEADER] =
            header[..].try_into().map_err(|_| damaged("it ends within its header"))?;
        let number = |at: usize| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|at| header[at]));
        let (magic, following) = (number(0), u64::from(number(4)));
        let size = u64::from(number(8)) | u64::from(number(12)) << 32;
        if magic != MAGIC || size != digest.size() {
            return Err(damaged(format!("its header says {magic:#x} and {size} bytes of content")));
        }
        let rest = (following + 8).checked_sub(FIXED_HEADER as u64);
        let rest = rest.ok_or_else(|| damaged("its header is too short"))?;
        let skipped = io::copy(&mut (&mut file).take(rest), &mut io::sink());
        if skipped.map_err(|error| unreadable(&error))? < rest {
            return Err(damaged("it ends within its header"));
        }
        match header[16] {
            0 => Ok(Self::Plain(file)),
            1 => Ok(Self::Zstd(Box::new((file, Inflate::new(size), Bytes::new())))),
            other => Err(damaged(format!("its content is compressed in the unknown way {other}"))),
        }
    }
}

fn read(file: &mut File, limit: u64) -> Result<Bytes> {
    let mut piece = Vec::new();
    file.take(limit).read_to_end(&mut piece).map_err(|error| unreadable(&error))?;
    Ok(piece.into())
}

fn unreadable(error: &io::Error) -> Error {
    damaged(format!("it cannot be read: {error}"))
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(Kind::DataLoss { message: message.into() })
}
