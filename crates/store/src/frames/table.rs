//! The seek table of zstd's seekable format: which frames a file consists of, in a skippable frame at its end, so that the
//! file as a whole is a zstd stream that any decoder takes.
//!
//! ```text
//! u32 0x184D2A5E · u32 length of all that follows
//! for each frame: u32 compressed size · u32 content size · u32 low half of the XXH64 of the content
//! u32 number of frames · u8 0x80 (checksums are there) · u32 0x8F92EAB1
//! ```
//! All numbers are little-endian. zstd frames end with the same checksum, if they carry one, as ours do.

use super::{Flaw, ReadAt};
use std::ops::Range;

const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
const WITH_CHECKSUMS: u8 = 0x80;
const HEADER: u64 = 8;
const FOOTER: u64 = 9;
const ENTRY: u64 = 12;
/// The most content of one frame that is read, in bytes; a frame is held in memory.
const MAX_CONTENT: u32 = 8 * 1024 * 1024;
/// The longest frame that is read.
const MAX_COMPRESSED: u32 = MAX_CONTENT + 64 * 1024;

/// One frame of a seekable file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where the frame stands in the file.
    pub start: u64,
    /// How long it is.
    pub length: u32,
    /// Where its content stands in the whole content.
    pub content_start: u64,
    /// How much content it has.
    pub content_length: u32,
    /// The low half of the XXH64 of its content.
    pub checksum: u32,
}

impl FrameEntry {
    /// Where its content ends in the whole content.
    pub fn content_end(&self) -> u64 {
        self.content_start + u64::from(self.content_length)
    }

    fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }
}

/// The frames of a seekable file, in order and without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<FrameEntry>,
}

impl SeekTable {
    /// Reads the table of a file of `length` bytes. Nothing in it is trusted; no more memory is taken than a few times
    /// what the file holds of it.
    pub fn read(file: &impl ReadAt, length: u64) -> Result<Self, Flaw> {
        let footer_start = length.checked_sub(HEADER + FOOTER).ok_or_else(|| damaged("it is too short"))?;
        let mut footer = [0; FOOTER as usize];
        file.read_at(&mut footer, footer_start + HEADER)?;
        let (count, magic) = (u64::from(number(&footer[..4])), number(&footer[5..]));
        if magic != SEEKABLE {
            return Err(damaged(format!("it ends with {magic:#x}, expected {SEEKABLE:#x}")));
        }
        if footer[4] != WITH_CHECKSUMS {
            return Err(damaged(format!("its descriptor is {:#x}, expected {WITH_CHECKSUMS:#x}", footer[4])));
        }
        let start = footer_start.checked_sub(count * ENTRY);
        let start = start.ok_or_else(|| damaged(format!("{count} frames do not fit into {length} bytes")))?;
        let mut table = vec![0; (HEADER + count * ENTRY) as usize];
        file.read_at(&mut table, start)?;
        let (header, entries) = table.split_at(HEADER as usize);
        let (magic, following) = (number(&header[..4]), u64::from(number(&header[4..])));
        if magic != SKIPPABLE || following != count * ENTRY + FOOTER {
            return Err(damaged(format!("it begins with {magic:#x} and a length of {following}")));
        }
        let found = Self::from_entries(entries)?;
        match found.compressed_length() == start {
            true => Ok(found),
            false => {
                let frames = found.compressed_length();
                Err(damaged(format!("its frames have {frames} bytes, the file has {start} before it")))
            }
        }
    }

    fn from_entries(entries: &[u8]) -> Result<Self, Flaw> {
        let mut table = Self { frames: Vec::with_capacity(entries.len() / ENTRY as usize) };
        for entry in entries.chunks_exact(ENTRY as usize) {
            let [length, content_length, checksum] = [0, 4, 8].map(|at| number(&entry[at..at + 4]));
            if length > MAX_COMPRESSED || content_length > MAX_CONTENT {
                return Err(damaged(format!(
                    "frame {} has {length} bytes for {content_length} of content; at most {MAX_CONTENT} may be",
                    table.frames.len()
                )));
            }
            table.push(length, content_length, checksum);
        }
        Ok(table)
    }

