//! What the store takes on disk, kept exact by those who change it.

use super::{
    BLOCK,
    table::{Entry, Form},
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What entries of the index stand for, or by how much that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Bytes of files.
    pub files: i64,
    /// Blobs, results, values.
    pub counts: [i64; 3],
}

impl Figures {
    pub fn add(&mut self, entry: &Entry, sign: i64) {
        self.files += sign * file_bytes(entry) as i64;
        if let Some(kind) = counted(entry) {
            self.counts[kind] += sign;
        }
    }

    /// These and others, the latter as many times.
    pub fn plus(self, other: Self, times: i64) -> Self {
        let counts = std::array::from_fn(|kind| self.counts[kind] + times * other.counts[kind]);
        Self { files: self.files + times * other.files, counts }
    }
}

/// Which of the figures counts an entry.
fn counted(entry: &Entry) -> Option<usize> {
    use super::key::Space;
    match entry.space {
        Space::Sha256 | Space::Blake3 => Some(0),
        Space::Result => Some(1),
        Space::Value => Some(2),
        Space::Producer | Space::Recipe | Space::Pin => None,
    }
}

/// Bytes and numbers of things.
#[derive(Default)]
pub(super) struct Usage {
    /// Blobs that are files of their own. Signed, as are the numbers: until all is counted, they may be short of what is
    /// taken away.
    files: AtomicI64,
    /// Files made of blobs that are none, for those who need files.
    pub made: AtomicU64,
    /// Writes that were begun, and room that is kept for them.
    pub in_flight: AtomicU64,
    pub quarantine: AtomicU64,
    /// Blobs, results, values.
    counts: [AtomicI64; 3],
    /// As they were taken over from the last run.
    restored: Mutex<Figures>,
}

impl Usage {
    /// An entry of the index took the place of another.
    pub fn replaced(&self, before: Option<&Entry>, after: Option<&Entry>) {
        for (entry, sign) in before.map(|entry| (entry, -1)).into_iter().chain(after.map(|entry| (entry, 1)))
        {
            self.files.fetch_add(sign * file_bytes(entry) as i64, Relaxed);
            if let Some(kind) = counted(entry) {
                self.counts[kind].fetch_add(sign, Relaxed);
            }
        }
    }

    pub fn files(&self) -> u64 {
        self.files.load(Relaxed).max(0) as u64
    }

    /// Takes up the figures of an earlier run.
    pub fn restore(&self, files: u64, counts: [u64; 3]) {
        let restored = Figures { files: files as i64, counts: counts.map(|count| count as i64) };
        *self.restored.lock() = Figures::default();
        self.correct(restored);
    }

    /// Puts the figures right, now that it is known what they should have been when they were taken over.
    pub fn correct(&self, restored: Figures) {
        let mut before = self.restored.lock();
        let error = restored.plus(*before, -1);
        self.files.fetch_add(error.files, Relaxed);
        for (count, error) in self.counts.iter().zip(error.counts) {
            count.fetch_add(error, Relaxed);
        }
        *before = restored;
    }

    /// All was counted while nothing changed.
    pub fn set(&self, counted: Figures) {
        self.files.store(counted.files, Relaxed);
        for (count, counted) in self.counts.iter().zip(counted.counts) {
            count.store(counted, Relaxed);
        }
    }

    pub fn counts(&self) -> [u64; 3] {
        [0, 1, 2].map(|kind| self.counts[kind].load(Relaxed).max(0) as u64)
    }

    /// All but segments and index.
    pub fn beside_segments(&self) -> u64 {
        let parts = [&self.made, &self.in_flight, &self.quarantine].map(|part| part.load(Relaxed));
        self.files() + parts.iter().sum::<u64>()
    }
}

/// What the file of an entry takes.
pub(super) fn file_bytes(entry: &Entry) -> u64 {
    match entry.form {
        Form::File => u64::from(entry.stored) * BLOCK,
        Form::Record => 0,
    }
}

/// Adds, or takes away without going below nothing.
pub(super) fn add(count: &AtomicU64, change: i64) {
    let _ = count.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_add_signed(change)));
}
