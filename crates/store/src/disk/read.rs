//! How blobs are read: a file is opened once, so that nothing done to its name matters, and read and hashed in
//! pieces on blocking threads, one piece ahead of the reader. The last piece passes only if the whole matches.
//!
//! A part of a blob, or a file that is handed out, is checked as a whole first, unless this process has done so
//! since the file was last changed.

use super::{
    Shared,
    index::{Entry, Stamp},
    layout::Key,
    temp::storage_error,
    write::Sink,
};
use crate::{
    blocking::{Hop, PIECE, hop},
    intake::Intake,
};
use bytes::Bytes;
use futures::{Stream, stream};
use mortar_model::{Blob, Digest, Error, Hasher, Kind, LocalFile, Range, Result};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    sync::Arc,
};

/// Pieces that are checked in one hop when nobody waits for the bytes themselves.
const PIECES_A_HOP: usize = 16;

impl Shared {
    /// The bytes of a blob within a range. `keep`: the caller builds on it.
    pub async fn read_blob(self: &Arc<Self>, digest: Digest, range: Range, keep: bool) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        if digest.is_empty() {
            return Ok(Blob::bytes(Bytes::new()));
        }
        let shared = self.clone();
        if digest.size() <= PIECE as u64 {
            let whole = hop(move || Reader::open(shared, digest, keep)?.step()).await?;
            return Ok(Blob::bytes(whole.slice(offset as usize..(offset + length) as usize)));
        }
        let mut reader = hop(move || Reader::open(shared, digest, keep)).await?;
        if length < digest.size() {
            reader = if length > 0 { reader.checked().await? } else { reader };
            reader = reader.part(offset, length);
        }
        Ok(Blob::stream(length, reader.chunks()))
    }

    /// The file of a blob, which stays under its name until the answer is dropped.
    pub async fn lend_file(self: &Arc<Self>, digest: Digest, keep: bool) -> Result<Option<LocalFile>> {
        let shared = self.clone();
        let opened = hop(move || {
            let Some(lease) = Lease::take(&shared, digest, keep)? else { return Ok(None) };
            if shared.was_checked(digest) {
                return Ok(Some((lease, None)));
            }
            match Reader::open(shared, digest, keep) {
                Ok(reader) => Ok(Some((lease, Some(reader)))),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        });
        let Some((lease, reader)) = opened.await? else { return Ok(None) };
        if let Some(reader) = reader {
            reader.checked().await?;
        }
        Ok(Some(LocalFile::new(self.layout.path(Key::of(digest)), Arc::new(lease))))
    }

    /// Whether this process has checked the file, and it is as it was then; it need not be opened to know. Blocks.
    fn was_checked(&self, digest: Digest) -> bool {
        let metadata = fs::symlink_metadata(self.layout.path(Key::of(digest)));
        let checked = || self.index.lock().get(Key::of(digest)).and_then(|entry| entry.checked);
        metadata.is_ok_and(|metadata| checked() == Some(Stamp::of(&metadata)))
    }

    /// Whether a blob is here. Blocks.
    pub fn present(&self, digest: Digest, keep: bool) -> bool {
        digest.is_empty() || self.has_file(digest, keep)
    }

    fn has_file(&self, digest: Digest, keep: bool) -> bool {
        let key = Key::of(digest);
        let known = self.touch(key, keep);
        if known == Some(false) {
            // It may be lost in a crash still, so nobody shall build on it.
            return false;
        }
        match fs::symlink_metadata(self.layout.path(key)) {
            Ok(metadata) if metadata.is_file() && metadata.len() == digest.size() => {
                // It may have come, or be about to go, this moment.
                known.is_some() || self.discover(key, Entry::found(metadata.len(), self.now(), 0))
            }
            Ok(_) => false,
            Err(error) => {
                self.file_failed(key, &error);
                false
            }
        }
    }

    /// The size of the blob with this name, going by its file.
    pub fn size_of(&self, key: Key, keep: bool) -> Option<u64> {
        if self.touch(key, keep) == Some(false) {
            return None;
        }
        let metadata = fs::symlink_metadata(self.layout.path(key));
        metadata.inspect_err(|error| self.file_failed(key, error)).ok().map(|metadata| metadata.len())
    }

    /// Makes a file known that was found on disk. Whether it is there, and its name durable.
    pub fn discover(&self, key: Key, entry: Entry) -> bool {
        let _names = self.names.lock();
        // Otherwise it was evicted since it was found.
        let there = self.layout.path(key).exists();
        there && self.index.lock().discover(key, entry)
    }

    /// Forgets what somebody removed behind the store's back.
    pub fn file_failed(&self, key: Key, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::NotFound => self.forget(key, || !self.layout.path(key).exists()),
            _ => tracing::error!(key = key.hex(), %error, "a file of the store could not be read"),
        }
    }

    /// Forgets a file if it is `gone`, which is asked when no writer can be about to publish it.
    pub fn forget(&self, key: Key, gone: impl FnOnce() -> bool) {
        let _names = self.names.lock();
        if gone() {
            self.index.lock().remove(key);
        }
    }
}

