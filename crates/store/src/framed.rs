//! Entries one after another in a file: each behind its length and its checksum, four bytes each, the least first. An
//! end that was torn off is told from an entry, and so is a flipped bit.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// What stands before each entry, in bytes.
pub const HEAD: usize = 8;
/// Longer entries are none.
pub const LONGEST: usize = 256 << 20;

/// Appends an entry, framed.
pub fn frame(entry: &[u8], to: &mut Vec<u8>) {
    let length = u32::try_from(entry.len()).expect("entries are far shorter than 4 GiB");
    to.reserve(HEAD + entry.len());
    to.extend(length.to_le_bytes());
    to.extend(checksum(entry).to_le_bytes());
    to.extend(entry);
}

/// Takes the next entry, if it is whole.
pub fn unframe(rest: &mut Bytes) -> Option<Bytes> {
    let number = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
    let (length, sum) = (number(0)? as usize, number(4)?);
    let end = HEAD.checked_add(length).filter(|_| length <= LONGEST)?;
    if checksum(rest.get(HEAD..end)?) != sum {
        return None;
    }
    let entry = rest.slice(HEAD..end);
    *rest = rest.slice(end..);
    Some(entry)
}

/// The lower half of the hash.
fn checksum(entry: &[u8]) -> u32 {
    xxh3_64(entry) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_what_is_torn_or_flipped_does_not() {
        let mut bytes = Vec::new();
        for entry in ["one", "", "three"] {
            frame(entry.as_bytes(), &mut bytes);
        }
        let read = |bytes: &[u8]| {
            let (mut rest, mut entries) = (Bytes::copy_from_slice(bytes), Vec::new());
            while let Some(entry) = unframe(&mut rest) {
                entries.push(String::from_utf8_lossy(&entry).into_owned());
            }
            entries
        };
        assert_eq!(read(&bytes), ["one", "", "three"]);
        for length in 2 * HEAD + 3..bytes.len() {
            assert_eq!(read(&bytes[..length]), ["one", ""], "{length}");
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(read(&bytes), ["one", ""]);
    }
}
