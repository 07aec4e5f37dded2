//! The files of the cache: one for each content and execute bit, however many directories hold it, of which each has a
//! link. Each is read-only and belongs to the worker.
//!
//! This is what is known of them; `build` makes them. A file stays while something uses it. It is named by a number of
//! its own, so that one on its way out is never mistaken for the one that takes its place.

use mortar_model::Digest;
use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files in directories that follow each other, and such directories that are filled at the same time: so what is made
/// together lies together on disk, and threads do not wait for each other's.
const RUN: u64 = 4096;
const ABREAST: u64 = 8;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
}

impl FileKey {
    /// Nobody may write to it, its owner neither.
    pub fn mode(&self) -> u32 {
        if self.is_executable { 0o555 } else { 0o444 }
    }

    /// What it takes on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.digest.size().next_multiple_of(super::BLOCK)
    }
}

/// Which files there are. The caller sees to it that one at a time has it.
#[derive(Debug, Default)]
pub struct Pool {
    files: HashMap<FileKey, Pooled>,
    next: u64,
}

#[derive(Debug)]
struct Pooled {
    number: u64,
    uses: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody makes it.
    Coming,
    /// There it is, and looked so; perhaps the store has it too.
    Ready(Look, bool),
    /// It is not to be used again: it was changed, or what it shares with the store was found damaged.
    Spoilt,
}

/// What tells whether a file was changed or replaced. Links come and go, and change nothing of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    mode: u32,
}

impl Look {
    /// How it looks now.
    pub fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), length: metadata.len(), modified, mode: metadata.mode() }
    }
}

/// What somebody who needs a file is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Link to it, if it looks so.
    Link {
        /// Which.
        number: u64,
        /// How it looked when it was made.
        look: Look,
        /// The store has the same file.
        is_lent: bool,
    },
    /// Make the file of this number, say so, and link to it.
    Make(u64),
    /// Make a file of one's own: another one makes it this moment, or it is spoilt.
    Apart,
}

impl Pool {
    /// Takes a use of a file, to be given back with `release` unless it is `Apart`.
    pub fn claim(&mut self, key: FileKey) -> Claim {
        if let Some(pooled) = self.files.get_mut(&key) {
            let State::Ready(look, is_lent) = pooled.state else { return Claim::Apart };
            pooled.uses += 1;
            return Claim::Link { number: pooled.number, look, is_lent };
        }
        let number = self.next;
        self.next += 1;
        self.files.insert(key, Pooled { number, uses: 1, state: State::Coming });
        Claim::Make(number)
    }

    /// It was made; `is_lent`: the store has the same file.
    pub fn made(&mut self, key: &FileKey, look: Look, is_lent: bool) {
        if let Some(pooled) = self.files.get_mut(key).filter(|pooled| pooled.state == State::Coming) {
            pooled.state = State::Ready(look, is_lent);
        }
    }

    /// Nobody is to use it again.
    pub fn spoil(&mut self, key: &FileKey) {
        if let Some(pooled) = self.files.get_mut(key) {
            pooled.state = State::Spoilt;
        }
    }

    /// Gives a use back; the number of the file if that was the last one: it is to be removed.
    pub fn release(&mut self, key: &FileKey) -> Option<u64> {
        let pooled = self.files.get_mut(key)?;
        pooled.uses -= 1;
        if pooled.uses > 0 {
            return None;
        }
        self.files.remove(key).map(|pooled| pooled.number)
    }
}

/// Where the file of a number lies.
pub fn path(pool: &Path, number: u64) -> PathBuf {
    pool.join(format!("{}-{}", number / RUN, number % ABREAST)).join(number.to_string())
}
