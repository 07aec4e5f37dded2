//! Which things go when room is needed: those that nobody counts on, in order of their last use; then, only where a
//! write would be refused otherwise, those whose soft lease has not ended. Hard leases are never touched.
//!
//! One look over the index finds how much was used when, a second one what goes. Files go one by one, what is in
//! segments goes by segments (`reclaim`).

use super::{
    BLOCK, Shared,
    frame::{HEADER, Place, Role, filled},
    key::{Key, Space},
    leases::{self, Hold, Judge},
    log::{Append, answered_blocking},
    table::{Entry, Form, Touch, Verdict},
    usage,
};
use bytes::Bytes;
use mortar_model::Encoding;
use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering::Relaxed,
};

/// What goes: everything of a kind that was used no later than this minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub free: Option<u16>,
    pub soft: Option<u16>,
}

impl Cut {
    pub fn takes(self, judge: &Judge, touch: Touch) -> Option<Hold> {
        let hold = judge.hold(touch);
        let limit = match hold {
            Hold::Free => self.free,
            Hold::Soft => self.soft,
            Hold::Hard => None,
        };
        limit.filter(|limit| leases::minute(touch) <= *limit).map(|_| hold)
    }
}

/// What there is, by one look over the index.
#[derive(Default)]
pub(super) struct Census {
    /// Bytes by the minute of their last use.
    free: BTreeMap<u16, u64>,
    soft: BTreeMap<u16, u64>,
    /// Bytes of records that are in use, by segment.
    pub live: HashMap<u32, u64>,
    pub files: u64,
    /// Blobs, results, values.
    pub counts: [u64; 3],
    /// Entries of segments that are gone.
    lost: u64,
}

impl Census {
    /// Up to where things must go for `needed` bytes; leased ones only if `urgent`.
    fn cut(&self, needed: u64, urgent: bool) -> Cut {
        let mut left = needed;
        let mut reach = |ages: &BTreeMap<u16, u64>| {
            let mut last = None;
            for (minute, bytes) in ages {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(*bytes);
                last = Some(*minute);
            }
            last
        };
        let free = reach(&self.free);
        let soft = if urgent { reach(&self.soft) } else { None };
        Cut { free, soft }
    }
}

/// What an entry takes in its segment.
pub(super) fn record_bytes(entry: &Entry) -> u64 {
    match entry.form {
        Form::Record => filled(HEADER + entry.stored as usize) as u64,
        // The list of its pieces; exact enough to tell full segments from empty ones.
        Form::File => filled(HEADER + 8 + entry.size.div_ceil(super::pieces::PIECE) as usize * 12) as u64,
    }
}

impl Shared {
    /// Looks over the index. What lies in segments that are gone is forgotten.
    pub(super) fn census(&self) -> Census {
        let (mut census, judge) = (Census::default(), self.leases.judge());
        self.table.visit(|entry, touch| {
            if !self.segments.contains(entry.place.segment) {
                census.lost += 1;
                return Verdict::Remove;
            }
            let bytes = record_bytes(entry);
            *census.live.entry(entry.place.segment).or_default() += bytes;
            census.files += usage::file_bytes(entry);
            match entry.space {
                Space::Sha256 | Space::Blake3 => census.counts[0] += 1,
                Space::Result => census.counts[1] += 1,
                Space::Value => census.counts[2] += 1,
                Space::Producer | Space::Recipe => {}
            }
            let ages = match judge.hold(touch) {
                Hold::Free => &mut census.free,
                Hold::Soft => &mut census.soft,
                Hold::Hard => return Verdict::Keep,
            };
            *ages.entry(leases::minute(touch)).or_default() += bytes + usage::file_bytes(entry);
            Verdict::Keep
        });
        census
    }

    /// Makes `needed` bytes of room, or as much as can be had.
    pub(super) fn make_room(&self, needed: u64, urgent: bool) {
        let start = self.total();
        let target = start.saturating_sub(needed);
        self.drop_made_files(needed);
        let still_needed = |shared: &Self| shared.total().saturating_sub(target);
        while still_needed(self) > 0 && self.drop_idle_upload(urgent) {}
        if still_needed(self) == 0 {
            return;
        }
        let census = self.census();
        let dead: u64 = self
            .segments
            .from(0)
            .iter()
            .map(|(number, length)| length.saturating_sub(census.live.get(number).copied().unwrap_or(0)))
            .sum();
        // What is dead already needs nobody to go; but not all of it can be had.
        let cut = census.cut(still_needed(self).saturating_sub(dead / 2), urgent);
        self.sweep_files(cut, still_needed(self));
        if still_needed(self) > 0 {
            self.sweep_segments(cut, target);
        }
        tracing::debug!(needed, urgent, ?cut, made = start.saturating_sub(self.total()), "made room");
    }

