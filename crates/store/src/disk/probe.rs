//! The readers of the disk format over any bytes, for those who fuzz them: what is read must be what the bytes say, and
//! nothing may panic.

use super::{
    frame::{Header, Place, Role},
    key::{Key, Space},
    medium::Medium,
    pieces::Pieces,
    scan::Scan,
    segments::{FIRST, Segments},
    table::{Entry, Form, Table, Verdict},
};
use mortar_model::Encoding;
use std::{fs, path::Path};

/// The secret of stores that are probed.
const SECRET: u64 = 0x6d6f_7274_6172;
const SEGMENT: u32 = 1;

/// A segment of some records, as the store writes it.
pub fn segment_seed(payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; FIRST as usize];
    for (number, payload) in payloads.iter().enumerate() {
        let header = Header {
            role: [Role::Content, Role::File, Role::Removed][number % 3],
            key: Key { space: Space::ALL[number % Space::ALL.len()], hash: [number as u8; 32] },
            encoding: Encoding::Identity,
            dead: false,
            sequence: number as u64,
            size: payload.len() as u64,
            stored: payload.len() as u32,
        };
        let place = Place { segment: SEGMENT, offset: bytes.len() as u32 };
        header.write(SECRET, place, &[payload], &mut bytes);
    }
    bytes
}

/// Reads a segment of these bytes in an empty directory. Every record that is found is written again, and must be the
/// same bytes. How many there are.
pub fn read_segment(directory: &Path, bytes: &[u8]) -> usize {
    fs::write(directory.join(format!("{SEGMENT:08x}")), bytes).expect("the directory can be written to");
    let segments = Segments::open(directory, SECRET, &Medium::default()).expect("the directory can be read");
    let Ok(scan) = Scan::open(&segments, SECRET, SEGMENT, FIRST) else { return 0 };
    let mut records = 0;
    for (place, header, payload) in scan {
        let mut again = Vec::new();
        Header { dead: false, ..header }.write(SECRET, place, &[&payload], &mut again);
        let start = place.offset as usize;
        let length = header.length().min(bytes.len() - start);
        let state = super::frame::STATE_AT as usize;
        again[state] = bytes[start + state];
        let content = length.min(super::frame::HEADER + payload.len());
        assert_eq!(again[..content], bytes[start..start + content], "a record is read as it is not written");
        let read = segments.read(place, header.stored).expect("what is found can be read");
        assert_eq!(read, (header, payload));
        let _ = Pieces::decode(&read.1, header.size);
        records += 1;
    }
    records
}

fn key(number: u8) -> Key {
    Key { space: Space::Sha256, hash: [number; 32] }
}

fn entry(number: u8) -> Entry {
    let place = Place { segment: 1, offset: 64 };
    Entry { space: Space::Sha256, form: Form::Record, size: number.into(), place, stored: 5, squeeze: false }
}

/// A part of an index of some entries, as the store writes it, made in an empty directory.
pub fn index_seed(directory: &Path) -> Vec<u8> {
    let table = Table::open(directory, SECRET, &Medium::default()).expect("the directory can be written to");
    for number in 0..4 {
        table.update(&key(number), |_| Some((entry(number), 7))).expect("there is room");
    }
    table.flush().expect("the directory can be written to");
    drop(table);
    fs::read(directory.join("00")).expect("it was written")
}

/// Opens an index whose first part is these bytes, in a directory where one was before; looks at all of it, and puts an
/// entry in. How many entries were found; none if it is refused.
pub fn read_index(directory: &Path, bytes: &[u8]) -> Option<usize> {
    fs::write(directory.join("00"), bytes).expect("the directory can be written to");
    let table = Table::open(directory, SECRET, &Medium::default()).ok()?;
    let mut entries = 0;
    table.visit(|_, _| {
        entries += 1;
        Verdict::Keep
    });
    let put = table.update(&key(1), |_| Some((entry(9), 7)));
    if put.is_ok() {
        assert_eq!(table.get(&key(1)), Some(entry(9)), "what was put in is not found");
        table.remove(&key(1), |_, _| true);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_writes_is_read() {
        let directory = tempfile::tempdir().unwrap();
        for count in 0..5 {
            let payloads = [b"some content".as_slice(); 5];
            assert_eq!(read_segment(directory.path(), &segment_seed(&payloads[..count])), count);
        }
        let directory = tempfile::tempdir().unwrap();
        let seed = index_seed(directory.path());
        assert_eq!(read_index(directory.path(), &seed), Some(4));
        assert_eq!(read_index(directory.path(), &seed[1..]), None);
    }
}
