//! Blobs as files, for input roots and mounts: those that are files of their own as they are, of all others a file that
//! is made of them. Such files are read-only, counted as what the store takes, dropped before anything else, and not
//! kept over a restart.

use super::{
    BLOCK, Shared,
    files::{MODE, storage_error},
    key::Key,
    leases::Stamp,
    read::{Found, Opened},
    room::Reservation,
    usage,
};
use crate::blocking::hop;
use mortar_model::{Digest, Encoding, LocalFile, Result};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Default)]
pub(super) struct MadeFiles {
    files: Mutex<HashMap<Key, Made>>,
    uses: AtomicU64,
    /// Files of blobs that were read whole by this process, as they were then.
    checked: Mutex<HashMap<Key, Look>>,
}

struct Made {
    bytes: u64,
    holders: usize,
    /// Counts uses of all of them.
    used: u64,
    /// As it was when it was made.
    look: Look,
}

/// What tells whether a file was changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), length: metadata.len(), changed }
    }
}

/// So many checked files are remembered.
const MAX_CHECKED: usize = 100_000;

impl MadeFiles {
    /// Whether the blob's own file was lent by this process: likely it will be again.
    pub fn was_lent(&self, key: &Key) -> bool {
        self.checked.lock().contains_key(key)
    }
}

impl Shared {
    /// A file with the blob's content, which stays until the answer is dropped.
    pub(super) async fn lend_file(
        self: &Arc<Self>,
        digest: Digest,
        stamp: Stamp,
    ) -> Result<Option<LocalFile>> {
        let shared = self.clone();
        hop(move || shared.lend(digest, stamp)).await
    }

    fn lend(self: &Arc<Self>, digest: Digest, stamp: Stamp) -> Result<Option<LocalFile>> {
        let key = Key::of(digest);
        let entry = self.look(&key, stamp).filter(|entry| entry.size == digest.size());
        if entry.is_none() && !digest.is_empty() {
            return Ok(None);
        }
        // First, so that neither goes between the look and the answer.
        let held = self.names.hold(key);
        if let Some(path) = self.checked_file(key) {
            return Ok(Some(LocalFile::new(path, Arc::new(held))));
        }
        if let Some(file) = self.hold_made(key) {
            return Ok(Some(file));
        }
        if digest.is_empty() {
            return self.make(key, 0, |_| Ok(())).map(Some);
        }
        match self.find_blocking(key, Some(digest.size()), stamp)? {
            None => Ok(None),
            Some(Found::File(opened)) if opened.encoding == Encoding::Identity => {
                self.check(key, &opened)?;
                let path = self.layout.blob_path(key, Encoding::Identity);
                Ok(Some(LocalFile::new(path, Arc::new(held))))
            }
            Some(Found::File(opened)) => {
                let each = |write: &mut dyn FnMut(&[u8]) -> Result<()>| {
                    for index in 0..opened.pieces.len() {
                        let length = digest.size() - index as u64 * super::pieces::PIECE;
                        let bytes = self.piece(&opened, index)?;
                        let length = length.min(super::pieces::PIECE) as usize;
                        write(&self.content_of_piece(&opened, bytes, length)?)?;
                    }
                    Ok(())
                };
                self.make(key, digest.size(), each).map(Some)
            }
            Some(Found::Record(header, payload)) => {
                let content = self.content(&header, payload)?;
                self.make(key, digest.size(), |write| write(&content)).map(Some)
            }
        }
    }

    /// The blob's own file, if this process has read all of it and it was not changed since.
    fn checked_file(&self, key: Key) -> Option<PathBuf> {
        let known = self.made.checked.lock().get(&key).copied()?;
        let path = self.layout.blob_path(key, Encoding::Identity);
        let now = fs::symlink_metadata(&path).ok()?;
        (Look::of(&now) == known).then_some(path)
    }

    fn check(&self, key: Key, opened: &Opened) -> Result<()> {
        self.check_file(opened)?;
        if let Ok(metadata) = opened.disk.file().metadata() {
            let mut checked = self.made.checked.lock();
            if checked.len() >= MAX_CHECKED {
                checked.clear();
            }
            checked.insert(key, Look::of(&metadata));
        }
        Ok(())
    }

    fn hold_made(self: &Arc<Self>, key: Key) -> Option<LocalFile> {
        let mut files = self.made.files.lock();
        let used = self.made.uses.fetch_add(1, Relaxed);
        let made = files.get_mut(&key)?;
        let path = self.layout.made_path(key);
        let now = fs::symlink_metadata(&path).ok()?;
        if Look::of(&now) != made.look {
            tracing::error!(?key, "a file that was made of a blob was changed behind the store's back");
            return None;
        }
        (made.holders, made.used) = (made.holders + 1, used);
        Some(LocalFile::new(path, Arc::new(MadeHold { shared: self.clone(), key })))
    }

    fn make(
        self: &Arc<Self>,
        key: Key,
        size: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<LocalFile> {
        let bytes = size.next_multiple_of(BLOCK).max(BLOCK);
        let mut room = Reservation::none(self.clone());
        room.reach(bytes)?;
        let passing = self.layout.temp_path();
        let failed = |error| storage_error("making a file", error);
        let disk = self.medium.create(passing.clone(), MODE).map_err(failed)?;
        let mut length = 0;
        let filled = fill(&mut |bytes| {
            disk.write_at(bytes, length).map_err(failed)?;
            length += bytes.len() as u64;
            Ok(())
        });
        let path = self.layout.made_path(key);
        let mut files = self.made.files.lock();
        let named = filled.and_then(|()| {
            let metadata = disk.file().metadata().map_err(failed)?;
            self.medium.rename(&passing, &path).map_err(failed)?;
            Ok(Look::of(&metadata))
        });
        let look = named.inspect_err(|_| drop(fs::remove_file(&passing)))?;
        let used = self.made.uses.fetch_add(1, Relaxed);
        let made = files.entry(key).or_insert_with(|| {
            usage::add(&self.usage.made, bytes as i64);
            Made { bytes, holders: 0, used, look }
        });
        made.look = look;
        made.holders += 1;
        Ok(LocalFile::new(path, Arc::new(MadeHold { shared: self.clone(), key })))
    }

    /// Drops made files that nobody holds, those first that were not used for longest, until so much is freed.
    pub(super) fn drop_made_files(&self, needed: u64) {
        let mut files = self.made.files.lock();
        let mut idle: Vec<_> = files.iter().filter(|(_, made)| made.holders == 0).collect();
        idle.sort_by_key(|(_, made)| made.used);
        let mut left = needed;
        let going: Vec<(Key, u64)> = idle
            .into_iter()
            .take_while(|(_, made)| {
                let more = left > 0;
                left = left.saturating_sub(made.bytes);
                more
            })
            .map(|(key, made)| (*key, made.bytes))
            .collect();
        for (key, bytes) in going {
            files.remove(&key);
            // Within the lock, so that nobody makes it anew before it is gone.
            let _ = self.medium.remove(&self.layout.made_path(key));
            usage::add(&self.usage.made, -(bytes as i64));
        }
    }
}

struct MadeHold {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for MadeHold {
    fn drop(&mut self) {
        if let Some(made) = self.shared.made.files.lock().get_mut(&self.key) {
            made.holders -= 1;
        }
    }
}
