//! One entry of the index: 32 bytes that tell where a thing lies. Each carries its own check, so that a page of the
//! index that was torn in a crash costs its entries alone.

use super::super::{
    frame::{Place, number},
    key::{Key, Space},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a slot.
pub(in super::super) const SLOT: usize = 32;

/// How a thing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Form {
    /// Its record holds the content.
    Record,
    /// Its record tells of a file that holds the content.
    File,
}

/// What the index knows of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub space: Space,
    pub form: Form,
    /// Of the content, in bytes; less than 2^48.
    pub size: u64,
    /// Its record.
    pub place: Place,
    /// What it takes: the payload of its record in bytes, or its file in blocks.
    pub stored: u32,
    /// Its file may get smaller by compression; nobody has tried.
    pub squeeze: bool,
}

/// The part of a key that a slot holds; the rest chooses shard and place within it.
pub(super) type Tag = [u8; 12];

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing ever was.
    Empty,
    /// Something was, or cannot be read: what is looked for may lie behind it.
    Gone,
    /// This.
    Kept(Tag, Entry),
}

const GONE: u8 = 0xf0;
/// The largest size that fits.
pub(in super::super) const MAX_SIZE: u64 = (1 << 48) - 1;
/// Segments have numbers below this.
pub(in super::super) const MAX_SEGMENT: u32 = (1 << 24) - 1;

pub(super) fn tag(key: &Key) -> Tag {
    let mut tag = [0; 12];
    tag.copy_from_slice(&key.hash[1..13]);
    tag
}

pub(super) fn encode(tag: &Tag, entry: &Entry, secret: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..12].copy_from_slice(tag);
    let form = match (entry.form, entry.squeeze) {
        (Form::Record, _) => 1,
        (Form::File, false) => 2,
        (Form::File, true) => 3,
    };
    slot[12] = form << 4 | entry.space as u8;
    slot[13..19].copy_from_slice(&entry.size.to_le_bytes()[..6]);
    slot[19..22].copy_from_slice(&entry.place.segment.to_le_bytes()[..3]);
    slot[22..26].copy_from_slice(&entry.place.offset.to_le_bytes());
    slot[26..30].copy_from_slice(&entry.stored.to_le_bytes());
    let check = check(&slot, secret);
    slot[30..].copy_from_slice(&check);
    slot
}

pub(super) fn gone() -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[12] = GONE;
    slot
}

pub(super) fn decode(slot: &[u8; SLOT], secret: u64) -> Content {
    if slot[12] == 0 && slot.iter().all(|byte| *byte == 0) {
        return Content::Empty;
    }
    let (form, squeeze) = match slot[12] >> 4 {
        1 => (Form::Record, false),
        2 => (Form::File, false),
        3 => (Form::File, true),
        _ => return Content::Gone,
    };
    let Some(space) = Space::from_number(slot[12] & 15) else { return Content::Gone };
    if check(slot, secret) != slot[30..] {
        return Content::Gone;
    }
    let mut tag = [0; 12];
    tag.copy_from_slice(&slot[..12]);
    let place = Place { segment: number(&slot[19..22]) as u32, offset: number(&slot[22..26]) as u32 };
    let (size, stored) = (number(&slot[13..19]), number(&slot[26..30]) as u32);
    Content::Kept(tag, Entry { space, form, size, place, stored, squeeze })
}

fn check(slot: &[u8; SLOT], secret: u64) -> [u8; 2] {
    let sum = xxh3_64_with_seed(&slot[..30], secret);
    [sum as u8, (sum >> 8) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let entry = Entry {
            space: Space::Recipe,
            form: Form::File,
            size: MAX_SIZE - 1,
            place: Place { segment: MAX_SEGMENT, offset: u32::MAX - 7 },
            stored: 123_456,
            squeeze: true,
        };
        let slot = encode(&[7; 12], &entry, 3);
        assert_eq!(decode(&slot, 3), Content::Kept([7; 12], entry));
        assert_eq!(decode(&gone(), 3), Content::Gone);
        assert_eq!(decode(&[0; SLOT], 3), Content::Empty);
        for bit in 0..SLOT * 8 {
            let mut flipped = slot;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, 3), Content::Gone, "bit {bit}");
        }
    }
}
