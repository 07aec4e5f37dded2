//! One part of the index: an open-addressing table in a mapped file, with the uses of its entries beside it in memory.
//!
//! The file begins with a header (`mortarIX`, version, slots); entries follow. A table that is too full is written
//! anew, larger, and takes the old one's name.

use super::super::{frame::number, medium::Medium};
use super::{
    map::Map,
    slot::{self, Content, Entry, SLOT, Tag},
};
use std::{io, path::Path};

const MAGIC: &[u8; 8] = b"mortarIX";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// One block of the disk.
const SMALLEST: usize = 4096;
const TOUCH_MAGIC: &[u8; 8] = b"mortarTC";

/// A use of an entry: the minute in the upper half, whose promise it was in the lower.
pub(in super::super) type Touch = u32;

pub(super) struct Shard {
    map: Map,
    slots: usize,
    /// Slots that are not empty; so many more can be filled before the table grows.
    filled: usize,
    touches: Vec<Touch>,
    /// Since they were saved.
    touched: bool,
    /// Since the last flush.
    changed: bool,
    secret: u64,
}

impl Shard {
    /// Maps the table at `path`, or makes one.
    pub fn open(path: &Path, secret: u64, medium: &Medium) -> io::Result<Self> {
        let file = match medium.open_to_write(path.into()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create(path, (SMALLEST - HEADER) / SLOT, secret, medium);
            }
            other => other?,
        };
        let length = file.length()? as usize;
        let map = Map::new(file.file(), path, length)?;
        let header = map.bytes().get(..HEADER).ok_or(io::ErrorKind::UnexpectedEof)?;
        let slots = number(&header[12..16]) as usize;
        let is_ours = header[..8] == *MAGIC && number(&header[8..12]) == u64::from(VERSION);
        if !is_ours || slots == 0 || length != HEADER + slots * SLOT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no index of this version"));
        }
        let filled = (number(&header[16..20]) as usize).min(slots);
        let touches = load_touches(path, slots, medium).unwrap_or_default();
        Ok(Self { map, slots, filled, touches, touched: false, changed: false, secret })
    }

    fn create(path: &Path, slots: usize, secret: u64, medium: &Medium) -> io::Result<Self> {
        let file = medium.create(path.into(), 0o644)?;
        let mut bytes = vec![0; HEADER + slots * SLOT];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(slots as u32).to_le_bytes());
        // Written and not only made long: a mapped page without a block on a full disk would end the process.
        file.write_at(&bytes, 0)?;
        file.sync()?;
        let map = Map::new(file.file(), path, bytes.len())?;
        Ok(Self { map, slots, filled: 0, touches: Vec::new(), touched: false, changed: true, secret })
    }

    /// Bytes on disk.
    pub fn footprint(&self) -> u64 {
        let touches = if self.touches.is_empty() { 0 } else { HEADER + self.slots * 4 };
        (HEADER + self.slots * SLOT + touches) as u64
    }

    pub fn find(&self, tag: &Tag, home: u32, matches: impl Fn(&Entry) -> bool) -> Option<(usize, Entry)> {
        for at in self.probe(home) {
            match self.content(at) {
                Content::Empty => return None,
                Content::Kept(found, entry) if found == *tag && matches(&entry) => return Some((at, entry)),
                Content::Gone | Content::Kept(..) => {}
            }
        }
        None
    }

    /// Puts an entry in place of what `find` found, or where there is room.
    pub fn insert(&mut self, at: Option<usize>, tag: &Tag, home: u32, entry: &Entry, touch: Touch) -> bool {
        let free = |at: &usize| !matches!(self.content(*at), Content::Kept(..));
        let Some(at) = at.or_else(|| self.probe(home).find(free)) else { return false };
        if self.content(at) == Content::Empty {
            self.set_filled(self.filled + 1);
        }
        let bytes = slot::encode(tag, entry, self.secret);
        self.slot_mut(at).copy_from_slice(&bytes);
        self.changed = true;
        self.set_touch(at, touch);
        true
    }

    pub fn remove(&mut self, at: usize) {
        let next_is_empty = self.content((at + 1) % self.slots) == Content::Empty;
        let left = if next_is_empty { [0; SLOT] } else { slot::gone() };
        self.slot_mut(at).copy_from_slice(&left);
        self.changed = true;
        self.set_touch(at, 0);
        if next_is_empty {
            self.set_filled(self.filled.saturating_sub(1));
        }
    }

    pub fn touch(&self, at: usize) -> Touch {
        self.touches.get(at).copied().unwrap_or(0)
    }

    pub fn set_touch(&mut self, at: usize, touch: Touch) {
        if self.touches.is_empty() {
            if touch == 0 {
                return;
            }
            self.touches = vec![0; self.slots];
        }
        self.touched |= self.touches[at] != touch;
        self.touches[at] = touch;
    }

    /// Whether a further entry would make looking things up slow.
    pub fn is_full(&self) -> bool {
        (self.filled + 1) * 5 > self.slots * 4
    }

    /// Writes the table anew with room for as many entries again, or without what is gone.
    pub fn grow(&mut self, path: &Path, home: impl Fn(&Tag) -> u32, medium: &Medium) -> io::Result<()> {
        let live = self.entries().count();
        let mut slots = (SMALLEST - HEADER) / SLOT;
        while slots < live * 2 {
            slots = slots * 2 + 2;
        }
        let passing = path.with_extension("new");
        let _ = std::fs::remove_file(&passing);
        let mut grown = Self::create(&passing, slots, self.secret, medium)?;
        for (at, tag, entry) in self.entries() {
            grown.insert(None, &tag, home(&tag), &entry, self.touch(at));
        }
        grown.map.flush(medium)?;
        medium.rename(&passing, path)?;
        grown.map = Map::new(medium.open_to_write(path.into())?.file(), path, HEADER + slots * SLOT)?;
        *self = grown;
        (self.changed, self.touched) = (true, true);
        Ok(())
    }

    /// All that is kept.
    pub fn entries(&self) -> impl Iterator<Item = (usize, Tag, Entry)> {
        (0..self.slots).filter_map(|at| match self.content(at) {
            Content::Kept(tag, entry) => Some((at, tag, entry)),
            Content::Empty | Content::Gone => None,
        })
    }

    /// Forgets promises of these kinds.
    pub fn clear_promises(&mut self, mask: u16) {
        for touch in &mut self.touches {
            *touch &= !u32::from(mask);
        }
    }

    pub fn move_back(&mut self, minutes: u16) {
        for touch in &mut self.touches {
            *touch = touch.saturating_sub(u32::from(minutes) << 16) & 0xffff_0000 | *touch & 0xffff;
        }
        self.touched = true;
    }

    /// Makes the table durable as it is.
    pub fn flush(&mut self, medium: &Medium) -> io::Result<()> {
        if self.changed {
            self.map.flush(medium)?;
            self.changed = false;
        }
        Ok(())
    }

    /// What is to be written so that the uses are known after a restart; none if nothing is new.
    pub fn unsaved_touches(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.touched) {
            return None;
        }
        let mut bytes = Vec::with_capacity(16 + self.touches.len() * 4);
        bytes.extend_from_slice(TOUCH_MAGIC);
        bytes.extend_from_slice(&(self.slots as u64).to_le_bytes());
        self.touches.iter().for_each(|touch| bytes.extend_from_slice(&touch.to_le_bytes()));
        Some(bytes)
    }

    fn content(&self, at: usize) -> Content {
        let start = HEADER + at * SLOT;
        let bytes = self.map.bytes()[start..].first_chunk().expect("a slot lies within the table");
        slot::decode(bytes, self.secret)
    }

    fn slot_mut(&mut self, at: usize) -> &mut [u8] {
        let start = HEADER + at * SLOT;
        &mut self.map.bytes_mut()[start..start + SLOT]
    }

    fn set_filled(&mut self, filled: usize) {
        self.filled = filled;
        self.map.bytes_mut()[16..20].copy_from_slice(&(filled as u32).to_le_bytes());
    }

    fn probe(&self, home: u32) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots;
        // The upper bits of the product are spread as evenly as those of `home`.
        let start = ((u64::from(home) * slots as u64) >> 32) as usize;
        (start..slots).chain(0..start)
    }
}

/// None if there are none, or if they are of another table.
fn load_touches(path: &Path, slots: usize, medium: &Medium) -> Option<Vec<Touch>> {
    let file = medium.open(path.with_extension("uses")).ok()?;
    let bytes = file.read_at(0, 16 + slots * 4).ok()?;
    let fits = bytes[..8] == *TOUCH_MAGIC && number(&bytes[8..16]) == slots as u64;
    fits.then(|| bytes[16..].chunks_exact(4).map(|touch| number(touch) as Touch).collect())
}
