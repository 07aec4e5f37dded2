//! Compression of what has come to rest: long after it was acknowledged, on a thread of its own that gives way to all
//! others. Large files become seekable zstd files, segments are written anew with their records compressed; what does
//! not get smaller is left alone, and remembered as such.

use super::{
    Shared,
    files::{Draft, storage_error},
    frame::Place,
    key::Key,
    leases::{self, Stamp},
    pieces::{PIECE, Piece, Pieces},
    read::{Found, Opened},
    scan::Scan,
    segments::FIRST,
    sweep::Cut,
    table::{Entry, Form, Verdict},
};
use crate::frames::{self, Level, ReadAt};
use mortar_model::{Digest, Encoding, Result};
use std::{
    collections::HashSet,
    io::{self, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// It looks around this often.
const EVERY: Duration = Duration::from_secs(5);
/// Files of one round.
const FILES: usize = 256;
/// Records of a segment that are tried before all of them are.
const SAMPLE: usize = 64;
/// A segment is written anew if that leaves so many hundredths of it at most.
const WORTHWHILE: usize = 85;

/// Runs the thread's work until the store is closed.
pub(super) fn run(shared: &Arc<Shared>) {
    give_way();
    shared.migrate();
    let mut judged = HashSet::new();
    while !shared.keeper.is_stopped() {
        shared.squeeze_files();
        shared.squeeze_segments(&mut judged);
        shared.keeper.wait_stopped(shared.compress_after.min(EVERY).max(Duration::from_millis(10)));
    }
}

fn give_way() {
    let thread = rustix::thread::gettid();
    // Where that is refused it runs as all others do.
    let _ = rustix::process::setpriority_process(Some(thread), 10);
}

impl Shared {
    fn squeeze_files(self: &Arc<Self>) {
        let rest = (self.compress_after.as_secs() / 60).min(u64::from(u16::MAX)) as u16;
        let now = self.leases.now();
        let mut places = Vec::new();
        self.table.visit(|entry, touch| {
            let rests = leases::minute(touch).saturating_add(rest) <= now;
            if entry.squeeze && rests && places.len() < FILES {
                places.push(entry.place);
            }
            Verdict::Keep
        });
        for place in places {
            if self.keeper.is_stopped() {
                return;
            }
            if let Err(error) = self.squeeze_file(place) {
                tracing::debug!("a file is left uncompressed for now: {error}");
            }
        }
    }

    fn squeeze_file(self: &Arc<Self>, place: Place) -> Result<()> {
        let Ok((header, _)) = self.segments.read_any(place) else { return Ok(()) };
        let (key, glance) = (header.key, Stamp::glance());
        if self.made.was_lent(&key) {
            return Ok(());
        }
        let Some(Found::File(opened)) = self.find_blocking(key, Some(header.size), glance)? else {
            return Ok(());
        };
        let Some(digest) = key.digest(header.size) else { return Ok(()) };
        if opened.encoding != Encoding::Identity {
            return Ok(());
        }
        let mut smaller = Smaller {
            draft: Draft::create(self.clone(), self.layout.temp_path(), false)?,
            secret: self.secret,
            each: Vec::new(),
        };
        let content = Content { shared: self, opened: &opened };
        match frames::compress(&content, header.size, &mut smaller, Level::default()) {
            Ok(Some(_)) => self.replace_file(key, digest, smaller, (place, header.sequence), glance),
            Ok(None) => {
                self.leave(&key, place);
                Ok(())
            }
            Err(flaw) => Err(flaw.at_rest(digest)),
        }
    }

    fn replace_file(
        &self,
        key: Key,
        digest: Digest,
        smaller: Smaller,
        instead_of: (Place, u64),
        stamp: Stamp,
    ) -> Result<()> {
        let Smaller { mut draft, mut each, .. } = smaller;
        // The last write was the seek table.
        each.truncate(digest.size().div_ceil(PIECE) as usize);
        draft.sync()?;
        if !self.names.begin_removal(key) {
            return Ok(());
        }
        let placed = draft.place(digest, Encoding::Zstd, &Pieces::new(each), stamp, Some(instead_of));
        if matches!(placed, Ok(true)) {
            if self.medium.remove(&self.layout.blob_path(key, Encoding::Identity)).is_err() {
                self.suspect(key);
            }
            self.counters.squeezed.fetch_add(1, Relaxed);
        }
        self.names.end_removal(key);
        placed.map(drop)
    }

    /// Remembers that a file does not get smaller.
    fn leave(&self, key: &Key, place: Place) {
        let left = self.table.update(key, |present| {
            let (entry, touch) = present.filter(|(entry, _)| entry.place == place)?;
            Some((Entry { squeeze: false, ..entry }, touch))
        });
        if let Err(error) = left {
            tracing::debug!(%error, "an entry could not be changed");
        }
    }

    fn squeeze_segments(&self, judged: &mut HashSet<u32>) {
        let segments = self.segments.from(0);
        judged.retain(|number| self.segments.contains(*number));
        // Nobody knows whether the last one is still appended to.
        for (number, _) in segments.iter().rev().skip(1).rev() {
            if self.keeper.is_stopped() {
                return;
            }
            if !judged.contains(number) && self.rests(*number) {
                judged.insert(*number);
                if self.is_worthwhile(*number) {
                    self.reclaim(*number, Cut::default());
                }
            }
        }
    }

    fn rests(&self, number: u32) -> bool {
        let Ok(disk) = self.segments.disk(number) else { return false };
        let modified = disk.file().metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age >= self.compress_after)
    }

    /// Tries some records of a segment.
    fn is_worthwhile(&self, number: u32) -> bool {
        let Ok(scan) = Scan::open(&self.segments, self.secret, number, FIRST) else { return false };
        let (mut before, mut after, mut tried) = (0, 0, 0);
        for (at, (_, header, payload)) in scan.enumerate() {
            // The first few of them would all be of one kind.
            if at % 8 != 0 || header.encoding != Encoding::Identity || payload.is_empty() {
                continue;
            }
            before += payload.len();
            after += self.shrunk(&header, payload).1.len();
            tried += 1;
            if tried >= SAMPLE {
                break;
            }
        }
        after * 100 < before * WORTHWHILE
    }
}

/// The content of a file, checked as it is read.
struct Content<'a> {
    shared: &'a Shared,
    opened: &'a Opened,
}

impl ReadAt for Content<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        let mut left = buffer;
        while !left.is_empty() {
            let piece = self.shared.piece(self.opened, (at / PIECE) as usize).map_err(io::Error::other)?;
            let from = (at % PIECE) as usize;
            let length = left.len().min(piece.len().saturating_sub(from));
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = left.split_at_mut(length);
            now.copy_from_slice(&piece[from..from + length]);
            (at, left) = (at + length as u64, later);
        }
        Ok(())
    }
}

/// The compressed file as it is written: each frame in one go, the seek table last.
struct Smaller {
    draft: Draft,
    secret: u64,
    each: Vec<Piece>,
}

impl Write for Smaller {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.draft.append(bytes).map_err(io::Error::other)?;
        self.each.push(Piece { length: bytes.len() as u32, sum: xxh3_64_with_seed(bytes, self.secret) });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Draft {
    fn sync(&mut self) -> Result<()> {
        self.disk().sync().map_err(|error| storage_error("writing a file durably", error))
    }
}

/// What is a file of its own, as it came, may get smaller.
pub(super) fn may_get_smaller(form: Form, encoding: Encoding) -> bool {
    form == Form::File && encoding == Encoding::Identity
}
