//! Large blobs: each a file of its own, written under a passing name, hashed as it comes, made durable, given its
//! name, and then told of by a record in a segment.
//!
//! A name that somebody needs is held: nobody takes it away meanwhile, and who takes it away lets nobody else at it
//! until that is done.

use super::{
    BLOCK, Shared,
    frame::Role,
    key::Key,
    leases::Stamp,
    log::{Append, answered_blocking},
    medium::Disk,
    pieces::{Cutter, PIECE, Pieces},
    room::Reservation,
};
use crate::intake::Intake;
use bytes::Bytes;
use mortar_model::{Blame, Digest, Encoding, Error, Hasher, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc, time::Duration};

/// Blobs may be linked into input roots, where they are read and run but never written.
pub(super) const MODE: u32 = 0o555;
/// After this time a full disk may have been cleared.
const FULL_DISK_RETRY: Duration = Duration::from_secs(10);
/// While more comes, so many bytes are made durable beside it, so that little is left for the end.
const SYNC_EVERY: u64 = 32 << 20;

/// Takes the bytes of one blob into a file. All methods block.
pub(super) struct Sink {
    digest: Digest,
    hasher: Hasher,
    cutter: Cutter,
    draft: Draft,
    stamp: Stamp,
}

impl Sink {
    pub fn create(shared: Arc<Shared>, digest: Digest, stamp: Stamp) -> Result<Self> {
        shared.check_fits(digest.size())?;
        let draft = Draft::create(shared.clone(), shared.layout.temp_path(), false)?;
        Ok(Self::over(draft, shared.secret, digest, stamp))
    }

    /// As `create`, with a file that outlives the process. If it was `left` by an earlier run, what it holds is taken.
    pub fn resumable(
        shared: Arc<Shared>,
        digest: Digest,
        stamp: Stamp,
        path: PathBuf,
        left: bool,
    ) -> Result<Self> {
        shared.check_fits(digest.size())?;
        if !left {
            let draft = match Draft::try_create(shared.clone(), path, true) {
                // One of that name was given up this moment, and its file still goes. This one need not outlive the process.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Draft::create(shared.clone(), shared.layout.temp_path(), false)?
                }
                draft => draft.map_err(|error| storage_error("creating a file", error))?,
            };
            return Ok(Self::over(draft, shared.secret, digest, stamp));
        }
        let draft = Draft::resume(shared.clone(), path)?;
        let mut sink = Self::over(draft, shared.secret, digest, stamp);
        while sink.taken() < sink.draft.length {
            let length = (sink.draft.length - sink.taken()).min(PIECE);
            let read = sink.draft.disk().read_at(sink.taken(), length as usize);
            let bytes = read.map_err(|error| storage_error("reading an upload", error))?;
            sink.hasher.update(&bytes);
            sink.cutter.update(&bytes);
        }
        Ok(sink)
    }

    fn over(draft: Draft, secret: u64, digest: Digest, stamp: Stamp) -> Self {
        let (hasher, cutter) = (Hasher::new(digest.function()), Cutter::new(secret));
        Self { digest, hasher, cutter, draft, stamp }
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
            self.cutter.update(piece);
            self.draft.append(piece)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let actual = self.hasher.finish();
        if actual != self.digest {
            return Err(Error::mismatch(self.digest, actual.to_string(), Blame::Client));
        }
        self.draft.publish(self.digest, Encoding::Identity, &self.cutter.finish(), self.stamp, None)
    }

    fn taken(&self) -> u64 {
        self.hasher.size()
    }
}

/// A file on its way into the store. Dropping it removes it.
pub(super) struct Draft {
    shared: Arc<Shared>,
    /// Absent once it has its name.
    disk: Option<Disk>,
    length: u64,
    synced: u64,
    /// It stays for the next run if this one ends.
    outlives: bool,
    room: Reservation,
}

impl Draft {
    pub fn create(shared: Arc<Shared>, path: PathBuf, outlives: bool) -> Result<Self> {
        Self::try_create(shared, path, outlives).map_err(|error| storage_error("creating a file", error))
    }

    fn try_create(shared: Arc<Shared>, path: PathBuf, outlives: bool) -> io::Result<Self> {
        let disk = shared.medium.create(path, MODE)?;
        let room = Reservation::none(shared.clone());
        Ok(Self { shared, disk: Some(disk), length: 0, synced: 0, outlives, room })
    }

    fn resume(shared: Arc<Shared>, path: PathBuf) -> Result<Self> {
        let failed = |error| storage_error("opening an upload", error);
        let disk = shared.medium.open_to_write(path).map_err(failed)?;
        let length = disk.length().map_err(failed)?;
        let mut room = Reservation::none(shared.clone());
        room.reach(length.next_multiple_of(BLOCK))?;
        Ok(Self { shared, disk: Some(disk), length, synced: 0, outlives: true, room })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.length + bytes.len() as u64;
        self.room.reach(end.next_multiple_of(BLOCK))?;
        let write = self.disk().write_at(bytes, self.length);
        write.map_err(|error| storage_error("writing a file", error))?;
        self.length = end;
        if end - self.synced >= SYNC_EVERY {
            self.disk().sync().map_err(|error| storage_error("writing a file durably", error))?;
            self.synced = end;
        }
        Ok(())
    }

