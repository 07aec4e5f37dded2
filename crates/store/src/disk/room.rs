//! Room on the disk: what is about to be written reserves it first, and waits a while where the keeper has to make it.
//! What cannot be made, since running builds count on all that is there, is refused with the advice to come again.

use super::{Shared, table::MAX_SIZE};
use crate::blocking::hop;
use mortar_model::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long a write waits for room at most; within it, the keeper makes some or gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this time other writes may have ended, or leases.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Room {
    state: Mutex<State>,
    changed: Condvar,
    /// What the file system leaves us with what we have; updated now and then.
    pub leave: AtomicU64,
    pub refused: AtomicU64,
    /// All that writers were given since the start.
    given: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Bytes that writers wait for.
    wanted: u64,
    /// Rounds of the keeper that were begun, and the last one that could not make what was wanted.
    begun: u64,
    in_vain: u64,
}

/// A round of the keeper.
pub(super) struct Round {
    /// Bytes that writers wait for.
    pub wanted: u64,
    given: u64,
}

/// How the store stands.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub total: u64,
    pub limit: u64,
    /// Things that were evicted since the start.
    pub evicted: u64,
}

impl Room {
    /// Begins a round, which `end_round` ends.
    pub fn begin_round(&self) -> Round {
        let mut state = self.state.lock();
        state.begun += 1;
        Round { wanted: state.wanted, given: self.given.load(Relaxed) }
    }

    /// It was in vain if nothing went and what was wanted does not fit, even without what other writers were given
    /// meanwhile: that was room, and there may be more.
    pub fn end_round(&self, round: &Round, before: Standing, now: Standing) {
        let meanwhile = self.given.load(Relaxed) - round.given;
        let fits = now.total.saturating_sub(meanwhile) + round.wanted <= now.limit;
        let mut state = self.state.lock();
        if round.wanted > 0 && !fits && now.evicted == before.evicted {
            state.in_vain = state.begun;
        }
        self.changed.notify_all();
    }
}

/// Room for what is being written; given back when dropped.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    pub fn none(shared: Arc<Shared>) -> Self {
        Self { shared, bytes: 0 }
    }

    /// Sees to it that there is room for `bytes` in all. Blocks.
    pub fn reach(&mut self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.shared.take_room(more)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Gives it back, since what was written is counted as such by now.
    pub fn release(&mut self) {
        self.shared.usage.in_flight.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

impl Shared {
    /// Reserves room, without blocking.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        if self.try_take_room(bytes) {
            return Ok(Reservation { shared: self.clone(), bytes });
        }
        let mut reservation = Reservation::none(self.clone());
        hop(move || reservation.reach(bytes).map(|()| reservation)).await
    }

    /// What the store takes, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.segments.footprint() + self.table.footprint() + self.usage.beside_segments()
    }

    /// What it may take now, for all but compaction: of its size, and of what others leave on the disk.
    pub(super) fn limit(&self) -> u64 {
        self.max_size.min(self.room.leave.load(Relaxed)).saturating_sub(self.compaction_reserve())
    }

    pub(super) fn standing(&self) -> Standing {
        let evicted = self.counters.evictions.load(Relaxed);
        Standing { total: self.total(), limit: self.limit(), evicted }
    }

    fn try_take_room(&self, bytes: u64) -> bool {
        let (limit, in_flight) = (self.limit(), &self.usage.in_flight);
        let others = self.total().saturating_sub(in_flight.load(Relaxed));
        // All at once: what one writer tries for must not stand in the way of another.
        let take = |taken: u64| (others + taken + bytes <= limit).then_some(taken + bytes);
        let taken = in_flight.fetch_update(Relaxed, Relaxed, take).is_ok();
        if taken {
            self.room.given.fetch_add(bytes, Relaxed);
        }
        taken
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        if self.try_take_room(bytes) {
            return Ok(());
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut state = self.room.state.lock();
        state.wanted += bytes;
        // A round that has begun already may not know of this wish.
        let enough = state.begun + 1;
        self.keeper.wake();
        let fits = loop {
            let timed_out = self.room.changed.wait_until(&mut state, deadline).timed_out();
            if self.try_take_room(bytes) {
                break true;
            }
            if timed_out || state.in_vain >= enough {
                break false;
            }
            self.keeper.wake();
        };
        state.wanted -= bytes;
        drop(state);
        match fits {
            true => Ok(()),
            false => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> Error {
        self.room.refused.fetch_add(1, Relaxed);
        let (total, limit) = (self.total(), self.limit());
        let message = format!(
            "the store is full: it takes {total} bytes of {limit}, and running builds count on what is there"
        );
        let error = Error::new(Kind::ResourceExhausted { message, retry_after: Some(RETRY) });
        error.hint("a larger `--max-size`, or fewer builds at a time, would help")
    }

    /// Refuses what could never fit.
    pub(super) fn check_fits(&self, length: u64) -> Result<()> {
        let most = self.max_size.saturating_sub(self.compaction_reserve()).min(MAX_SIZE);
        if length <= most {
            return Ok(());
        }
        let message = format!("{length} bytes do not fit into the store, which has room for {most} bytes");
        Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }))
    }
}
