//! What is known in memory of the files of the store: size, last use, whether the content was checked. The files
//! are the truth; an entry that is absent says nothing until the walk has ended.
//!
//! Plain data behind one lock. Which entries go is decided in `eviction`, when entries come in `write` and `walk`.

use super::layout::{Key, Space};
use std::{
    collections::{BTreeSet, HashMap},
    fs::Metadata,
    os::unix::fs::MetadataExt,
};

/// Disk space is given in blocks; so that many small files are counted for what they take.
const BLOCK: u64 = 4096;

/// What a file of this length takes on disk, in bytes.
pub(super) fn footprint(length: u64) -> u64 {
    length.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

/// Nanoseconds since the epoch.
pub(super) type Time = u64;

/// Tells a file whose content was checked from one that was changed or replaced since.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), length: metadata.len(), changed }
    }

    /// Whether it is the same file, changed or not.
    pub fn same_file(self, other: Self) -> bool {
        self.inode == other.inode
    }
}

#[derive(Clone)]
pub(super) struct Entry {
    /// On disk, in bytes.
    pub footprint: u64,
    pub used: Time,
    /// The last use that the file itself remembers (as its atime).
    pub noted: Time,
    /// The file whose content was checked by this process.
    pub checked: Option<Stamp>,
    /// Who needs the file where it is.
    pub pins: u32,
    /// Its name is durable.
    pub settled: bool,
}

impl Entry {
    /// A file that was found.
    pub fn found(length: u64, used: Time, noted: Time) -> Self {
        Self { footprint: footprint(length), used, noted, checked: None, pins: 0, settled: true }
    }
}

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<Key, Entry>,
    order: BTreeSet<(Time, Key)>,
    counts: [u64; Space::ALL.len()],
    /// Of all entries.
    pub bytes: u64,
    /// Of files that are being written.
    pub in_flight: u64,
    /// Every file is known.
    pub complete: bool,
    pub evictions: u64,
    pub quarantined: u64,
}

impl Index {
    /// What the store takes, in bytes.
    pub fn total(&self) -> u64 {
        self.bytes + self.in_flight
    }

    pub fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// To change anything but `footprint` and `used`.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// Takes note of a use. Returns whether the file should be told.
    pub fn touch(&mut self, key: Key, now: Time, note_after: Time) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        self.order.remove(&(entry.used, key));
        entry.used = entry.used.max(now);
        self.order.insert((entry.used, key));
        let due = entry.used.saturating_sub(entry.noted) > note_after;
        if due {
            entry.noted = entry.used;
        }
        due
    }

    /// Adds an entry, in place of an older one, whose pins it takes over, and whose name: if that was durable it is
    /// now, whichever of the two files a crash leaves.
    pub fn insert(&mut self, key: Key, mut entry: Entry) {
        if let Some(older) = self.remove(key) {
            entry.pins += older.pins;
            entry.settled |= older.settled;
        }
        self.bytes += entry.footprint;
        self.counts[key.space as usize] += 1;
        self.order.insert((entry.used, key));
        self.entries.insert(key, entry);
    }

    /// Adds what was found on disk, unless it is known. Whether its name is durable.
    pub fn discover(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(known) = self.entries.get(&key) {
            return known.settled;
        }
        self.insert(key, entry);
        true
    }

    pub fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.order.remove(&(entry.used, key));
        self.bytes -= entry.footprint;
        self.counts[key.space as usize] -= 1;
        Some(entry)
    }

    /// The entry that was not used for longest, of those that may go.
    pub fn oldest(&self) -> Option<(Time, Key)> {
        let free = |key: &Key| self.entries.get(key).is_some_and(|entry| entry.pins == 0 && entry.settled);
        self.order.iter().find(|(_, key)| free(key)).copied()
    }

    /// How many entries there are of a kind.
    pub fn count(&self, space: Space) -> u64 {
        self.counts[space as usize]
    }
}
