//! All records of one segment, in order. Where bytes are no record, it goes on at the next place where one may begin, so
//! that damage costs what is damaged alone.

use super::{
    frame::{ALIGNMENT, HEADER, Header, Place},
    medium::Disk,
    segments::{Segments, Unread},
};
use bytes::Bytes;
use std::{io, sync::Arc};

/// Bytes that are read in one go; more than the longest record.
const WINDOW: usize = 4 << 20;

pub(super) struct Scan {
    disk: Arc<Disk>,
    secret: u64,
    number: u32,
    /// Where the next record may begin.
    at: u64,
    end: u64,
    window: Bytes,
    /// Where in the segment the window begins.
    window_at: u64,
    failed: Option<io::Error>,
    /// Bytes that were no record.
    pub skipped: u64,
}

impl Scan {
    pub fn open(segments: &Segments, secret: u64, number: u32, from: u64) -> Result<Self, Unread> {
        let disk = segments.disk(number)?;
        let end = disk.length().map_err(Unread::Failed)?;
        let (window, at) = (Bytes::new(), from.next_multiple_of(ALIGNMENT as u64));
        Ok(Self { disk, secret, number, at, end, window, window_at: at, failed: None, skipped: 0 })
    }

    /// Whether the disk refused to be read, so that what came is not all.
    pub fn failed(&self) -> bool {
        self.failed.is_some()
    }

    fn bytes(&mut self, length: usize) -> Option<Bytes> {
        let end = self.at + length as u64;
        if end > self.end {
            return None;
        }
        if self.at < self.window_at || end > self.window_at + self.window.len() as u64 {
            let read =
                self.disk.read_at(self.at, (self.end - self.at).min(WINDOW.max(length) as u64) as usize);
            match read {
                Ok(bytes) => (self.window, self.window_at) = (bytes.into(), self.at),
                Err(error) => {
                    tracing::error!(segment = self.number, at = self.at, %error, "a segment could not be read");
                    self.failed = Some(error);
                    return None;
                }
            }
        }
        let start = (self.at - self.window_at) as usize;
        Some(self.window.slice(start..start + length))
    }

    fn try_next(&mut self) -> Option<(Place, Header, Bytes)> {
        let header = Header::parse(&self.bytes(HEADER)?).ok()?;
        let record = self.bytes(HEADER.checked_add(header.stored as usize)?)?;
        let place = Place { segment: self.number, offset: self.at as u32 };
        let header = Header::check(self.secret, place, &record).ok()?;
        Some((place, header, record.slice(HEADER..)))
    }
}

impl Iterator for Scan {
    type Item = (Place, Header, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at + HEADER as u64 <= self.end && self.failed.is_none() {
            if let Some((place, header, payload)) = self.try_next() {
                self.at += header.length() as u64;
                return Some((place, header, payload));
            }
            self.at += ALIGNMENT as u64;
            self.skipped += ALIGNMENT as u64;
        }
        None
    }
}
