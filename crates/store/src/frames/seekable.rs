//! Reads a part of a blob that is kept as a seekable file, decompressed or as frames.

use super::{Flaw, FrameEntry, ReadAt, SeekTable, deflate, one_frame::with_codec, writer::checksum};
use bytes::Bytes;
use mortar_model::Encoding;
use std::ops::Range;

/// How many bytes of whole frames are passed on at a time, if there are so many.
const RUN: u64 = 256 * 1024;
/// Where a frame says whether it carries a checksum, and how.
const DESCRIPTOR: usize = 4;
const HAS_CHECKSUM: u8 = 1 << 2;

/// A seekable file.
#[derive(Debug)]
pub struct Seekable<F> {
    file: F,
    table: SeekTable,
}

impl<F: ReadAt> Seekable<F> {
    /// Over a file of `length` bytes that holds `content` bytes.
    pub fn open(file: F, length: u64, content: u64) -> Result<Self, Flaw> {
        let table = SeekTable::read(&file, length)?;
        match table.content_length() {
            held if held == content => Ok(Self { file, table }),
            held => Err(Flaw::Table(format!("its frames hold {held} bytes of content, expected {content}"))),
        }
    }

    /// Which frames there are.
    pub fn table(&self) -> &SeekTable {
        &self.table
    }

    /// The next piece of a part of the content, in either encoding; the part is moved past it. None at its end.
    ///
    /// Frames that lie wholly within the part are passed as they are, several at a time, without a look into them:
    /// whoever decompresses them finds their checksums. The first and the last are made anew where they do not.
    pub fn piece(&self, part: &mut Range<u64>, encoding: Encoding) -> Result<Option<Bytes>, Flaw> {
        part.end = part.end.min(self.table.content_length());
        let frames = self.table.range(part.clone());
        let Some(first) = self.table.frames().get(frames.start).filter(|_| !frames.is_empty()) else {
            return Ok(None);
        };
        let whole = |frame: &FrameEntry| part.start <= frame.content_start && frame.content_end() <= part.end;
        if encoding == Encoding::Zstd && whole(first) {
            let within = |frame: &&FrameEntry| whole(frame) && frame.start - first.start < RUN;
            let run: Vec<_> = self.table.frames()[frames].iter().take_while(within).collect();
            let length = run.iter().map(|frame| frame.length as usize).sum();
            part.start = run.last().map_or(part.start, |last| last.content_end());
            return Ok(Some(self.bytes(first.start, length)?.into()));
        }
        let content = Bytes::from(self.content(frames.start)?);
        let end = part.end.min(first.content_end());
        let (from, to) = (part.start - first.content_start, end - first.content_start);
        part.start = end;
        let content = content.slice(from as usize..to as usize);
        Ok(Some(match encoding {
            Encoding::Identity => content,
            Encoding::Zstd => deflate(&content)?.into(),
        }))
    }

    /// The content of one frame, checked against the table.
    pub fn content(&self, index: usize) -> Result<Vec<u8>, Flaw> {
        let damaged = |what: String| Flaw::Frame { index, what };
        let entry = self.table.frames().get(index).ok_or_else(|| damaged("there is no such frame".into()))?;
        let frame = self.bytes(entry.start, entry.length as usize)?;
        let carries = frame.get(DESCRIPTOR).is_some_and(|descriptor| descriptor & HAS_CHECKSUM != 0);
        if !carries || checksum(&frame) != entry.checksum {
            return Err(damaged(format!("it does not carry the checksum {:#x}", entry.checksum)));
        }
        // zstd itself compares the content with the checksum.
        let content = with_codec(|codec| codec.decompress(&frame, entry.content_length as usize));
        content.map_err(|flaw| damaged(flaw.to_string()))
    }

    fn bytes(&self, start: u64, length: usize) -> Result<Vec<u8>, Flaw> {
        let mut bytes = vec![0; length];
        self.file.read_at(&mut bytes, start)?;
        Ok(bytes)
    }
}
