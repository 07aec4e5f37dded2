//! How a file comes into the store: written under a passing name, made durable, then given its name, whose
//! directory is made durable too. Only then is it acknowledged, or called present to others.

use super::{
    Shared,
    eviction::Reservation,
    index::{Entry, Stamp, footprint},
    layout::{Key, sync_directory},
    temp::{TempFile, storage_error},
};
use crate::{
    blocking,
    intake::{self, Intake},
};
use bytes::Bytes;
use mortar_model::{Blame, Blob, Digest, Error, Hasher, Result};
use std::{fs, sync::Arc};

/// Takes the bytes of one blob. All methods block.
pub(super) struct Sink {
    digest: Digest,
    hasher: Hasher,
    draft: Draft,
}

impl Sink {
    pub fn create(shared: Arc<Shared>, digest: Digest) -> Result<Self> {
        shared.check_fits(digest.size())?;
        let draft = Draft::create(shared, Key::of(digest))?;
        Ok(Self { digest, hasher: Hasher::new(digest.function()), draft })
    }
}

impl Intake for Sink {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        let length = self.hasher.size() + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if length > self.digest.size() {
            return Err(Error::mismatch(self.digest, format!("at least {length} bytes"), Blame::Client));
        }
        for piece in pieces {
            self.hasher.update(piece);
            self.draft.append(piece)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let actual = self.hasher.finish();
        if actual != self.digest {
            return Err(Error::mismatch(self.digest, actual.to_string(), Blame::Client));
        }
        self.draft.publish()
    }
}

/// A file on its way into the store, whatever is in it.
pub(super) struct Draft {
    shared: Arc<Shared>,
    key: Key,
    temp: TempFile,
    length: u64,
    room: Reservation,
}

impl Draft {
    pub fn create(shared: Arc<Shared>, key: Key) -> Result<Self> {
        let temp = TempFile::create(shared.layout.temp_path())?;
        let room = Reservation::new(shared.clone());
        Ok(Self { shared, key, temp, length: 0, room })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.room.reach(self.length + bytes.len() as u64)?;
        self.temp.append(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file part of the store, in place of an older one.
    pub fn publish(mut self) -> Result<()> {
        self.room.reach(self.length)?;
        self.temp.sync()?;
        let metadata = self.temp.file().metadata();
        let metadata = metadata.map_err(|error| storage_error("writing a file", error))?;
        let (shared, key) = (self.shared, self.key);
        let path = shared.layout.path(key);
        let now = shared.now();
        let entry = Entry {
            footprint: footprint(self.length),
            used: now,
            noted: now,
            checked: Some(Stamp::of(&metadata)),
            pins: 0,
            settled: false,
        };
        {
            // So that nobody evicts the older file and takes this one.
            let _names = shared.names.lock();
            self.temp.publish(&path)?;
            let mut index = shared.index.lock();
            self.room.release(&mut index);
            index.insert(key, entry);
        }
        if let Err(error) = path.parent().map_or(Ok(()), sync_directory) {
            shared.forget(key, || fs::remove_file(&path).is_ok());
            return Err(storage_error("writing a directory durably", error));
        }
        if let Some(entry) = shared.index.lock().get_mut(key) {
            entry.settled = true;
        }
        shared.expire_uploads();
        Ok(())
    }
}

impl Shared {
    /// Keeps a blob, unless it is here.
    pub async fn write_blob(self: &Arc<Self>, digest: Digest, blob: Blob) -> Result<()> {
        if blob.len() != digest.size() {
            return Err(Error::mismatch(digest, format!("{} bytes", blob.len()), Blame::Client));
        }
        if digest.is_empty() {
            return Ok(());
        }
        self.check_fits(digest.size())?;
        let shared = self.clone();
        if let Some(bytes) = blob.as_bytes().cloned() {
            return blocking::hop(move || {
                if shared.present(digest, true) {
                    return Ok(());
                }
                let mut sink = Sink::create(shared, digest)?;
                sink.take(&[bytes])?;
                sink.finish()
            })
            .await;
        }
        let begin = move || match shared.present(digest, true) {
            true => Ok(None),
            false => Sink::create(shared, digest).map(Some),
        };
        match blocking::hop(begin).await? {
            Some(sink) => intake::stream_into(sink, blob).await,
            None => Ok(()),
        }
    }
}
