//! What the store takes on disk, kept exact by those who change it.

use super::{
    BLOCK,
    table::{Entry, Form},
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes and numbers of things.
#[derive(Default)]
pub(super) struct Usage {
    /// Blobs that are files of their own.
    files: AtomicU64,
    /// Files made of blobs that are none, for those who need files.
    pub made: AtomicU64,
    /// Writes that were begun, and room that is kept for them.
    pub in_flight: AtomicU64,
    pub quarantine: AtomicU64,
    pub blobs: AtomicU64,
    pub results: AtomicU64,
    pub values: AtomicU64,
}

impl Usage {
    /// An entry of the index took the place of another.
    pub fn replaced(&self, before: Option<&Entry>, after: Option<&Entry>) {
        for (entry, sign) in before.map(|entry| (entry, -1)).into_iter().chain(after.map(|entry| (entry, 1)))
        {
            add(&self.files, sign * file_bytes(entry) as i64);
            if let Some(count) = self.count_of(entry) {
                add(count, sign);
            }
        }
    }

    fn count_of(&self, entry: &Entry) -> Option<&AtomicU64> {
        use super::key::Space;
        match entry.space {
            Space::Sha256 | Space::Blake3 => Some(&self.blobs),
            Space::Result => Some(&self.results),
            Space::Value => Some(&self.values),
            Space::Producer | Space::Recipe => None,
        }
    }

    pub fn files(&self) -> u64 {
        self.files.load(Relaxed)
    }

    /// Takes up the figures of an earlier run.
    pub fn restore(&self, files: u64, [blobs, results, values]: [u64; 3]) {
        self.files.store(files, Relaxed);
        self.blobs.store(blobs, Relaxed);
        self.results.store(results, Relaxed);
        self.values.store(values, Relaxed);
    }

    pub fn counts(&self) -> [u64; 3] {
        [&self.blobs, &self.results, &self.values].map(|count| count.load(Relaxed))
    }

    /// All but segments and index.
    pub fn beside_segments(&self) -> u64 {
        [&self.files, &self.made, &self.in_flight, &self.quarantine]
            .map(|part| part.load(Relaxed))
            .iter()
            .sum()
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
