//! What was promised, to whom, and until when.
//!
//! Each entry of the index has a use beside it: a minute, and a bit for each running invocation that was promised the
//! thing. While one of those invocations runs, and for a grace after its last call, the thing is *hard*: nothing evicts
//! it. Then it is *soft* for the rest of the lease: it goes only before a write would be refused. Bits are few: while most
//! of them are free, each invocation has one of its own; when they get scarce, those that begin in the same part of the
//! grace share one, and it ends with the last of them. Nobody joins a bit that another one was begun after, so that each
//! ends some day, however many invocations come and go.

use super::{Policy, table::Touch};
use mortar_model::{Clock, Context, clock::since_epoch, context::Promise};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// Bits for running invocations.
const BITS: u16 = 14;
/// While no more bits than that are free, invocations share them.
const SCARCE: usize = 5;
/// Those that share a bit begin within this part of the grace, as long as there is another bit for those after.
const PART_OF_GRACE: u32 = 4;
/// Of what is pinned.
pub(super) const PINNED: u16 = 1 << 14;
/// Of what this process holds.
pub(super) const HELD: u16 = 1 << 15;
/// Minutes are kept within 16 bits by moving their origin by so many.
const SHIFT: u16 = 30_000;

pub(super) struct Leases {
    clock: Arc<dyn Clock>,
    started: Instant,
    /// Minutes when `started`: since the epoch at the first run, then of all runs.
    opened: u64,
    grace: Duration,
    lease: Duration,
    /// Bits of what runs.
    running: AtomicU16,
    state: Mutex<State>,
}

struct State {
    /// Minutes since the epoch at minute 0 of a use.
    origin: u64,
    /// What was touched up to then, nobody knows: a crash was in between.
    floor: u16,
    invocations: HashMap<String, Running>,
    /// The bit that was begun last, and when. Only this one is shared, even after all that had it have ended.
    youngest: (u16, Instant),
    /// Bits of invocations that have ended, which entries may still have.
    stale: u16,
}

struct Running {
    bit: u16,
    last_call: Instant,
}

impl State {
    /// Bits of those that run.
    fn running(&self) -> u16 {
        self.invocations.values().fold(0, |bits, running| bits | running.bit)
    }

    fn bit_for_a_new_one(&mut self, now: Instant, part: Duration) -> u16 {
        let (youngest, begun) = self.youngest;
        let running = self.running();
        let taken = running | self.stale | youngest;
        let free: Vec<u16> = (0..BITS).map(|bit| 1 << bit).filter(|bit| taken & bit == 0).collect();
        let shares = free.len() <= SCARCE && now < begun + part;
        match free.first() {
            Some(bit) if !shares => {
                self.stale |= youngest & !running;
                self.youngest = (*bit, now);
                *bit
            }
            _ => youngest,
        }
    }
}

/// What one call promises, to be applied to each entry that it is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    minute: u16,
    mask: u16,
    keep: bool,
}

impl Stamp {
    /// Promises nothing.
    pub fn glance() -> Self {
        Self { minute: 0, mask: 0, keep: false }
    }

    /// The use of an entry after this call.
    pub fn apply(self, touch: Touch) -> Touch {
        if !self.keep {
            return touch;
        }
        join(self.minute.max(minute(touch)), self.mask | mask(touch))
    }

    /// The use of a new entry.
    pub fn fresh(self) -> Touch {
        join(self.minute, if self.keep { self.mask } else { 0 })
    }
}

/// How firmly a thing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// Nobody counts on it.
    Free,
    /// It was promised; the lease has not ended.
    Soft,
    /// A running invocation counts on it, or it is pinned or held.
    Hard,
}

/// What is known of invocations and of time, to be taken up by the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// Minutes since the epoch.
    pub now: u64,
    pub origin: u64,
    pub invocations: Vec<(u16, String)>,
}

impl Leases {
    /// `clean`: the uses are all known, since the last run ended in order.
    pub fn new(policy: &Policy, saved: Saved, clean: bool) -> Self {
        let clock = policy.clock.clone();
        let started = clock.now();
        // Time stands still while nobody has the store open: so no wall clock that was set, forth or back, ends a lease,
        // or makes what is old look new.
        let opened = match saved.now {
            0 => since_epoch(clock.wall()).as_secs() / 60,
            now => now,
        };
        let origin = if saved.origin == 0 { opened.saturating_sub(1) } else { saved.origin };
        let running = |(bit, name)| (name, Running { bit, last_call: started });
        let invocations: HashMap<_, _> = saved.invocations.into_iter().map(running).collect();
        let youngest = (invocations.values().map(|running| running.bit).max().unwrap_or(1), started);
        let state = State { origin, floor: 0, invocations, youngest, stale: 0 };
        let leases = Self {
            clock,
            started,
            opened,
            grace: policy.leases.grace,
            lease: policy.leases.lease,
            running: AtomicU16::new(state.running() | PINNED | HELD),
            state: Mutex::new(state),
        };
        if !clean {
            let now = leases.minute();
            leases.state.lock().floor = now;
        }
        leases
    }

