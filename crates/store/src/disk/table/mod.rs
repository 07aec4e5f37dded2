//! The index: which things are kept, and where. Mapped files, so that opening it takes no time and its memory is the
//! page cache's; the uses of entries are in memory, four bytes each, so that a promise writes nothing.
//!
//! An entry is put in after what it tells of is durable. What a crash takes away of the index is found again in the
//! segments (`replay`), back to the last time that it was made durable (`flush`).

mod map;
mod shard;
mod slot;

use super::{key::Key, medium::Medium};
use parking_lot::{Mutex, MutexGuard};
use shard::Shard;
pub(super) use shard::Touch;
use slot::Tag;
pub(super) use slot::{Entry, Form, MAX_SEGMENT, MAX_SIZE};
use std::{
    io,
    path::{Path, PathBuf},
};

const SHARDS: usize = 64;

pub(super) struct Table {
    directory: PathBuf,
    medium: Medium,
    shards: Vec<Mutex<Shard>>,
}

/// What may be done with an entry while it is looked at.
pub(super) enum Verdict {
    Keep,
    Remove,
}

impl Table {
    /// Opens the index in a directory that exists. A part that cannot be read is an error.
    pub fn open(directory: &Path, secret: u64, medium: &Medium) -> io::Result<Self> {
        let open = |number| Shard::open(&shard_path(directory, number), secret, medium).map(Mutex::new);
        let shards = (0..SHARDS).map(open).collect::<io::Result<_>>()?;
        Ok(Self { directory: directory.into(), medium: medium.clone(), shards })
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.look(key, |touch, _| touch)
    }

    /// Looks an entry up and takes note of its use.
    pub fn look(&self, key: &Key, touched: impl FnOnce(Touch, &Entry) -> Touch) -> Option<Entry> {
        let mut shard = self.shard(key);
        let (at, entry) = find(&shard, key)?;
        let touch = shard.touch(at);
        let new = touched(touch, &entry);
        if new != touch {
            shard.set_touch(at, new);
        }
        Some(entry)
    }

    /// The use of an entry.
    #[cfg(test)]
    pub fn touch_of(&self, key: &Key) -> Touch {
        let shard = self.shard(key);
        find(&shard, key).map_or(0, |(at, _)| shard.touch(at))
    }

    /// Puts an entry in unless `decide`, which is told of the present one and its use, gives none. Returns what was
    /// there before.
    pub fn update(
        &self,
        key: &Key,
        decide: impl FnOnce(Option<(Entry, Touch)>) -> Option<(Entry, Touch)>,
    ) -> io::Result<Option<Entry>> {
        let mut shard = self.shard(key);
        if shard.is_full() {
            let path = shard_path(&self.directory, shard_of(key));
            shard.grow(&path, home_of_tag, &self.medium)?;
        }
        let found = find(&shard, key);
        let present = found.map(|(at, entry)| (entry, shard.touch(at)));
        if let Some((entry, touch)) = decide(present) {
            let tag = slot::tag(key);
            shard.insert(found.map(|(at, _)| at), &tag, home_of_tag(&tag), &entry, touch);
        }
        Ok(present.map(|(entry, _)| entry))
    }

    /// Removes an entry that `matches`, which is told of its use. Returns it.
    pub fn remove(&self, key: &Key, matches: impl FnOnce(&Entry, Touch) -> bool) -> Option<Entry> {
        let mut shard = self.shard(key);
        let (at, entry) = find(&shard, key)?;
        let removed = matches(&entry, shard.touch(at));
        removed.then(|| {
            shard.remove(at);
            entry
        })
    }

