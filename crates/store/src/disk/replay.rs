//! What a run that did not end in order left to do: records that the durable index may not know of are put in.
//!
//! Reads no more than was appended since the last checkpoint, unless the index itself is lost: then all there is.

use super::{
    BLOCK, Shared,
    frame::{Header, Place, Role},
    leases::Stamp,
    pieces::Pieces,
    scan::Scan,
    squeeze::may_get_smaller,
    table::{Entry, Form},
};
use bytes::Bytes;
use std::io;

impl Shared {
    /// Takes up all records from a place on. The highest sequence that was seen.
    pub(super) fn replay(&self, (first, offset): (u32, u64)) -> io::Result<u64> {
        let (mut highest, stamp) = (0, self.leases.own_stamp());
        let mut count = 0_u64;
        for (number, _) in self.segments.from(first) {
            let from = if number == first { offset } else { super::segments::FIRST };
            let scan = Scan::open(&self.segments, self.secret, number, from);
            let mut scan =
                scan.map_err(|unread| io::Error::other(format!("segment {number}: {unread:?}")))?;
            for (place, header, payload) in scan.by_ref() {
                highest = highest.max(header.sequence);
                count += 1;
                self.take_up(place, &header, &payload, stamp)?;
            }
            if scan.skipped > 0 {
                tracing::warn!(segment = number, bytes = scan.skipped, "bytes of a segment are no records");
            }
        }
        if count > 0 {
            tracing::info!(records = count, "taken up what the last run had not noted in the index");
        }
        Ok(highest)
    }

    fn take_up(&self, place: Place, header: &Header, payload: &Bytes, stamp: Stamp) -> io::Result<()> {
        if header.dead {
            return Ok(());
        }
        let entry = match header.role {
            Role::Removed => return self.take_up_removal(header),
            Role::Content => {
                let (space, stored) = (header.key.space, header.stored);
                Entry { space, form: Form::Record, size: header.size, place, stored, squeeze: false }
            }
            Role::File => {
                let Some(pieces) = Pieces::decode(payload, header.size) else { return Ok(()) };
                let squeeze = may_get_smaller(Form::File, header.encoding);
                let blocks = pieces.file_length().div_ceil(BLOCK) as u32;
                Entry {
                    space: header.key.space,
                    form: Form::File,
                    size: header.size,
                    place,
                    stored: blocks,
                    squeeze,
                }
            }
        };
        let known = self.table.get(&header.key);
        if known.is_some_and(|known| known.place == place || !self.is_older(&known, header.sequence)) {
            return Ok(());
        }
        let before = self.table.update(&header.key, |present| {
            Some((entry, present.map_or(stamp.fresh(), |(_, touch)| touch)))
        })?;
        self.usage.replaced(before.as_ref(), Some(&entry));
        Ok(())
    }

    fn take_up_removal(&self, header: &Header) -> io::Result<()> {
        let Some(known) = self.table.get(&header.key) else { return Ok(()) };
        if self.is_older(&known, header.sequence) {
            let removed = self.table.remove(&header.key, |entry, _| entry.place == known.place);
            self.usage.replaced(removed.as_ref(), None);
        }
        Ok(())
    }

    /// Whether what the index has comes from an earlier record; so it is if that cannot be read. Of copies of one
    /// record, the later one counts, since the earlier one's segment may be about to go.
    fn is_older(&self, known: &Entry, sequence: u64) -> bool {
        match self.segments.read_any(known.place) {
            Ok((header, _)) => header.sequence <= sequence,
            Err(_) => true,
        }
    }
}
