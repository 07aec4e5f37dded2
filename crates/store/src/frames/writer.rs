//! Compresses a large blob into a seekable file, where that saves enough.

use super::{FRAME_CONTENT, Flaw, ReadAt, SeekTable, one_frame::Codec};
use std::io::Write;

/// A file is worth its while if it has at most so many hundredths of the content's length.
const WORTHWHILE: u64 = 92;
/// How much of the content is looked at in each place before anything is written.
const SAMPLE: u64 = 64 * 1024;
/// The level at which samples are compressed.
const SAMPLE_LEVEL: i32 = 1;

/// How hard to try, as zstd counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub i32);

impl Default for Level {
    /// Saves most of what there is to save, at the speed of a disk.
    fn default() -> Self {
        Self(3)
    }
}

/// Writes the first `size` bytes of `content` as a seekable file, and tells how long that is. None if it is not worth its
/// while: mostly before anything is written, but what was written is then of no use in any case.
pub fn compress(
    content: &impl ReadAt,
    size: u64,
    file: &mut impl Write,
    level: Level,
) -> Result<Option<u64>, Flaw> {
    if !looks_worthwhile(content, size)? {
        return Ok(None);
    }
    let limit = size / 100 * WORTHWHILE;
    let mut codec = Codec::new(level.0, true);
    let mut table = SeekTable::default();
    let mut buffer = vec![0; FRAME_CONTENT.min(size as usize)];
    while table.content_length() < size {
        let at = table.content_length();
        let part = &mut buffer[..(size - at).min(FRAME_CONTENT as u64) as usize];
        content.read_at(part, at)?;
        let frame = codec.compress(part)?;
        file.write_all(&frame)?;
        table.push(frame.len() as u32, part.len() as u32, checksum(&frame));
        if table.compressed_length() > limit {
            return Ok(None);
        }
    }
    let end = table.to_bytes();
    file.write_all(&end)?;
    let length = table.compressed_length() + end.len() as u64;
    Ok((length <= limit).then_some(length))
}

/// Compresses the beginning and the middle, cheaply.
fn looks_worthwhile(content: &impl ReadAt, size: u64) -> Result<bool, Flaw> {
    let mut codec = Codec::new(SAMPLE_LEVEL, false);
    let mut sample = vec![0; SAMPLE.min(size) as usize];
    let (mut looked_at, mut compressed) = (0, 0);
    for at in [0, size / 2] {
        let part = &mut sample[..SAMPLE.min(size - at) as usize];
        content.read_at(part, at)?;
        looked_at += part.len() as u64;
        compressed += codec.compress(part)?.len() as u64;
    }
    Ok(compressed * 100 <= looked_at * WORTHWHILE)
}

/// The checksum that a frame carries of its content.
pub(super) fn checksum(frame: &[u8]) -> u32 {
    let (_, last) = frame.split_last_chunk().expect("a frame with a checksum ends with it");
    u32::from_le_bytes(*last)
}
