//! The thread that keeps the store in order: makes room, ends idle invocations, reclaims segments, makes the index
//! durable now and then. It never keeps a reader waiting, and a writer only where there is no room.

use super::{Shared, room::Standing};
use parking_lot::{Condvar, Mutex};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// It looks around this often without being called.
const TICK: Duration = Duration::from_secs(1);
/// It tidies this often.
const TIDY: Duration = Duration::from_secs(60);
/// Room that is left to others on the file system, of what it has, in hundredths; and at most in bytes.
const LEAVE_FREE: u64 = 2;
const LEAVE_FREE_AT_MOST: u64 = 4 << 30;

#[derive(Default)]
pub(super) struct Keeper {
    woken: Mutex<bool>,
    wake: Condvar,
    stopped: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Keeper {
    pub fn wake(&self) {
        *self.woken.lock() = true;
        self.wake.notify_one();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
        *self.ended.lock() = true;
        self.end.notify_all();
        self.wake();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Waits so long, or until it is stopped.
    pub fn wait_stopped(&self, time: Duration) {
        let mut ended = self.ended.lock();
        if !*ended {
            self.end.wait_for(&mut ended, time);
        }
    }

    fn wait(&self) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.wake.wait_for(&mut woken, TICK);
        }
        *woken = false;
    }
}

/// Runs the thread's work until it is stopped.
pub(super) fn run(shared: &Arc<Shared>) {
    shared.refresh_free();
    shared.set_holds();
    shared.set_pins();
    shared.take_stock();
    if shared.unclean {
        shared.find_strays();
    }
    for rubbish in shared.layout.rubbish() {
        remove(&rubbish);
    }
    let mut tidied = Instant::now();
    while !shared.keeper.is_stopped() {
        shared.round();
        if tidied.elapsed() >= TIDY {
            shared.end_invocations();
            shared.tidy();
            tidied = Instant::now();
        }
        shared.checkpoint_if_due();
        shared.keeper.wait();
    }
}

fn remove(path: &std::path::Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!(%error, "what an earlier run left could not be removed");
    }
}

impl Shared {
    /// Sees to it that there is room: for those who wait, and some ahead.
    pub(super) fn round(&self) {
        self.refresh_free();
        self.expire_uploads();
        self.remove_strays();
        let round = self.room.begin_round();
        let (wanted, before) = (round.wanted, self.standing());
        let Standing { total, limit, .. } = before;
        let over = (total + wanted).saturating_sub(limit);
        let ahead = limit / 32;
        if over > 0 {
            self.end_invocations();
            self.make_room(over, ahead, wanted > 0 || total > limit);
        } else if total + ahead > limit {
            self.make_room(0, ahead, false);
        }
        self.room.end_round(&round, before, self.standing());
    }

    /// Counts what there is, so that the figures are exact from now on.
    fn take_stock(&self) {
        // What lies in segments that are gone is forgotten first.
        self.census();
        self.usage.correct(self.table.at_the_start());
        self.stock_taken.store(true, Relaxed);
    }

    pub(super) fn end_invocations(&self) {
        let stale = self.leases.end_idle();
        if stale != 0 {
            self.table.clear_promises(stale);
            self.leases.cleaned(stale);
        }
        if let Some(minutes) = self.leases.shift() {
            self.table.move_back(minutes);
        }
    }

    fn refresh_free(&self) {
        let Ok(stat) = rustix::fs::statvfs(self.layout.root()) else { return };
        let reserve = (stat.f_blocks * stat.f_frsize / 100 * LEAVE_FREE).min(LEAVE_FREE_AT_MOST);
        let free = (stat.f_bavail * stat.f_frsize).saturating_sub(reserve);
        self.room.leave.store(self.total().saturating_add(free), Relaxed);
    }
}