/// Reads one file from its begin to its end, or a part of a file that was checked. All but `chunks` and `checked`
/// block.
struct Reader {
    shared: Arc<Shared>,
    digest: Digest,
    file: File,
    stamp: Stamp,
    at: u64,
    end: u64,
    /// Absent where only a part is read.
    hasher: Option<Hasher>,
}

impl Reader {
    fn open(shared: Arc<Shared>, digest: Digest, keep: bool) -> Result<Self> {
        let key = Key::of(digest);
        let missing = || Error::not_found("blob", digest);
        let known = shared.touch(key, keep);
        let file = File::open(shared.layout.path(key)).map_err(|error| {
            shared.file_failed(key, &error);
            match error.kind() {
                io::ErrorKind::NotFound => missing(),
                _ => storage_error("opening a file", error),
            }
        })?;
        let metadata = file.metadata().map_err(|error| storage_error("opening a file", error))?;
        let hasher = Some(Hasher::new(digest.function()));
        let stamp = Stamp::of(&metadata);
        let mut reader = Self { shared, digest, file, stamp, at: 0, end: metadata.len(), hasher };
        if metadata.len() != digest.size() {
            // Either the file is damaged or the caller has the size wrong.
            reader.check_all()?;
            return Err(missing());
        }
        if known.is_none() {
            reader.shared.discover(key, Entry::found(metadata.len(), reader.shared.now(), 0));
        }
        Ok(reader)
    }

    /// Only these bytes, of a file that was checked.
    fn part(mut self, offset: u64, length: u64) -> Self {
        (self.at, self.end, self.hasher) = (offset, offset + length, None);
        self
    }

    /// The next piece.
    fn step(&mut self) -> Result<Bytes> {
        let mut piece = vec![0; (self.end - self.at).min(PIECE as u64) as usize];
        if let Err(error) = self.file.read_exact_at(&mut piece, self.at) {
            return Err(self.damaged(&error.to_string()));
        }
        self.at += piece.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
            if self.at == self.end {
                self.judge()?;
            }
        }
        Ok(piece.into())
    }

    /// The whole was read: does it match?
    fn judge(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let actual = hasher.finish();
        if actual.hash() != self.digest.hash() {
            return Err(self.damaged(&format!("its content is `{actual}`")));
        }
        if let Some(entry) = self.shared.index.lock().get_mut(Key::of(self.digest)) {
            entry.checked = Some(self.stamp);
        }
        Ok(())
    }

    fn damaged(&self, why: &str) -> Error {
        self.shared.quarantine(Key::of(self.digest), self.stamp, why);
        let message = format!("blob `{}` was damaged in the store and is missing from now on", self.digest);
        Error::new(Kind::DataLoss { message })
    }

    /// Reads the file to its end unless that was done before, with the file as it is.
    async fn checked(mut self) -> Result<Self> {
        let known = self.shared.index.lock().get(Key::of(self.digest)).and_then(|entry| entry.checked);
        if known == Some(self.stamp) {
            return Ok(self);
        }
        loop {
            let check = move || {
                let done = self.check_some()?;
                Ok((self, done))
            };
            let done;
            (self, done) = hop(check).await?;
            if done {
                return Ok(self);
            }
        }
    }

    fn check_all(&mut self) -> Result<()> {
        while !self.check_some()? {}
        Ok(())
    }

    /// Reads on for a while. True at the end, where all of it was found to match.
    fn check_some(&mut self) -> Result<bool> {
        for _ in 0..PIECES_A_HOP {
            // At least once, so that an empty file is judged too.
            self.step()?;
            if self.at == self.end {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn chunks(self) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::unfold(self.ahead(), |next| async move {
            match next?.await {
                Ok((piece, reader)) => Some((Ok(piece), reader.ahead())),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Begins to read the next piece, if there is one.
    fn ahead(mut self) -> Option<Hop<(Bytes, Self)>> {
        let more = self.at < self.end;
        more.then(|| hop(move || self.step().map(|piece| (piece, self))))
    }
}

/// Keeps a file from being evicted.
struct Lease {
    shared: Arc<Shared>,
    key: Key,
}

impl Lease {
    fn take(shared: &Arc<Shared>, digest: Digest, keep: bool) -> Result<Option<Self>> {
        if !shared.has_file(digest, keep) {
            if !digest.is_empty() {
                return Ok(None);
            }
            // The empty blob exists always, its file only now.
            Sink::create(shared.clone(), digest)?.finish()?;
        }
        let key = Key::of(digest);
        let mut index = shared.index.lock();
        let Some(entry) = index.get_mut(key) else { return Ok(None) };
        entry.pins += 1;
        Ok(Some(Self { shared: shared.clone(), key }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(entry) = self.shared.index.lock().get_mut(self.key) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }
}
