//! Getting back the room of a segment: what is still in use is appended anew, in the same or a smaller form, and then
//! the segment is removed.

use super::{
    Shared,
    frame::{HEADER, Header, Place, Role},
    leases::Hold,
    log::{Append, answered_blocking},
    scan::Scan,
    sweep::Cut,
    table::{Entry, Form, Verdict},
};
use crate::frames;
use bytes::Bytes;
use mortar_model::Encoding;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes that are copied in one go.
const GROUP: usize = 4 << 20;

impl Shared {
    /// Begins a new segment. The last of those that nobody appends to from now on; none if that failed.
    pub(super) fn seal(&self) -> Option<u32> {
        let last = self.segments.last()?;
        self.progress.lock().seal = true;
        // Any record makes the log turn to the new segment; this one says what is true.
        let nothing = super::key::Key { space: super::key::Space::Value, hash: [0; 32] };
        let answer = self.log.append([self.removal(nothing)]).pop().map(answered_blocking)?;
        let was_stuck = std::mem::replace(&mut self.progress.lock().stuck, answer.is_err());
        match answer {
            Ok(_) => Some(last),
            Err(error) => {
                // It is tried each time that somebody has no room.
                if !was_stuck {
                    tracing::warn!(
                        "no segment can be begun, and until one can be, none is reclaimed: {error}"
                    );
                }
                None
            }
        }
    }

    /// Copies what stays of a segment that nobody appends to, evicts what `cut` takes, and removes it.
    pub(super) fn reclaim(&self, number: u32, cut: Cut) {
        let _alone = self.reclaiming.lock();
        let judge = self.leases.judge();
        let Ok(mut scan) = Scan::open(&self.segments, self.secret, number, super::segments::FIRST) else {
            return;
        };
        let (mut copies, mut length) = (Vec::new(), 0);
        // Somebody waits for the room, and compressing would take longer than copying.
        let in_need = cut != Cut::default();
        // What was removed must not come back from an older record, were the index ever made anew.
        let has_older = self.segments.from(0).first().is_some_and(|(first, _)| *first < number);
        for (place, header, payload) in scan.by_ref() {
            if header.dead {
                continue;
            }
            if header.role == Role::Removed {
                if has_older {
                    copies.push(self.copy_of(place, header, payload, None));
                }
                continue;
            }
            let mut evicted = None;
            let removed = self.table.remove(&header.key, |entry, touch| {
                evicted =
                    cut.takes(&judge, touch).filter(|_| entry.place == place && entry.form == Form::Record);
                evicted.is_some()
            });
            if let (Some(entry), Some(hold)) = (removed, evicted) {
                self.evicted(&entry, hold);
                // An older record of its name must not come back by a crash. Of a blob, it would say the same.
                if has_older && entry.space.function().is_none() {
                    let removal = Header {
                        role: Role::Removed,
                        encoding: Encoding::Identity,
                        size: 0,
                        stored: 0,
                        ..header
                    };
                    copies.push(self.copy_of(place, removal, Bytes::new(), None));
                }
                continue;
            }
            let Some(entry) = self.table.get(&header.key).filter(|entry| entry.place == place) else {
                continue;
            };
            let (encoding, payload) = match in_need {
                true => (header.encoding, payload),
                false => self.shrunk(&header, payload),
            };
            let copy = self.copy_of(place, Header { encoding, ..header }, payload, Some(&entry));
            length += HEADER + copy.payload.len();
            copies.push(copy);
            if length >= GROUP {
                if !self.carry(std::mem::take(&mut copies)) {
                    return;
                }
                length = 0;
            }
        }
        if scan.failed() || !self.carry(copies) {
            return;
        }
        if scan.skipped > 0 {
            self.give_up(number);
        }
        if let Err(error) = self.segments.remove(number) {
            return tracing::error!(number, %error, "a segment could not be removed");
        }
        self.counters.reclaimed.fetch_add(1, Relaxed);
    }

    fn copy_of(&self, place: Place, header: Header, payload: Bytes, entry: Option<&Entry>) -> Append {
        let file = entry.filter(|entry| entry.form == Form::File);
        Append {
            role: header.role,
            key: header.key,
            encoding: header.encoding,
            size: header.size,
            payload,
            blocks: file.map_or(0, |file| file.stored),
            incompressible: file.is_some_and(|file| !file.squeeze),
            // Copies take over the use of what they are copied from.
            stamp: self.leases.own_stamp(),
            instead_of: Some((place, header.sequence)),
        }
    }

    fn carry(&self, copies: Vec<Append>) -> bool {
        let answers: Vec<_> = self.log.append(copies).into_iter().map(answered_blocking).collect();
        let failed = answers.into_iter().find_map(Result::err);
        if let Some(error) = &failed {
            tracing::warn!("a segment is not reclaimed, since its records cannot be copied: {error}");
        }
        failed.is_none()
    }

    /// Gives up what still lies in a segment that is damaged and about to go.
    fn give_up(&self, number: u32) {
        let mut left = Vec::new();
        self.table.visit(|entry, touch| {
            if entry.place.segment == number {
                left.push((entry.place, self.leases.judge().hold(touch)));
            }
            Verdict::Keep
        });
        for (place, hold) in left {
            tracing::error!(?place, "a damaged record was found when its segment was reclaimed");
            self.quarantine_place(place);
            if hold == Hold::Hard {
                self.counters.violations.fetch_add(1, Relaxed);
            }
        }
    }

    /// In its smaller form, where it has one.
    pub(super) fn shrunk(&self, header: &Header, payload: Bytes) -> (Encoding, Bytes) {
        if header.role != Role::Content || header.encoding != Encoding::Identity {
            return (header.encoding, payload);
        }
        match frames::shrink(&payload) {
            Some(frame) => (Encoding::Zstd, frame.into()),
            None => (Encoding::Identity, payload),
        }
    }
}
