//! The workers: what they offer and how much of it is taken, what they run, when they were last heard.

use super::{
    TicketId, WorkerId, after,
    classes::ClassId,
    need::{Demand, Need, Room},
};
use crate::{Config, Standing, WorkerStatus};
use mortar_model::{
    Context, Digest, Platform,
    session::{ExecutionId, Hello},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
    /// Those with a free slot that take work.
    open: BTreeSet<WorkerId>,
    /// Counts assignments, so that of equally loaded workers the one that waited longest is next.
    turns: u64,
}

/// One session, or what is left of one whose connection ended and whose worker may come back.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) platform: Platform,
    pub(super) size: Room,
    pub(super) version: u32,
    pub(super) process: String,
    pub(super) running: BTreeMap<ExecutionId, Attempt>,
    pub(super) draining: bool,
    pub(super) paused: bool,
    /// The connection ended; until when its work waits for it.
    pub(super) away: Option<Instant>,
    slots: u32,
    used: Room,
    since: Instant,
    heard: Instant,
    beat: Instant,
    turn: u64,
    layers: Vec<String>,
    images: Vec<String>,
}

/// A slot that is taken.
#[derive(Debug)]
pub(super) struct Attempt {
    /// For which job; none once it was cancelled, or as long as nobody has claimed it.
    pub(super) job: Option<TicketId>,
    pub(super) context: Context,
    pub(super) action_digest: Digest,
    pub(super) number: u32,
    pub(super) since: Instant,
    /// Whose share it counts in, and how much.
    pub(super) class: ClassId,
    pub(super) weight: u64,
    pub(super) need: Need,
}

impl Workers {
    pub(super) fn join(&mut self, now: Instant, id: WorkerId, hello: Hello, paused: bool, config: &Config) {
        let worker = Worker {
            size: Room::of(hello.capacity, hello.slots),
            name: hello.name,
            platform: hello.platform,
            version: hello.version,
            process: hello.process,
            running: BTreeMap::new(),
            draining: hello.draining,
            paused,
            away: None,
            slots: hello.slots,
            used: Room::default(),
            since: now,
            heard: now,
            beat: after(now, config.heartbeat_interval),
            turn: 0,
            layers: hello.layers,
            images: hello.images,
        };
        self.all.insert(id, worker);
        self.refresh(id);
    }

    /// Forgets a worker; what it ran is in the answer.
    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.open.remove(&id);
        self.all.remove(&id)
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.all.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.all.iter().map(|(id, worker)| (*id, worker))
    }

    /// The session, current or ended, of this run of a worker.
    pub(super) fn of_process(&self, process: &str) -> Option<WorkerId> {
        let same = |worker: &Worker| !process.is_empty() && worker.process == process;
        self.iter().find(|(_, worker)| same(worker)).map(|(id, _)| id)
    }

    /// Takes in a sign of life. False if the session has ended.
    pub(super) fn heard(&mut self, now: Instant, id: WorkerId) -> bool {
        let here = self.all.get_mut(&id).filter(|worker| worker.away.is_none());
        here.map(|worker| worker.heard = now).is_some()
    }

    /// Changes how a worker stands to new work.
    pub(super) fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.all.get_mut(&id) {
            change(worker);
        }
        self.refresh(id);
    }

    /// Whether a worker takes such work now.
    pub(super) fn have_room(&self, demand: &Demand) -> bool {
        self.open().any(|(_, worker)| worker.takes(demand) && worker.has_room(demand))
    }

    /// Whether any worker takes any work now.
    pub(super) fn are_full(&self) -> bool {
        self.open.is_empty()
    }

    /// The least loaded worker that takes such work now and is not kept free for other work. Those in `avoid` only come
    /// into question if no other worker could ever take it.
    pub(super) fn pick(
        &self,
        demand: &Demand,
        kept_free: &BTreeSet<WorkerId>,
        avoid: impl Fn(WorkerId) -> bool,
    ) -> Option<WorkerId> {
        let fit = |(id, worker): &(WorkerId, &Worker)| {
            !kept_free.contains(id) && worker.takes(demand) && worker.has_room(demand)
        };
        let load = |(id, worker): &(WorkerId, &Worker)| (worker.load(), worker.turn, *id);
        let best = self.open().filter(fit).filter(|(id, _)| !avoid(*id)).min_by_key(load);
        let best = best.or_else(|| {
            let elsewhere = |(id, worker): (WorkerId, &Worker)| worker.takes(demand) && !avoid(id);
            let reluctantly = self.open().filter(fit).min_by_key(load)?;
            (!self.iter().any(elsewhere)).then_some(reluctantly)
        });
        best.map(|(id, _)| id)
    }

    /// The worker that will have room for this soonest, as far as one can tell, and that is not kept free already.
    pub(super) fn emptiest(&self, demand: &Demand, kept_free: &BTreeSet<WorkerId>) -> Option<WorkerId> {
        let fit = |(id, worker): &(WorkerId, &Worker)| !kept_free.contains(id) && worker.takes(demand);
        self.iter().filter(fit).min_by_key(|(id, worker)| (worker.load(), *id)).map(|(id, _)| id)
    }

    /// Takes a slot.
    pub(super) fn start(&mut self, id: WorkerId, execution: ExecutionId, attempt: Attempt) {
        self.turns += 1;
        if let Some(worker) = self.all.get_mut(&id) {
            worker.turn = self.turns;
            worker.hold(execution, attempt);
        }
        self.refresh(id);
    }

    /// Gives a slot back. Only the worker that has the attempt can end it.
    pub(super) fn end(&mut self, id: WorkerId, execution: &ExecutionId) -> Option<(String, Attempt)> {
        let worker = self.all.get_mut(&id)?;
        let attempt = worker.running.remove(execution)?;
        worker.used.cpu_millis -= attempt.need.cpu_millis;
        worker.used.memory -= attempt.need.memory;
        let name = worker.name.clone();
        self.refresh(id);
        Some((name, attempt))
    }

    /// An attempt that was not ended.
    pub(super) fn attempt(&mut self, id: WorkerId, execution: &ExecutionId) -> Option<&mut Attempt> {
        self.all.get_mut(&id)?.running.get_mut(execution)
    }

    /// Parts an attempt from its job; the slot stays taken. Whether the worker is to be told: it may not run any more,
    /// or be away.
    pub(super) fn cancel(&mut self, id: WorkerId, execution: &ExecutionId) -> bool {
        let Some(worker) = self.all.get_mut(&id) else { return false };
        let here = worker.away.is_none();
        worker.running.get_mut(execution).is_some_and(|attempt| attempt.job.take().is_some()) && here
    }

    /// Whether it is connected.
    pub(super) fn is_here(&self, id: WorkerId) -> bool {
        self.all.get(&id).is_some_and(|worker| worker.away.is_none())
    }

    /// Workers of which nothing was heard for too long.
    pub(super) fn silent(&self, now: Instant, config: &Config) -> Vec<WorkerId> {
        let silent = |worker: &Worker| now.saturating_duration_since(worker.heard) >= config.silence();
        self.here().filter(|(_, worker)| silent(worker)).map(|(id, _)| id).collect()
    }

    /// Workers that did not come back in time.
    pub(super) fn gone(&self, now: Instant) -> Vec<WorkerId> {
        let gone = |worker: &Worker| worker.away.is_some_and(|until| until <= now);
        self.iter().filter(|(_, worker)| gone(worker)).map(|(id, _)| id).collect()
    }

    /// Workers that are due a sign of life; the next is due an interval from now.
    pub(super) fn beats(&mut self, now: Instant, config: &Config) -> Vec<WorkerId> {
        let mut due = Vec::new();
        let here = self.all.iter_mut().filter(|(_, worker)| worker.away.is_none());
        for (id, worker) in here.filter(|(_, worker)| worker.beat <= now) {
            worker.beat = after(now, config.heartbeat_interval);
            due.push(*id);
        }
        due
    }

    pub(super) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        let deadline = |worker: &Worker| match worker.away {
            Some(until) => until,
            None => worker.beat.min(after(worker.heard, config.silence())),
        };
        self.all.values().map(deadline).min()
    }

    pub(super) fn status(&self, now: Instant) -> Vec<WorkerStatus> {
        self.all.values().map(|worker| worker.status(now)).collect()
    }

    fn open(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.open.iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    fn here(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.iter().filter(|(_, worker)| worker.away.is_none())
    }

    fn refresh(&mut self, id: WorkerId) {
        let open = self.all.get(&id).is_some_and(|worker| worker.serves() && worker.busy() < worker.slots);
        if open {
            self.open.insert(id);
        } else {
            self.open.remove(&id);
        }
    }
}

