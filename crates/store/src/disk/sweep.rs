//! Which things go when room is needed: those that nobody counts on, in order of their last use; then, only where a
//! write would be refused otherwise, those whose soft lease has not ended. Hard leases are never touched.
//!
//! One look over the index finds how much was used when, a second one what goes. Files go one by one, what is in
//! segments goes by segments (`reclaim`).

use super::{
    BLOCK, Shared,
    frame::{HEADER, Place, Role, filled},
    key::Key,
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

/// A segment of which less can be had, in hundredths, is not copied, by attempt: what is copied waits for the same disk as
/// those for whom the room is made. Without any such bound only where something would be refused otherwise. Each attempt
/// has seen what came of the last one.
const WORTH: [u64; 4] = [25, 10, 0, 0];

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
                self.usage.replaced(Some(entry), None);
                return Verdict::Remove;
            }
            let bytes = record_bytes(entry);
            *census.live.entry(entry.place.segment).or_default() += bytes;
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

    /// Makes `needed` bytes of room and some `ahead`, or as much as can be had: what nobody counts on goes first, and only then, if it is
    /// `urgent`, uploads that may still be continued and what is leased.
    pub(super) fn make_room(&self, needed: u64, ahead: u64, urgent: bool) {
        let _alone = self.sweeping.lock();
        let start = self.total();
        let target = start.saturating_sub(needed);
        self.drop_made_files(needed + ahead);
        while self.total() > target && self.drop_idle_upload(false) {}
        self.sweep_to(target, ahead, false);
        if urgent {
            while self.total() > target && self.drop_idle_upload(true) {}
            self.sweep_to(target, ahead, true);
        }
        tracing::debug!(needed, urgent, made = start.saturating_sub(self.total()), "made room");
    }

    /// Evicts things until the store is down to `target`, leased ones too if `urgent`; or until that gives no more. At
    /// the first attempt, while it is cheap, it goes some way `ahead`.
    fn sweep_to(&self, target: u64, ahead: u64, urgent: bool) {
        for (attempt, least) in WORTH.into_iter().enumerate() {
            let target = if attempt == 0 { target.saturating_sub(ahead) } else { target };
            let before = self.total();
            if before <= target || self.keeper.is_stopped() {
                return;
            }
            let census = self.census();
            let live = |number: &u32| census.live.get(number).copied().unwrap_or(0);
            // What is dead already needs nobody to go. But not all of it can be had; the next attempt knows how much.
            let dead: u64 = self
                .segments
                .from(0)
                .iter()
                .map(|(number, length)| length.saturating_sub(live(number)))
                .sum();
            let dead = if attempt == 0 { dead / 2 } else { 0 };
            let cut = census.cut((before - target).saturating_sub(dead), urgent);
            self.sweep_files(cut, before - target);
            if self.total() > target && (least > 0 || urgent) {
                self.sweep_segments(cut, target, least);
            }
            if least == 0 && self.total() >= before {
                return;
            }
        }
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
            self.remove_files(key);
            self.names.end_removal(key);
        }
    }

    /// Writes down, durably, that these are gone. On a disk too full for that, the index alone has to tell it.
    pub(super) fn log_removal(&self, keys: &[Key]) {
        let appends = keys.iter().map(|key| self.removal(*key));
        let answers: Vec<_> = self.log.append(appends).into_iter().map(answered_blocking).collect();
        let Some(error) = answers.into_iter().find_map(Result::err) else { return };
        tracing::warn!("a removal is told of by the index alone: {error}");
        if let Err(error) = self.table.flush() {
            tracing::error!(%error, "a removal could not be written down");
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

    /// Reclaims segments until the store is down to `target`: first those that give most for the least copying, and
    /// none that gives less than this many hundredths of it.
    fn sweep_segments(&self, cut: Cut, target: u64, least: u64) {
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
        segments.retain(|(_, _, length, gain)| *gain > length * least / 100);
        let gains: u64 = segments.iter().map(|(.., gain)| gain).sum();
        if least == 0 && gains < self.total().saturating_sub(target) {
            // Much would be copied, and it would not be enough.
            return;
        }
        segments.sort_unstable();
        for (_, number, ..) in segments {
            if self.total() <= target || self.keeper.is_stopped() {
                return;
            }
            // The log appends to the last one until it is told to begin another.
            if self.segments.last() == Some(number) && self.seal().is_none() {
                continue;
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
