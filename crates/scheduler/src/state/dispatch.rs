//! Which job starts next, and where.
//!
//! The first is the one of the lowest priority number; of equal ones that of the class with the smallest share; of equal
//! ones the oldest. One that needs more room than there is lets later ones pass, but not for ever: after the patience
//! one worker is kept free for it.

use super::{
    Effect, State, TicketId, WorkerId,
    job::Place,
    need::Demand,
    queue::{Group, Rank},
    send,
    workers::Attempt,
};
use mortar_model::session::{ExecutionId, Run, ToWorker};
use std::{collections::BTreeSet, time::Instant};

/// Jobs at the head of a group that are looked at for one that may run where there is room: those that failed on a
/// worker avoid it.
const LOOKED_AT: usize = 64;

impl State {
    /// Starts all that can start; what nobody waits for makes room for what still cannot.
    pub(super) fn dispatch(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some((job, worker)) = self.next_match(now) {
            self.start(now, job, worker, effects);
        }
        if !self.abandoned.is_empty() && self.queue.len() > 0 {
            self.make_room(effects);
        }
    }

    /// The first job in order for which there is room, and its worker.
    pub(super) fn next_match(&self, now: Instant) -> Option<(TicketId, WorkerId)> {
        if self.workers.are_full() || self.queue.len() == 0 {
            return None;
        }
        let ranked = self.queue.groups().filter_map(|(demand, group)| Some((group.head?, demand, group)));
        let mut heads: Vec<(Rank, &Demand, &Group)> = ranked.collect();
        heads.sort_unstable_by_key(|(rank, ..)| *rank);
        let mut kept_free = BTreeSet::new();
        for (_, demand, group) in heads {
            if self.workers.have_room(demand) {
                let found = group.in_order().take(LOOKED_AT).find_map(|id| {
                    let job = self.jobs.get(&id)?;
                    let failed = |worker| job.setbacks.iter().any(|setback| setback.worker == worker);
                    Some((id, self.workers.pick(demand, &kept_free, failed)?))
                });
                if found.is_some() {
                    return found;
                }
            } else {
                let since = group.oldest().unwrap_or(now);
                if now.saturating_duration_since(since) >= self.config.patience {
                    kept_free.extend(self.workers.emptiest(demand, &kept_free));
                }
            }
        }
        None
    }

    fn start(&mut self, now: Instant, id: TicketId, worker: WorkerId, effects: &mut Vec<Effect>) {
        self.withdraw(id);
        let (Some(job), Some(host)) = (self.jobs.get_mut(&id), self.workers.get(worker)) else { return };
        let execution = ExecutionId(format!("{}-{id}-{}", self.name, job.attempt()).into());
        let attempt = Attempt {
            job: Some(id),
            context: job.context.clone(),
            action_digest: job.action_digest,
            number: job.attempt(),
            since: now,
            class: job.class,
            weight: host.weight(job.demand.need),
            need: job.demand.need,
        };
        let run = Run {
            execution: execution.clone(),
            context: job.context.clone(),
            action_digest: job.action_digest,
            metadata: job.metadata(),
            default_timeout: self.config.default_timeout,
        };
        job.place = Place::Running { worker, execution: execution.clone() };
        job.is_on(&host.name);
        self.begin(worker, execution, attempt);
        send(worker, ToWorker::Run(Box::new(run)), effects);
        self.tell_progress(id, effects);
    }

    /// Enters an attempt on its worker, and what it takes into the share of its class.
    pub(super) fn begin(&mut self, worker: WorkerId, execution: ExecutionId, attempt: Attempt) {
        let (class, weight) = (attempt.class, attempt.weight);
        self.classes.join(class);
        self.classes.hold(class, weight);
        self.queue.reshare(class, self.classes.share(class));
        self.workers.start(worker, execution, attempt);
    }

    /// The reverse of [`Self::begin`], for an attempt that was taken off its worker.
    pub(super) fn release(&mut self, now: Instant, attempt: &Attempt) {
        let lasted = now.saturating_duration_since(attempt.since);
        self.classes.release(attempt.class, attempt.weight, lasted);
        self.queue.reshare(attempt.class, self.classes.share(attempt.class));
        self.classes.part(attempt.class);
    }

    /// Stops what nobody waits for wherever something waits that could run there.
    fn make_room(&mut self, effects: &mut Vec<Effect>) {
        let in_the_way = self.abandoned.iter().copied().filter(|id| self.is_in_the_way(*id));
        for id in in_the_way.collect::<Vec<_>>() {
            self.counters.cancelled += 1;
            self.forget(id, effects);
        }
    }

    /// Whether something waits that could run where this job runs.
    pub(super) fn is_in_the_way(&self, id: TicketId) -> bool {
        let Some(Place::Running { worker, .. }) = self.jobs.get(&id).map(|job| &job.place) else {
            return false;
        };
        let host = self.workers.get(*worker);
        host.is_some_and(|host| self.queue.groups().any(|(demand, _)| host.takes(demand)))
    }
}
