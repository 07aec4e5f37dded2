//! What all connections share, and what changes it: calls, scripts, flaps.

use super::{
    Plan,
    counters::Counters,
    link::{Link, State},
    script::{Change, Step, Trigger},
    shaper::Shaper,
};
use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub(super) struct Shared {
    pub(super) upstream: String,
    pub(super) seed: u64,
    pub(super) counters: Counters,
    /// One each way.
    pub(super) shapers: [Shaper; 2],
    /// Whether anything passes at this moment.
    pub(super) states: watch::Sender<State>,
    /// Counts the times that all connections were reset.
    pub(super) resets: watch::Sender<u64>,
    /// Counts the times that all connections were stranded.
    pub(super) strands: watch::Sender<u64>,
    started: Instant,
    now: Mutex<Now>,
    changed: Notify,
    /// The number of bytes at which the next step of the script is due.
    next_after: AtomicU64,
}

struct Now {
    link: Link,
    /// When the flaps began that there are.
    flapping_since: Instant,
    /// Steps of the script that are to come, the next one last.
    at: Vec<(Duration, Change)>,
    after: Vec<(u64, Change)>,
}

impl Shared {
    pub(super) fn new(upstream: String, link: Link, plan: Plan) -> Self {
        let (mut at, mut after) = (Vec::new(), Vec::new());
        for Step { trigger, change } in plan.script.into_steps() {
            match trigger {
                Trigger::At(time) => at.push((time, change)),
                Trigger::After(bytes) => after.push((bytes, change)),
            }
        }
        // Stable, and reversed before and after: equal ones stay in the order in which they are written.
        at.reverse();
        after.reverse();
        at.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        after.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let next_after = after.last().map_or(u64::MAX, |(bytes, _)| *bytes);
        let started = Instant::now();
        let (states, resets) = (watch::Sender::new(link.state), watch::Sender::new(0));
        Self {
            upstream,
            seed: plan.seed,
            counters: Counters::default(),
            shapers: [Shaper::new(), Shaper::new()],
            states,
            resets,
            strands: watch::Sender::new(0),
            started,
            now: Mutex::new(Now { link, flapping_since: started, at, after }),
            changed: Notify::new(),
            next_after: AtomicU64::new(next_after),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("nothing panics while it is locked")
    }

    pub(super) fn link(&self) -> Link {
        self.now().link.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Link)) {
        let mut now = self.now();
        let flaps = now.link.flaps;
        change(&mut now.link);
        if now.link.flaps != flaps {
            now.flapping_since = Instant::now();
        }
        self.enter(now.state().0);
        drop(now);
        self.changed.notify_one();
    }

    pub(super) fn reset(&self) {
        self.resets.send_modify(|times| *times += 1);
    }

    pub(super) fn strand(&self) {
        self.strands.send_modify(|times| *times += 1);
    }

    /// So many bytes have arrived: what the script has for them happens now.
    pub(super) fn follow_script(&self, all: u64) {
        while all >= self.next_after.load(Relaxed) {
            let mut now = self.now();
            let Some((_, change)) = now.after.pop_if(|(bytes, _)| *bytes <= all) else { break };
            self.next_after.store(now.after.last().map_or(u64::MAX, |(bytes, _)| *bytes), Relaxed);
            drop(now);
            self.apply(change);
        }
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Reset => self.reset(),
            Change::Strand => self.strand(),
            change => self.change(|link| change.apply(link)),
        }
    }

    fn enter(&self, state: State) {
        let entered = self.states.send_if_modified(|current| std::mem::replace(current, state) != state);
        if entered && state == State::Down {
            self.reset();
        }
    }

    /// Does what is due, and gives how long until something is again.
    fn advance(&self) -> Option<Duration> {
        let age = self.started.elapsed();
        while let Some((_, change)) = { self.now().at.pop_if(|(time, _)| *time <= age) } {
            self.apply(change);
        }
        let now = self.now();
        let (state, lasts) = now.state();
        self.enter(state);
        let next = now.at.last().map(|(time, _)| time.saturating_sub(age));
        next.into_iter().chain(lasts).min()
    }
}

impl Now {
    /// The state at this moment, and how long it lasts by itself.
    fn state(&self) -> (State, Option<Duration>) {
        match (self.link.state, self.link.flaps) {
            (State::Up, Some(flaps)) => {
                let (state, lasts) = flaps.at(self.flapping_since.elapsed());
                (state, Some(lasts))
            }
            (state, _) => (state, None),
        }
    }
}

/// Carries out scripts and flaps, for as long as the relay lives.
pub(super) async fn drive(shared: &Shared) {
    loop {
        let changed = shared.changed.notified();
        match shared.advance() {
            Some(wait) => {
                let _ = tokio::time::timeout(wait, changed).await;
            }
            None => changed.await,
        }
    }
}
