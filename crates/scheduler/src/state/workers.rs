//! The connected workers: what they offer, what they run, when they were last heard.

use super::{TicketId, WorkerId, after};
use crate::{Config, WorkerStatus};
use mortar_model::{
    Context, Digest, Platform, Property,
    session::{ExecutionId, Hello},
};
use std::{cmp::Reverse, collections::BTreeMap, time::Instant};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
    /// Counts assignments, so that of equally loaded workers the one that waited longest is next.
    turns: u64,
}

/// One session.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) platform: Platform,
    slots: u32,
    draining: bool,
    pub(super) running: BTreeMap<ExecutionId, Attempt>,
    since: Instant,
    heard: Instant,
    beat: Instant,
    turn: u64,
}

/// A slot that is taken.
#[derive(Debug)]
pub(super) struct Attempt {
    /// For which job; none once it was cancelled.
    pub(super) job: Option<TicketId>,
    pub(super) context: Context,
    pub(super) action_digest: Digest,
    pub(super) number: u32,
    pub(super) since: Instant,
}

impl Workers {
    pub(super) fn join(&mut self, now: Instant, id: WorkerId, hello: Hello, config: &Config) {
        let worker = Worker {
            name: hello.name,
            platform: hello.platform,
            slots: hello.slots,
            draining: false,
            running: BTreeMap::new(),
            since: now,
            heard: now,
            beat: after(now, config.heartbeat_interval),
            turn: 0,
        };
        self.all.insert(id, worker);
    }

    /// Forgets a worker; what it ran is in the answer.
    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.all.remove(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.all.iter().map(|(id, worker)| (*id, worker))
    }

    pub(super) fn heard(&mut self, now: Instant, id: WorkerId) -> bool {
        self.all.get_mut(&id).map(|worker| worker.heard = now).is_some()
    }

    pub(super) fn drain(&mut self, id: WorkerId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.draining = true;
        }
    }

    /// Whether a worker is connected that takes such work, if perhaps not now.
    pub(super) fn serve(&self, platform: &Platform) -> bool {
        self.all.values().any(|worker| worker.takes(platform))
    }

    /// Whether a worker takes such work now.
    pub(super) fn have_room(&self, platform: &Platform) -> bool {
        self.all.values().any(|worker| worker.takes(platform) && worker.has_room())
    }

    /// The least loaded worker that takes such work now. Those in `avoid` only come into question if no other worker
    /// could ever take it.
    pub(super) fn pick(&self, platform: &Platform, avoid: impl Fn(WorkerId) -> bool) -> Option<WorkerId> {
        let fit = || self.all.iter().filter(|(_, worker)| worker.takes(platform));
        let elsewhere = fit().any(|(id, _)| !avoid(*id));
        fit()
            .filter(|(id, worker)| worker.has_room() && !(elsewhere && avoid(**id)))
            .min_by_key(|(id, worker)| (worker.load(), worker.turn, **id))
            .map(|(id, _)| *id)
    }

    /// Takes a slot.
    pub(super) fn start(
        &mut self,
        id: WorkerId,
        execution: ExecutionId,
        attempt: Attempt,
    ) -> Option<&Worker> {
        self.turns += 1;
        let worker = self.all.get_mut(&id)?;
        worker.turn = self.turns;
        worker.running.insert(execution, attempt);
        Some(worker)
    }

    /// Gives a slot back. Only the worker that has the attempt can end it.
    pub(super) fn end(&mut self, id: WorkerId, execution: &ExecutionId) -> Option<(String, Attempt)> {
        let worker = self.all.get_mut(&id)?;
        let attempt = worker.running.remove(execution)?;
        Some((worker.name.clone(), attempt))
    }

    /// The job of an attempt that somebody still waits for.
    pub(super) fn job(&self, id: WorkerId, execution: &ExecutionId) -> Option<TicketId> {
        self.all.get(&id)?.running.get(execution)?.job
    }

    /// Parts an attempt from its job; the slot stays taken. False if it does not run any more.
    pub(super) fn cancel(&mut self, id: WorkerId, execution: &ExecutionId) -> bool {
        let attempt = self.all.get_mut(&id).and_then(|worker| worker.running.get_mut(execution));
        attempt.is_some_and(|attempt| attempt.job.take().is_some())
    }

    /// Workers of which nothing was heard for too long.
    pub(super) fn silent(&self, now: Instant, config: &Config) -> Vec<WorkerId> {
        let silent = |worker: &Worker| now.saturating_duration_since(worker.heard) >= config.silence();
        self.iter().filter(|(_, worker)| silent(worker)).map(|(id, _)| id).collect()
    }

    /// Workers that are due a sign of life; the next is due an interval from now.
    pub(super) fn beats(&mut self, now: Instant, config: &Config) -> Vec<WorkerId> {
        let mut due = Vec::new();
        for (id, worker) in self.all.iter_mut().filter(|(_, worker)| worker.beat <= now) {
            worker.beat = after(now, config.heartbeat_interval);
            due.push(*id);
        }
        due
    }

    pub(super) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        self.all.values().map(|worker| worker.beat.min(after(worker.heard, config.silence()))).min()
    }

    /// The worker that lacks least of what is asked for, and what it lacks; draining ones only if there are no others.
    pub(super) fn nearest<'a>(&'a self, platform: &'a Platform) -> Option<(&'a Worker, Vec<&'a Property>)> {
        self.all
            .values()
            .map(|worker| (worker, platform.unmet_by(&worker.platform).collect::<Vec<_>>()))
            .min_by_key(|(worker, unmet)| (worker.draining, unmet.len(), Reverse(worker.slots), &worker.name))
    }

    pub(super) fn status(&self, now: Instant) -> Vec<WorkerStatus> {
        let status = |worker: &Worker| WorkerStatus {
            name: worker.name.clone(),
            slots: worker.slots,
            busy: worker.busy(),
            platform: worker.platform.clone(),
            draining: worker.draining,
            connected_for: now.saturating_duration_since(worker.since),
        };
        self.all.values().map(status).collect()
    }
}

impl Worker {
    fn takes(&self, platform: &Platform) -> bool {
        !self.draining && platform.unmet_by(&self.platform).next().is_none()
    }

    fn busy(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    fn has_room(&self) -> bool {
        self.busy() < self.slots
    }

    /// The part of the slots that is taken, in units of 2⁻³².
    fn load(&self) -> u64 {
        (u64::from(self.busy()) << 32) / u64::from(self.slots.max(1))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }
}
