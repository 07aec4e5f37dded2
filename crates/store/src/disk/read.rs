//! How blobs are read. Small ones come with their record in one read, large ones in pieces: both from the page cache
//! without leaving the thread; what is not there is read on blocking threads, one piece ahead of the reader. Each record and each piece is checked as it
//! is read; what is damaged is quarantined and never passed on.

use super::{
    Shared,
    files::storage_error,
    frame::Header,
    key::Key,
    leases::{Hold, Stamp},
    medium::{Disk, is_broken},
    pieces::{PIECE, Pieces},
    segments::Unread,
    table::{Entry, Form},
};
use crate::{
    blocking::{Hop, hop},
    frames,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use mortar_model::{Blob, ByteStream, Digest, Encoding, Error, Kind, Range, Result};
use std::{
    io, ops,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// How often a thing is looked for again that was moved this moment.
const ATTEMPTS: usize = 8;

/// What was found of a blob.
pub(super) enum Found {
    /// Its record.
    Record(Header, Bytes),
    /// Its file.
    File(Opened),
}

/// The file of a blob, and what is known of it.
#[derive(Clone)]
pub(super) struct Opened {
    key: Key,
    entry: Entry,
    pub disk: Arc<Disk>,
    pub pieces: Arc<Pieces>,
    pub encoding: Encoding,
}

impl Shared {
    /// The bytes of a blob within a range.
    pub(super) async fn read_blob(
        self: &Arc<Self>,
        digest: Digest,
        range: Range,
        stamp: Stamp,
    ) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        if digest.is_empty() {
            return Ok(Blob::bytes(Bytes::new()));
        }
        match self.find(digest, stamp).await? {
            Found::Record(header, payload) => {
                let content = self.content(&header, payload)?;
                Ok(Blob::bytes(content.slice(offset as usize..(offset + length) as usize)))
            }
            Found::File(opened) => {
                let part = offset..offset + length;
                Ok(Blob::stream(length, self.pieces_of(opened, part, Encoding::Identity)))
            }
        }
    }

    /// As `read_blob`, as zstd frames.
    pub(super) async fn read_frames(
        self: &Arc<Self>,
        digest: Digest,
        range: Range,
        stamp: Stamp,
    ) -> Result<ByteStream> {
        let (offset, length) = range.within(digest)?;
        let once = |bytes: Bytes| Ok(stream::once(async move { Ok(bytes) }).boxed());
        if length == 0 && !digest.is_empty() {
            self.find(digest, stamp).await?;
        }
        if length == 0 {
            return once(Bytes::from_static(frames::EMPTY_FRAME));
        }
        match self.find(digest, stamp).await? {
            Found::Record(header, payload) => {
                if header.encoding == Encoding::Zstd && length == digest.size() {
                    return once(payload);
                }
                let content = self.content(&header, payload)?;
                let part = content.slice(offset as usize..(offset + length) as usize);
                once(frames::deflate(&part).map_err(|flaw| flaw.at_rest(digest))?.into())
            }
            Found::File(opened) => {
                Ok(self.pieces_of(opened, offset..offset + length, Encoding::Zstd).boxed())
            }
        }
    }

    /// The content that a record holds.
    pub(super) fn content(&self, header: &Header, payload: Bytes) -> Result<Bytes> {
        match header.encoding {
            Encoding::Identity => Ok(payload),
            Encoding::Zstd => {
                let grown = frames::grow(&payload, header.size as usize);
                grown.map(Bytes::from).map_err(|flaw| damaged(header.key, &flaw.to_string()))
            }
        }
    }

    fn pieces_of(
        self: &Arc<Self>,
        opened: Opened,
        part: ops::Range<u64>,
        encoding: Encoding,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        Reader { shared: self.clone(), opened, part, encoding }.chunks()
    }

    /// Finds a blob, and takes note that somebody builds on it.
    async fn find(self: &Arc<Self>, digest: Digest, stamp: Stamp) -> Result<Found> {
        let key = Key::of(digest);
        if let Some(entry) = self.look(&key, stamp).filter(|entry| entry.size == digest.size())
            && entry.form == Form::Record
            && let Some(Ok((header, payload))) = self.segments.read_now(entry.place, entry.stored)
            && header.key == key
        {
            return Ok(Found::Record(header, payload));
        }
        let shared = self.clone();
        hop(move || {
            shared
                .find_blocking(key, Some(digest.size()), stamp)?
                .ok_or_else(|| not_found(key, digest.size()))
        })
        .await
    }

    /// Finds what has this key, of this size if that is given. Blocks.
    pub(super) fn find_blocking(&self, key: Key, size: Option<u64>, stamp: Stamp) -> Result<Option<Found>> {
        for _ in 0..ATTEMPTS {
            let entry = self.look(&key, stamp).filter(|entry| size.is_none_or(|size| entry.size == size));
            let Some(entry) = entry else { return Ok(None) };
            let stored = match entry.form {
                Form::Record => self.segments.read(entry.place, entry.stored),
                Form::File => self.segments.read_any(entry.place),
            };
            let flaw = match stored {
                Ok((header, payload)) if header.key == key && header.size == entry.size => {
                    match self.found(key, entry, header, payload)? {
                        Some(found) => return Ok(Some(found)),
                        None => continue,
                    }
                }
                // It was moved to another segment this moment.
                Err(Unread::Gone) => continue,
                Ok(_) => "its record is that of something else".to_owned(),
                Err(Unread::Damaged(flaw)) => format!("its record is damaged: {flaw:?}"),
                Err(Unread::Failed(error)) if is_broken(&error) => {
                    format!("its record cannot be read: {error}")
                }
                Err(Unread::Failed(error)) => return Err(storage_error("reading a segment", error)),
            };
            if self.table.get(&key) == Some(entry) && self.segments.contains(entry.place.segment) {
                self.quarantine(key, &entry, &flaw);
                return Err(damaged(key, &flaw));
            }
        }
        Ok(None)
    }

    fn found(&self, key: Key, entry: Entry, header: Header, payload: Bytes) -> Result<Option<Found>> {
        if entry.form == Form::Record {
            return Ok(Some(Found::Record(header, payload)));
        }
        let pieces = Pieces::decode(&payload, header.size).ok_or_else(|| {
            self.quarantine(key, &entry, "its list of pieces is none");
            damaged(key, "its list of pieces is none")
        })?;
        match self.medium.open(self.layout.blob_path(key, header.encoding)) {
            Ok(disk) => {
                let (disk, pieces) = (Arc::new(disk), Arc::new(pieces));
                Ok(Some(Found::File(Opened { key, entry, disk, pieces, encoding: header.encoding })))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.lost(key, &entry);
                Ok(None)
            }
            Err(error) => Err(storage_error("opening a file", error)),
        }
    }

    /// Forgets a blob whose file somebody removed behind the store's back.
    fn lost(&self, key: Key, found: &Entry) {
        if !self.names.begin_removal(key) {
            // It comes anew this moment, or goes.
            return std::thread::yield_now();
        }
        let mut hold = Hold::Free;
        let still_gone = self.file_paths(key).iter().all(|path| !path.exists());
        let removed = self.table.remove(&key, |entry, touch| {
            hold = self.leases.judge().hold(touch);
            still_gone && entry.place == found.place
        });
        if let Some(entry) = removed {
            tracing::error!(?key, "the file of a blob was removed behind the store's back");
            self.usage.replaced(Some(&entry), None);
            self.counters.lost.fetch_add(1, Relaxed);
            if hold == Hold::Hard {
                self.counters.violations.fetch_add(1, Relaxed);
            }
            self.log_removal(&[key]);
        }
        self.names.end_removal(key);
    }
}

pub(super) fn not_found(key: Key, size: u64) -> Error {
    match key.digest(size) {
        Some(digest) => Error::not_found("blob", digest),
        None => Error::not_found(key.space.name(), key.hex()),
    }
}

fn damaged(key: Key, why: &str) -> Error {
    tracing::debug!(?key, why, "damaged");
    let (what, name) = (if key.space.function().is_some() { "blob" } else { key.space.name() }, key.hex());
    Error::new(Kind::DataLoss {
        message: format!("{what} `{name}` was damaged in the store and is missing from now on"),
    })
}

/// Reads a part of a file, piece by piece.
struct Reader {
    shared: Arc<Shared>,
    opened: Opened,
    /// What is left to read, in bytes of the content.
    part: ops::Range<u64>,
    encoding: Encoding,
}

impl Reader {
    /// The next piece, in the encoding that is wanted. Blocks.
    fn step(&mut self) -> Result<Bytes> {
        let index = (self.part.start / PIECE) as usize;
        let start = index as u64 * PIECE;
        let end = (start + PIECE).min(self.opened.entry.size);
        let bytes = self.shared.piece(&self.opened, index)?;
        let from = (self.part.start - start) as usize;
        let to = (self.part.end.min(end) - start) as usize;
        self.part.start = start + to as u64;
        let is_whole = from == 0 && to as u64 == end - start;
        if is_whole && self.opened.encoding == self.encoding {
            return Ok(bytes);
        }
        let content =
            self.shared.content_of_piece(&self.opened, bytes, (end - start) as usize)?.slice(from..to);
        match self.encoding {
            Encoding::Identity => Ok(content),
            Encoding::Zstd => {
                let frame = frames::deflate(&content);
                Ok(frame.map_err(|flaw| damaged(self.opened.key, &flaw.to_string()))?.into())
            }
        }
    }

    /// The next piece, if it goes out as it lies on the disk and the page cache holds it: for so little no thread has to
    /// be woken.
    fn step_now(&mut self) -> Option<Bytes> {
        let index = (self.part.start / PIECE) as usize;
        let start = index as u64 * PIECE;
        let end = (start + PIECE).min(self.opened.entry.size);
        let is_whole = self.part.start == start && self.part.end >= end;
        if !is_whole || self.opened.encoding != self.encoding {
            return None;
        }
        let (at, length) = self.opened.pieces.place(index);
        let bytes = self.shared.buffers.fill(length, |buffer| self.opened.disk.fill_now(at, buffer))?;
        if !self.opened.pieces.matches(index, &bytes, self.shared.secret) {
            // Reported by who reads it once more, on a thread that may block.
            return None;
        }
        self.part.start = end;
        Some(bytes)
    }

    fn chunks(self) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        stream::unfold(Some(Next::Asked(self)), |next| async move { next?.piece().await })
    }

    /// Begins to read the next piece.
    fn begin(mut self) -> Hop<(Bytes, Self)> {
        hop(move || self.step().map(|piece| (piece, self)))
    }
}