    /// Adds the next frame.
    pub(super) fn push(&mut self, length: u32, content_length: u32, checksum: u32) {
        let (start, content_start) = (self.compressed_length(), self.content_length());
        self.frames.push(FrameEntry { start, length, content_start, content_length, checksum });
    }

    /// The table as it stands at the end of a file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let following = self.frames.len() as u64 * ENTRY + FOOTER;
        let mut bytes = Vec::with_capacity((following + HEADER) as usize);
        let mut put = |number: u32| bytes.extend_from_slice(&number.to_le_bytes());
        put(SKIPPABLE);
        put(following as u32);
        for frame in &self.frames {
            put(frame.length);
            put(frame.content_length);
            put(frame.checksum);
        }
        put(self.frames.len() as u32);
        bytes.push(WITH_CHECKSUMS);
        bytes.extend_from_slice(&SEEKABLE.to_le_bytes());
        bytes
    }

    /// All frames.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// How much content all frames have.
    pub fn content_length(&self) -> u64 {
        self.frames.last().map_or(0, FrameEntry::content_end)
    }

    /// How long all frames are, without this table.
    pub fn compressed_length(&self) -> u64 {
        self.frames.last().map_or(0, FrameEntry::end)
    }

    /// The indices of the frames whose content overlaps with a range of the content.
    pub fn range(&self, content: Range<u64>) -> Range<usize> {
        let first = self.frames.partition_point(|frame| frame.content_end() <= content.start);
        let end = self.frames.partition_point(|frame| frame.content_start < content.end);
        if content.is_empty() { first..first } else { first..end.max(first) }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes are a number"))
}

fn damaged(what: impl Into<String>) -> Flaw {
    Flaw::Table(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(frames: &[(u32, u32)]) -> SeekTable {
        let mut table = SeekTable::default();
        frames.iter().for_each(|(length, content)| table.push(*length, *content, 7));
        table
    }

    #[test]
    fn ranges_are_found() {
        let table = table(&[(10, 100), (0, 0), (10, 100), (5, 50)]);
        for (content, expected) in [
            (0..1, 0..1),
            (0..100, 0..1),
            (0..101, 0..3),
            (99..100, 0..1),
            (100..101, 2..3),
            (199..201, 2..4),
            (249..250, 3..4),
            (0..250, 0..4),
            (150..150, 2..2),
            (250..250, 4..4),
            (1000..2000, 4..4),
        ] {
            assert_eq!(table.range(content.clone()), expected, "{content:?}");
        }
        assert_eq!((table.content_length(), table.compressed_length()), (250, 25));
    }

    #[test]
    fn a_table_comes_back() {
        for frames in [&[][..], &[(0, 0)], &[(9, 100), (100, 7)]] {
            let table = table(frames);
            let file = [vec![1; table.compressed_length() as usize], table.to_bytes()].concat();
            assert_eq!(SeekTable::read(&file, file.len() as u64).unwrap(), table);
        }
    }

    #[test]
    fn a_table_that_does_not_fit_says_why() {
        let good = [vec![1; 109], table(&[(9, 100), (100, 7)]).to_bytes()].concat();
        let changed = |at: usize, byte: u8| {
            let mut file = good.clone();
            file[at] = byte;
            file
        };
        let end = good.len();
        for (file, needle) in [
            (vec![], "too short"),
            (vec![0; 16], "too short"),
            (changed(end - 1, 0), "it ends with"),
            (changed(end - 5, 0), "descriptor"),
            (changed(end - 9, 1), "it begins with"),
            (changed(end - 6, 255), "do not fit"),
            (changed(109, 0), "it begins with"),
            (changed(113, 0), "a length of"),
            (changed(117, 8), "before it"),
            (changed(120, 255), "at most"),
            (changed(124, 255), "at most"),
            (good[1..].to_vec(), "before it"),
        ] {
            let error = SeekTable::read(&file, file.len() as u64).unwrap_err().to_string();
            assert!(error.contains(needle), "{needle}: {error}");
        }
    }
}
