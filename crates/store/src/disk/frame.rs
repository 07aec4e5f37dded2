//! The form of one record in a segment: a header that tells what it is, then its payload, filled up to eight bytes.
//!
//! The checksum covers both, the place, and a secret of the store's: content that a client sends can never look like
//! a record, wherever a torn or damaged segment is taken up again. `docs/disk-format.md` has the table of fields.

use super::key::{Key, Space};
use mortar_model::Encoding;
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a header.
pub(super) const HEADER: usize = 72;
/// Where records begin, and what their lengths are filled up to.
pub(super) const ALIGNMENT: usize = 8;
const MAGIC: [u8; 4] = *b"mRec";
/// The byte that is set when a record is declared dead where it lies. Not covered by the checksum.
pub(super) const STATE_AT: u64 = 7;
pub(super) const DEAD: u8 = 1;

/// What a record says. The numbers are part of the disk format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The payload is the content.
    Content = 1,
    /// The content is a file; the payload tells of its pieces.
    File = 2,
    /// What earlier records say under this key no longer holds.
    Removed = 3,
}

/// The particulars of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub role: Role,
    pub key: Key,
    /// How the content is written down.
    pub encoding: Encoding,
    pub dead: bool,
    /// Later records of a key have higher numbers.
    pub sequence: u64,
    /// Of the content, in bytes.
    pub size: u64,
    /// Of the payload, in bytes.
    pub stored: u32,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u32,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// They end too early.
    Short,
    /// They do not begin as a record, or hold values that no record has.
    Malformed,
    /// The checksum is another.
    Checksum,
}

impl Header {
    /// The length of the whole record in a segment.
    pub fn length(&self) -> usize {
        filled(HEADER + self.stored as usize)
    }

    /// Appends the record that will lie at `place`.
    pub fn write(&self, secret: u64, place: Place, payload: &[&[u8]], out: &mut Vec<u8>) {
        let start = out.len();
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = self.role as u8;
        header[5] = self.key.space as u8;
        header[6] = match self.encoding {
            Encoding::Identity => 0,
            Encoding::Zstd => 1,
        };
        header[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        header[24..32].copy_from_slice(&self.size.to_le_bytes());
        header[32..36].copy_from_slice(&self.stored.to_le_bytes());
        header[40..].copy_from_slice(&self.key.hash);
        let mut sum = Checksum::begin(secret, place, &header);
        payload.iter().for_each(|part| sum.update(part));
        header[8..16].copy_from_slice(&sum.finish().to_le_bytes());
        out.extend_from_slice(&header);
        payload.iter().for_each(|part| out.extend_from_slice(part));
        out.resize(start + self.length(), 0);
    }

    /// What the first bytes of a record say. Nothing is known of their truth before [`check`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Flaw::Short)?;
        let role = match header[4] {
            1 => Role::Content,
            2 => Role::File,
            3 => Role::Removed,
            _ => return Err(Flaw::Malformed),
        };
        let encoding = match header[6] {
            0 => Encoding::Identity,
            1 => Encoding::Zstd,
            _ => return Err(Flaw::Malformed),
        };
        let space = Space::from_number(header[5]).ok_or(Flaw::Malformed)?;
        if header[..4] != MAGIC || header[7] > DEAD || header[36..40] != [0; 4] {
            return Err(Flaw::Malformed);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&header[40..]);
        Ok(Self {
            role,
            key: Key { space, hash },
            encoding,
            dead: header[7] == DEAD,
            sequence: number(&header[16..24]),
            size: number(&header[24..32]),
            stored: number(&header[32..36]) as u32,
        })
    }

    /// The header of a whole record at `place`, whose payload follows it in `bytes`.
    pub fn check(secret: u64, place: Place, bytes: &[u8]) -> Result<Self, Flaw> {
        let header = Self::parse(bytes)?;
        let payload = bytes.get(HEADER..HEADER + header.stored as usize).ok_or(Flaw::Short)?;
        let mut unsigned = *bytes.first_chunk::<HEADER>().ok_or(Flaw::Short)?;
        let expected = number(&unsigned[8..16]);
        unsigned[STATE_AT as usize..16].fill(0);
        let mut sum = Checksum::begin(secret, place, &unsigned);
        sum.update(payload);
        if sum.finish() == expected { Ok(header) } else { Err(Flaw::Checksum) }
    }
}

/// Little-endian, of at most eight bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Filled up to the next place where a record may begin.
pub(super) fn filled(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

struct Checksum(Xxh3);

impl Checksum {
    fn begin(secret: u64, place: Place, header: &[u8; HEADER]) -> Self {
        let mut sum = Xxh3::with_seed(secret);
        sum.update(&place.segment.to_le_bytes());
        sum.update(&place.offset.to_le_bytes());
        sum.update(header);
        Self(sum)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { segment: 7, offset: 64 };

    fn record(payload: &[u8]) -> (Header, Vec<u8>) {
        let header = Header {
            role: Role::Content,
            key: Key { space: Space::Sha256, hash: [9; 32] },
            encoding: Encoding::Identity,
            dead: false,
            sequence: 5,
            size: payload.len() as u64,
            stored: payload.len() as u32,
        };
        let mut bytes = Vec::new();
        header.write(11, PLACE, &[payload], &mut bytes);
        (header, bytes)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for length in [0, 1, 7, 8, 9, 1000] {
            let (header, bytes) = record(&vec![3; length]);
            assert_eq!(bytes.len(), header.length());
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            assert_eq!(Header::check(11, PLACE, &bytes), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_is_found_but_that_of_the_state() {
        let (header, bytes) = record(b"some content");
        for bit in 0..(HEADER + 12) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let checked = Header::check(11, PLACE, &flipped);
            match bit {
                56 => assert_eq!(checked, Ok(Header { dead: true, ..header })),
                _ => assert!(checked.is_err(), "bit {bit}"),
            }
        }
    }

    #[test]
    fn a_record_holds_only_in_its_place_and_in_its_store() {
        let (_, bytes) = record(b"some content");
        assert_eq!(Header::check(12, PLACE, &bytes), Err(Flaw::Checksum));
        let elsewhere = Place { offset: 72, ..PLACE };
        assert_eq!(Header::check(11, elsewhere, &bytes), Err(Flaw::Checksum));
        assert_eq!(Header::check(11, PLACE, &bytes[..HEADER - 1]), Err(Flaw::Short));
        assert_eq!(Header::check(11, PLACE, &bytes[..HEADER + 11]), Err(Flaw::Short));
    }
}