    /// Looks at every entry, part by part; nobody waits for more than one part.
    pub fn visit(&self, mut look: impl FnMut(&Entry, Touch) -> Verdict) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut removed = Vec::new();
            for (at, _, entry) in shard.entries() {
                match look(&entry, shard.touch(at)) {
                    Verdict::Keep => {}
                    Verdict::Remove => removed.push(at),
                }
            }
            // From behind, so that slots at the end of a run become empty.
            removed.into_iter().rev().for_each(|at| shard.remove(at));
        }
    }

    pub fn clear_promises(&self, mask: u16) {
        self.shards.iter().for_each(|shard| shard.lock().clear_promises(mask));
    }

    /// Moves all uses so many minutes back.
    pub fn move_back(&self, minutes: u16) {
        self.shards.iter().for_each(|shard| shard.lock().move_back(minutes));
    }

    /// Bytes on disk.
    pub fn footprint(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().footprint()).sum()
    }

    /// Makes the index durable as it is.
    pub fn flush(&self) -> io::Result<()> {
        for shard in &self.shards {
            shard.lock().flush(&self.medium)?;
        }
        self.medium.sync_directory(&self.directory)
    }

    /// Writes down the uses since the last time.
    pub fn save_touches(&self) -> io::Result<()> {
        for (number, shard) in self.shards.iter().enumerate() {
            let unsaved = shard.lock().unsaved_touches();
            if let Some(bytes) = unsaved {
                let path = shard_path(&self.directory, number).with_extension("uses");
                let passing = path.with_extension("uses-new");
                let _ = std::fs::remove_file(&passing);
                self.medium.create(passing.clone(), 0o644)?.write_at(&bytes, 0)?;
                self.medium.rename(&passing, &path)?;
            }
        }
        Ok(())
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(key)].lock()
    }
}

fn find(shard: &Shard, key: &Key) -> Option<(usize, Entry)> {
    let tag = slot::tag(key);
    shard.find(&tag, home_of_tag(&tag), |entry| entry.space == key.space)
}

fn shard_path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number:02x}"))
}

fn shard_of(key: &Key) -> usize {
    usize::from(key.hash[0]) * SHARDS / 256
}

/// Where a search begins. Taken from the tag, so that a table can be written anew without the keys.
fn home_of_tag(tag: &Tag) -> u32 {
    let [a, b, c, d, ..] = *tag;
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::super::{frame::Place, key::Space};
    use super::*;
    use mortar_model::{Digest, DigestFunction};
    use std::collections::HashMap;

    fn key(number: u64) -> Key {
        Key::of(Digest::of(DigestFunction::Sha256, &number.to_le_bytes()))
    }

    fn entry(number: u64) -> Entry {
        let place = Place { segment: number as u32 & MAX_SEGMENT, offset: 64 };
        Entry {
            space: Space::Sha256,
            form: Form::Record,
            size: number,
            place,
            stored: number as u32,
            squeeze: false,
        }
    }

    fn insert(table: &Table, number: u64) {
        table.update(&key(number), |_| Some((entry(number), number as Touch))).unwrap();
    }

    #[test]
    fn it_agrees_with_a_map_through_growth_removal_and_opening_anew() {
        let directory = tempfile::tempdir().unwrap();
        let medium = Medium::default();
        let mut table = Table::open(directory.path(), 1, &medium).unwrap();
        let mut model = HashMap::new();
        let mut state = 7_u64;
        for step in 0..60_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (state >> 33) % 20_000;
            if state >> 62 == 0 {
                let removed = table.remove(&key(number), |_, _| true);
                assert_eq!(removed, model.remove(&number).map(entry), "step {step}");
            } else {
                insert(&table, number);
                model.insert(number, number);
            }
            if step % 20_000 == 19_999 {
                table.save_touches().unwrap();
                drop(table);
                table = Table::open(directory.path(), 1, &medium).unwrap();
            }
        }
        for number in 0..20_000 {
            assert_eq!(table.get(&key(number)), model.get(&number).copied().map(entry));
            let touch = model.get(&number).map_or(0, |number| *number as Touch);
            assert_eq!(table.touch_of(&key(number)), touch);
        }
        let mut seen = 0;
        table.visit(|_, _| {
            seen += 1;
            Verdict::Remove
        });
        assert_eq!(seen, model.len());
        assert!((0..20_000).all(|number| table.get(&key(number)).is_none()));
    }

    #[test]
    fn kinds_of_things_have_names_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let table = Table::open(directory.path(), 1, &Medium::default()).unwrap();
        insert(&table, 1);
        assert_eq!(table.get(&Key { space: Space::Value, ..key(1) }), None);
    }
}
