//! One part of the index: an open-addressing table in a mapped file, with the uses of its entries beside it in memory.
//!
//! The file begins with a header (`mortarIX`, version, slots); entries follow. A table that is too full is written
//! anew, larger, and takes the old one's name.

use super::super::{BLOCK, frame::number, medium::Medium, usage::Figures};
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
    /// After a crash, until it was looked through: parts of it may be older than others.
    distrusted: bool,
    /// By how much what the entries stand for has changed since it was opened.
    change: Figures,
    /// Bytes of the file of uses.
    saved: u64,
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
        let saved = std::fs::metadata(path.with_extension("uses")).map_or(0, |metadata| metadata.len());
        Ok(Self { filled, touches, changed: false, saved, ..Self::over(map, slots, secret) })
    }

    fn over(map: Map, slots: usize, secret: u64) -> Self {
        Self {
            map,
            slots,
            filled: 0,
            touches: Vec::new(),
            touched: false,
            changed: true,
            distrusted: false,
            change: Figures::default(),
            saved: 0,
            secret,
        }
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
        Ok(Self::over(map, slots, secret))
    }

    /// Bytes on disk.
    pub fn footprint(&self) -> u64 {
        ((HEADER + self.slots * SLOT) as u64).next_multiple_of(BLOCK) + self.saved.next_multiple_of(BLOCK)
    }

    /// The file of uses has so many bytes now; none if it could not be written.
    pub fn set_saved(&mut self, length: Option<u64>) {
        self.touched |= length.is_none();
        self.saved = length.unwrap_or(self.saved);
    }

    /// What the entries stood for when the table was opened.
    pub fn at_the_start(&self) -> Figures {
        let mut now = Figures::default();
        self.entries().for_each(|(_, _, entry)| now.add(&entry, 1));
        now.plus(self.change, -1)
    }

    pub fn distrust(&mut self, forget: bool) {
        self.distrusted = true;
        if forget {
            self.touches.fill(0);
            self.touched = true;
        }
    }

    /// After a crash, drops entries that no search reaches, or that another one of their name stands before: they are
    /// left of what was overwritten, and would come back when that is removed. What was durable is reached: the slots
    /// on the way to it were taken then, and are since.
    pub fn mend(&mut self, home: impl Fn(&Tag) -> u32) {
        if !std::mem::take(&mut self.distrusted) {
            return;
        }
        let found: Vec<_> = self.entries().collect();
        for (at, tag, entry) in found {
            let first = self.find(&tag, home(&tag), |other| other.space == entry.space);
            if first.is_none_or(|(first, _)| first != at) {
                self.slot_mut(at).copy_from_slice(&slot::gone());
                self.changed = true;
            }
        }
        let filled = (0..self.slots).filter(|at| self.content(*at) != Content::Empty).count();
        self.set_filled(filled);
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
        match self.content(at) {
            Content::Empty => self.set_filled(self.filled + 1),
            Content::Kept(_, before) => self.change.add(&before, -1),
            Content::Gone => {}
        }
        self.change.add(entry, 1);
        let bytes = slot::encode(tag, entry, self.secret);
        self.slot_mut(at).copy_from_slice(&bytes);
        self.changed = true;
        self.set_touch(at, touch);
        true
    }

    pub fn remove(&mut self, at: usize) {
        if let Content::Kept(_, before) = self.content(at) {
            self.change.add(&before, -1);
        }
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

    /// Whether a further entry would fit at all.
    pub fn has_room(&self) -> bool {
        self.filled < self.slots
    }

    /// Writes the table anew with room for as many entries again, or without what is gone.
    pub fn grow(&mut self, path: &Path, home: impl Fn(&Tag) -> u32, medium: &Medium) -> io::Result<()> {
        let live = self.entries().count();
        let mut slots = (SMALLEST - HEADER) / SLOT;
        while slots < live * 2 {
            slots = slots * 2 + 2;
        }
        let passing = path.with_extension("new");
        let grown = self.grown(&passing, path, slots, home, medium);
        *self = grown.inspect_err(|_| drop(std::fs::remove_file(&passing)))?;
        Ok(())
    }

    fn grown(
        &self,
        passing: &Path,
        path: &Path,
        slots: usize,
        home: impl Fn(&Tag) -> u32,
        medium: &Medium,
    ) -> io::Result<Self> {
        let mut grown = Self::create(passing, slots, self.secret, medium)?;
        for (at, tag, entry) in self.entries() {
            grown.insert(None, &tag, home(&tag), &entry, self.touch(at));
        }
        grown.map.flush(medium)?;
        medium.rename(passing, path)?;
        grown.map.is_at(path);
        (grown.change, grown.saved) = (self.change, self.saved);
        (grown.changed, grown.touched) = (true, true);
        Ok(grown)
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
            self.touched |= *touch & u32::from(mask) != 0;
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