    /// What a call promises. Takes note that its invocation runs.
    pub fn stamp(&self, context: &Context) -> Stamp {
        let keep = context.promise == Promise::Lease;
        let invocation = &context.request.tool_invocation_id;
        let mask = if keep && !invocation.is_empty() { self.bit(invocation) } else { 0 };
        Stamp { minute: self.minute(), mask, keep }
    }

    /// Of what the store does by itself.
    pub fn own_stamp(&self) -> Stamp {
        Stamp { minute: self.minute(), mask: 0, keep: true }
    }

    fn bit(&self, invocation: &str) -> u16 {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if let Some(running) = state.invocations.get_mut(invocation) {
            running.last_call = now;
            return running.bit;
        }
        let bit = state.bit_for_a_new_one(now, self.grace / PART_OF_GRACE);
        state.invocations.insert(invocation.into(), Running { bit, last_call: now });
        self.running.fetch_or(bit, Ordering::Relaxed);
        bit
    }

    /// Ends invocations that were not heard of for the grace. Returns the bits that entries are to be freed of;
    /// `cleaned` tells that this was done.
    pub fn end_idle(&self) -> u16 {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let grace = self.grace;
        let before = state.running();
        state.invocations.retain(|_, running| now.saturating_duration_since(running.last_call) < grace);
        let after = state.running();
        state.stale |= before & !after & !state.youngest.0;
        self.running.store(after | PINNED | HELD, Ordering::Relaxed);
        state.stale
    }

    /// No entry has these bits any more.
    pub fn cleaned(&self, bits: u16) {
        self.state.lock().stale &= !bits;
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    pub fn running(&self) -> usize {
        self.state.lock().invocations.len()
    }

    pub fn judge(&self) -> Judge {
        let state = self.state.lock();
        let lease = (self.lease.as_secs() / 60).min(u64::from(u16::MAX)) as u16;
        let now = minute_at(self.minutes(), state.origin);
        Judge { running: self.running.load(Ordering::Relaxed), now, lease, floor: state.floor }
    }

    pub fn saved(&self) -> Saved {
        let state = self.state.lock();
        let mut invocations: Vec<_> =
            state.invocations.iter().map(|(name, running)| (running.bit, name.clone())).collect();
        invocations.sort();
        Saved { now: self.minutes(), origin: state.origin, invocations }
    }

    /// By how many minutes all uses are to be moved back, once in some weeks, so that they stay within their bits.
    /// The caller moves the uses while no other stamps are made.
    pub fn shift(&self) -> Option<u16> {
        let mut state = self.state.lock();
        let due = minute_at(self.minutes(), state.origin) >= 2 * SHIFT;
        due.then(|| {
            state.origin += u64::from(SHIFT);
            state.floor = state.floor.saturating_sub(SHIFT);
            SHIFT
        })
    }

    /// The present minute.
    pub fn now(&self) -> u16 {
        self.minute()
    }

    fn minute(&self) -> u16 {
        minute_at(self.minutes(), self.state.lock().origin)
    }

    /// Of all runs. Within one only the monotonic clock counts, so that no jump of the other ends a lease.
    fn minutes(&self) -> u64 {
        self.opened + self.clock.now().saturating_duration_since(self.started).as_secs() / 60
    }
}

/// Tells how firmly things are kept, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    running: u16,
    now: u16,
    lease: u16,
    floor: u16,
}

impl Judge {
    pub fn hold(&self, touch: Touch) -> Hold {
        if mask(touch) & self.running != 0 {
            return Hold::Hard;
        }
        let promised = minute(touch).max(self.floor);
        match promised.saturating_add(self.lease) > self.now {
            true => Hold::Soft,
            false => Hold::Free,
        }
    }
}

/// When a thing was used, for the order in which things go.
pub(super) fn minute(touch: Touch) -> u16 {
    (touch >> 16) as u16
}

pub(super) fn mask(touch: Touch) -> u16 {
    touch as u16
}

pub(super) fn join(minute: u16, mask: u16) -> Touch {
    u32::from(minute) << 16 | u32::from(mask)
}

fn minute_at(now: u64, origin: u64) -> u16 {
    now.saturating_sub(origin).min(u64::from(u16::MAX)) as u16
}