    /// Makes the file the blob's, in this encoding. `instead_of`: only in place of this record's file.
    pub fn publish(
        mut self,
        digest: Digest,
        encoding: Encoding,
        pieces: &Pieces,
        stamp: Stamp,
        instead_of: Option<(super::frame::Place, u64)>,
    ) -> Result<()> {
        self.disk().sync().map_err(|error| storage_error("writing a file durably", error))?;
        let _held = self.shared.names.clone().hold(Key::of(digest));
        let placed = self.place(digest, encoding, pieces, stamp, instead_of)?;
        if placed && encoding == Encoding::Identity {
            // Who came upon the compressed file in between has it open, or looks again.
            let compressed = self.shared.layout.blob_path(Key::of(digest), Encoding::Zstd);
            if compressed.exists() && self.shared.medium.remove(&compressed).is_err() {
                self.shared.suspect(Key::of(digest));
            }
        }
        Ok(())
    }

    /// As `publish`, where the file is durable and the name in the caller's hands. Whether it was needed.
    pub fn place(
        &mut self,
        digest: Digest,
        encoding: Encoding,
        pieces: &Pieces,
        stamp: Stamp,
        instead_of: Option<(super::frame::Place, u64)>,
    ) -> Result<bool> {
        let (shared, key) = (self.shared.clone(), Key::of(digest));
        let target = shared.layout.blob_path(key, encoding);
        let named = self.give_name(&target).inspect_err(|_| shared.suspect(key));
        named.map_err(|error| storage_error("publishing a file", error))?;
        let append = Append {
            role: Role::File,
            key,
            encoding,
            size: digest.size(),
            payload: pieces.encode().into(),
            blocks: u32::try_from(self.length.div_ceil(BLOCK)).unwrap_or(u32::MAX),
            stamp,
            incompressible: false,
            instead_of,
        };
        let appended = shared.log.append([append]).pop().map(answered_blocking);
        let outcome = appended.expect("one was handed in");
        if !matches!(outcome, Ok(Some(_))) {
            // Not at once: another writer of the same blob may count on this name.
            shared.suspect(key);
        }
        self.room.release();
        outcome.map(|place| place.is_some())
    }

    fn give_name(&mut self, target: &std::path::Path) -> io::Result<()> {
        let medium = &self.shared.medium;
        let from = self.disk().path().to_path_buf();
        let directory = target.parent().expect("a blob's path has a directory");
        match medium.rename(&from, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                directory.parent().map_or(Ok(()), |above| medium.sync_directory(above))?;
                medium.rename(&from, target)?;
            }
            done => done?,
        }
        self.disk = None;
        medium.sync_directory(directory)
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the file is open until it has its name")
    }
}

impl Drop for Draft {
    /// A dropped future can clean up in no other way. Freeing a large file takes time, so not on the reactor.
    fn drop(&mut self) {
        let Some(disk) = self.disk.take() else { return };
        if self.outlives && self.shared.keeper.is_stopped() {
            return;
        }
        let remove = move || {
            let _ = fs::remove_file(disk.path());
            drop(disk);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Who needs which file where it is.
#[derive(Default)]
pub(super) struct Names {
    held: Mutex<HashMap<Key, Holders>>,
    released: Condvar,
}

enum Holders {
    Some(usize),
    /// It is being taken away.
    Removing,
}

impl Names {
    /// Holds a name, having waited until nobody takes it away. Blocks.
    pub fn hold(self: &Arc<Self>, key: Key) -> Held {
        let mut held = self.held.lock();
        loop {
            match held.entry(key).or_insert(Holders::Some(0)) {
                Holders::Some(holders) => {
                    *holders += 1;
                    return Held { names: self.clone(), key };
                }
                Holders::Removing => self.released.wait(&mut held),
            }
        }
    }

    /// Takes hold of a name to take it away; not while others need it.
    pub fn begin_removal(&self, key: Key) -> bool {
        let mut held = self.held.lock();
        let free = !held.contains_key(&key);
        if free {
            held.insert(key, Holders::Removing);
        }
        free
    }

    pub fn end_removal(&self, key: Key) {
        self.held.lock().remove(&key);
        self.released.notify_all();
    }
}

/// A name that stays while this lives.
pub(super) struct Held {
    names: Arc<Names>,
    key: Key,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.names.held.lock();
        if let Some(Holders::Some(holders)) = held.get_mut(&self.key) {
            *holders -= 1;
            if *holders == 0 {
                held.remove(&self.key);
            }
        }
    }
}

impl Shared {
    /// Where the file of a blob may lie.
    pub(super) fn file_paths(&self, key: Key) -> [PathBuf; 2] {
        [Encoding::Identity, Encoding::Zstd].map(|encoding| self.layout.blob_path(key, encoding))
    }
}

/// What a remote user is told of a failed file operation: no paths, and whether to come again.
pub(super) fn storage_error(action: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(Kind::ResourceExhausted {
            message: format!("the server's disk is full ({action})"),
            retry_after: Some(FULL_DISK_RETRY),
        }),
        _ => Error::io(format!("{action} of the store"), error),
    }
}