/// Where the next piece comes from.
enum Next {
    /// It is read when it is wanted.
    Asked(Reader),
    /// The last one had to be waited for, so this one is read ahead.
    Ahead(Hop<(Bytes, Reader)>),
}

impl Next {
    async fn piece(self) -> Option<(Result<Bytes>, Option<Self>)> {
        let coming = match self {
            Self::Asked(reader) if reader.part.is_empty() => return None,
            Self::Asked(mut reader) => match reader.step_now() {
                Some(piece) => return Some((Ok(piece), Some(Self::Asked(reader)))),
                None => reader.begin(),
            },
            Self::Ahead(coming) => coming,
        };
        Some(match coming.await {
            Ok((piece, reader)) if reader.part.is_empty() => (Ok(piece), None),
            Ok((piece, reader)) => (Ok(piece), Some(Self::Ahead(reader.begin()))),
            Err(error) => (Err(error), None),
        })
    }
}

impl Shared {
    /// One piece of a file as it is on disk, checked. Blocks.
    pub(super) fn piece(&self, opened: &Opened, index: usize) -> Result<Bytes> {
        let (at, length) = opened.pieces.place(index);
        let why = match opened.disk.read_at(at, length) {
            Ok(bytes) if opened.pieces.matches(index, &bytes, self.secret) => return Ok(bytes.into()),
            Ok(_) => format!("piece {index} of its file is damaged"),
            Err(error) if is_broken(&error) || error.kind() == io::ErrorKind::UnexpectedEof => {
                format!("piece {index} of its file cannot be read: {error}")
            }
            Err(error) => return Err(storage_error("reading a file", error)),
        };
        self.quarantine(opened.key, &opened.entry, &why);
        Err(damaged(opened.key, &why))
    }

    /// The content of a piece of so many bytes.
    pub(super) fn content_of_piece(&self, opened: &Opened, bytes: Bytes, length: usize) -> Result<Bytes> {
        match opened.encoding {
            Encoding::Identity => Ok(bytes),
            Encoding::Zstd => {
                let grown = frames::grow(&bytes, length);
                grown.map(Bytes::from).map_err(|flaw| damaged(opened.key, &flaw.to_string()))
            }
        }
    }

    /// Reads all of a file. Blocks.
    pub(super) fn check_file(&self, opened: &Opened) -> Result<()> {
        (0..opened.pieces.len()).try_for_each(|index| self.piece(opened, index).map(drop))
    }
}