impl Worker {
    /// Whether it takes new work.
    pub(super) fn serves(&self) -> bool {
        !self.draining && !self.paused && self.away.is_none()
    }

    /// Whether it could ever run this.
    pub(super) fn suits(&self, demand: &Demand) -> bool {
        self.size.holds(demand.declared) && demand.platform.unmet_by(&self.platform).next().is_none()
    }

    pub(super) fn takes(&self, demand: &Demand) -> bool {
        self.serves() && self.suits(demand)
    }

    /// How much of the worker this takes, in thousandths of its processors: the largest of its parts of the slots, the
    /// processors and the memory.
    pub(super) fn weight(&self, need: Need) -> u64 {
        let slot = self.size.cpu_millis / u64::from(self.slots.max(1));
        let memory =
            u128::from(self.size.cpu_millis) * u128::from(need.memory) / u128::from(self.size.memory.max(1));
        slot.max(need.cpu_millis).max(u64::try_from(memory).unwrap_or(u64::MAX)).max(1)
    }

    /// Takes in an attempt that it runs.
    pub(super) fn hold(&mut self, execution: ExecutionId, attempt: Attempt) {
        self.used.cpu_millis += attempt.need.cpu_millis;
        self.used.memory += attempt.need.memory;
        self.running.insert(execution, attempt);
    }

    fn busy(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    fn has_room(&self, demand: &Demand) -> bool {
        let mut left = self.size;
        left.take(Need { cpu_millis: self.used.cpu_millis, memory: self.used.memory });
        self.busy() < self.slots && (left.holds(demand.need) || self.running.is_empty())
    }

    /// The part of it that is taken, in units of 2⁻³².
    fn load(&self) -> u64 {
        let part = |used: u64, size: u64| (u128::from(used) << 32) / u128::from(size.max(1));
        let slots = part(u64::from(self.busy()), u64::from(self.slots));
        let room =
            part(self.used.cpu_millis, self.size.cpu_millis).max(part(self.used.memory, self.size.memory));
        u64::try_from(slots.max(room)).unwrap_or(u64::MAX)
    }

    fn status(&self, now: Instant) -> WorkerStatus {
        WorkerStatus {
            name: self.name.clone(),
            slots: self.slots,
            busy: self.busy(),
            platform: self.platform.clone(),
            draining: self.draining,
            connected_for: now.saturating_duration_since(self.since),
            standing: match self {
                Self { away: Some(_), .. } => Standing::Away,
                Self { draining: true, .. } => Standing::Draining,
                Self { paused: true, .. } => Standing::Paused,
                _ => Standing::Serving,
            },
            cpu_millis: (self.used.cpu_millis, self.size.cpu_millis),
            memory: (self.used.memory, self.size.memory),
            layers: self.layers.clone(),
            images: self.images.clone(),
        }
    }
}