    /// Evicts files up to the cut, those that were not used for longest first, until so much is freed.
    fn sweep_files(&self, cut: Cut, needed: u64) {
        let judge = self.leases.judge();
        let mut found: Vec<(Hold, u16, Place, u64)> = Vec::new();
        self.table.visit(|entry, touch| {
            if entry.form == Form::File
                && let Some(hold) = cut.takes(&judge, touch)
            {
                found.push((hold, leases::minute(touch), entry.place, usage::file_bytes(entry)));
            }
            Verdict::Keep
        });
        found.sort_unstable();
        let mut left = needed;
        let going = found.into_iter().take_while(|(.., bytes)| {
            let more = left > 0;
            left = left.saturating_sub(*bytes);
            more
        });
        // The whole key is in the record.
        let keys = going.filter_map(|(_, _, place, _)| Some(self.segments.read_any(place).ok()?.0.key));
        let keys: Vec<Key> = keys.collect();
        for group in keys.chunks(256) {
            self.evict_files(group, |touch| cut.takes(&judge, touch));
        }
    }

    /// Takes files out of the index, tells the log, and removes them: in this order, so that a crash in between never
    /// leaves an entry without its file.
    fn evict_files(&self, keys: &[Key], takes: impl Fn(Touch) -> Option<Hold>) {
        let mut going = Vec::new();
        for key in keys {
            if !self.names.begin_removal(*key) {
                continue;
            }
            let mut held = None;
            let removed = self.table.remove(key, |entry, touch| {
                held = takes(touch).filter(|_| entry.form == Form::File);
                held.is_some()
            });
            match (removed, held) {
                (Some(entry), Some(hold)) => {
                    self.evicted(&entry, hold);
                    going.push(*key);
                }
                _ => self.names.end_removal(*key),
            }
        }
        self.log_removal(&going);
        for key in going {
            for path in self.file_paths(key) {
                let _ = self.medium.remove(&path);
            }
            self.names.end_removal(key);
        }
    }

    /// Writes down, durably, that these are gone.
    pub(super) fn log_removal(&self, keys: &[Key]) {
        let appends = keys.iter().map(|key| self.removal(*key));
        for answer in self.log.append(appends).into_iter().map(answered_blocking) {
            if let Err(error) = answer {
                tracing::error!("an eviction could not be written down: {error}");
            }
        }
    }

    pub(super) fn removal(&self, key: Key) -> Append {
        let stamp = self.leases.own_stamp();
        let (encoding, payload) = (Encoding::Identity, Bytes::new());
        Append {
            role: Role::Removed,
            key,
            encoding,
            size: 0,
            payload,
            blocks: 0,
            incompressible: false,
            stamp,
            instead_of: None,
        }
    }

    pub(super) fn evicted(&self, entry: &Entry, hold: Hold) {
        self.usage.replaced(Some(entry), None);
        self.counters.evictions.fetch_add(1, Relaxed);
        if hold == Hold::Soft {
            self.counters.shed.fetch_add(1, Relaxed);
        }
    }

    /// Reclaims segments until the store is down to `target`: first those that give most for the least copying.
    fn sweep_segments(&self, cut: Cut, target: u64) {
        let Some(sealed) = self.seal() else { return };
        let judge = self.leases.judge();
        let mut staying: HashMap<u32, u64> = HashMap::new();
        self.table.visit(|entry, touch| {
            // A file's record stays with its file.
            if entry.form == Form::File || cut.takes(&judge, touch).is_none() {
                *staying.entry(entry.place.segment).or_default() += record_bytes(entry);
            }
            Verdict::Keep
        });
        let gain = |(number, length): (u32, u64)| {
            let gain = length.saturating_sub(staying.get(&number).copied().unwrap_or(0));
            (10 - gain * 10 / length.max(1), number, length, gain)
        };
        let mut segments: Vec<_> = self.segments.from(0).into_iter().map(gain).collect();
        segments.retain(|(_, number, length, gain)| *number <= sealed && *gain > length / 20);
        segments.sort_unstable();
        for (_, number, ..) in segments {
            if self.total() <= target || self.keeper.is_stopped() {
                return;
            }
            self.reclaim(number, cut);
        }
    }

    /// Reclaims segments of which little is in use, without evicting anything.
    pub(super) fn tidy(&self) {
        let census = self.census();
        let last = self.segments.last();
        for (number, length) in self.segments.from(0) {
            let live = census.live.get(&number).copied().unwrap_or(0);
            if Some(number) != last && live * 2 < length && length > BLOCK && !self.keeper.is_stopped() {
                self.reclaim(number, Cut::default());
            }
        }
    }
}
