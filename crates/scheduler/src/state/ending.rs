//! How jobs and workers end: an outcome, a worker's failure or loss and the retry after it, a client that leaves, a
//! wait that was too long, the closing of it all.

use super::{
    Effect, Loss, State, TicketId, Update, WorkerId, explain,
    job::{Cause, Job, Place, Setback},
    send, tell_progress,
};
use crate::Failure;
use mortar_model::{
    Outcome,
    session::{ExecutionId, ToWorker},
};
use std::time::Instant;

impl State {
    /// A worker brought an attempt to its end.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        worker: WorkerId,
        execution: &ExecutionId,
        outcome: Result<Outcome, Failure>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((name, attempt)) = self.workers.end(worker, execution) else { return };
        let Some(job) = attempt.job else { return };
        match outcome {
            Ok(outcome) => self.conclude(job, Ok(outcome), effects),
            Err(failure) if failure.is_the_workers() => {
                let setback = Setback { worker, name, cause: Cause::Failed(failure) };
                self.set_back(now, job, setback, effects);
            }
            Err(failure) => self.conclude(job, Err(failure), effects),
        }
    }

    /// A worker is gone, and with it what it ran.
    pub(super) fn lose(&mut self, now: Instant, worker: WorkerId, loss: Loss, effects: &mut Vec<Effect>) {
        let Some(lost) = self.workers.remove(worker) else { return };
        effects.push(Effect::Disconnect { worker, loss });
        self.review_pools(now);
        for job in lost.running.into_values().filter_map(|attempt| attempt.job) {
            let setback = Setback { worker, name: lost.name.clone(), cause: Cause::Lost(loss) };
            self.set_back(now, job, setback, effects);
        }
    }

    /// Puts a job back into its old place in the queue, unless it has used up its attempts.
    fn set_back(&mut self, now: Instant, id: TicketId, setback: Setback, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.setbacks.push(setback);
        if job.attempt() > self.config.max_attempts {
            let failure = explain::exhausted(job);
            return self.conclude(id, Err(failure), effects);
        }
        if self.closing.is_some() {
            return self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
        self.counters.retried += 1;
        job.forget_attempt();
        job.place = Place::Queued { since: now };
        self.queue.insert(job, self.workers.serve(&job.platform));
        tell_progress(job, effects);
    }

    /// A client no longer waits; what nobody waits for ends.
    pub(super) fn leave(&mut self, ticket: TicketId, effects: &mut Vec<Effect>) {
        let Some(id) = self.tickets.remove(&ticket) else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.waiters.remove(&ticket);
        if job.waiters.is_empty() {
            self.counters.cancelled += 1;
            self.forget(id, effects);
        }
    }

    /// Tells all waiters how a job ended.
    fn conclude(&mut self, id: TicketId, end: Result<Outcome, Failure>, effects: &mut Vec<Effect>) {
        let Some(mut job) = self.forget(id, effects) else { return };
        let end = end.map(|mut outcome| {
            job.embellish(&mut outcome);
            Box::new(outcome)
        });
        match end {
            Ok(_) => self.counters.executed += 1,
            Err(_) => self.counters.failed += 1,
        }
        for ticket in job.waiters {
            effects.push(Effect::Tell { ticket, update: Update::Done(end.clone()) });
        }
    }

    /// Takes a job out of everything. If a worker runs it, that is told to stop; the slot stays taken until it says
    /// that it has.
    fn forget(&mut self, id: TicketId, effects: &mut Vec<Effect>) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.queue.remove(&job);
        for ticket in &job.waiters {
            self.tickets.remove(ticket);
        }
        if job.merge {
            self.shared.remove(&job.merge_key());
        }
        if let Place::Running { worker, execution } = &job.place
            && self.workers.cancel(*worker, execution)
        {
            send(*worker, ToWorker::Cancel(execution.clone()), effects);
        }
        Some(job)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let silent = Loss::Silent { limit: self.config.silence() };
        for worker in self.workers.silent(now, &self.config) {
            self.lose(now, worker, silent, effects);
        }
        for worker in self.workers.beats(now, &self.config) {
            send(worker, ToWorker::Heartbeat, effects);
        }
        for (id, overdue) in self.queue.overdue(now, &self.config) {
            let Some(job) = self.jobs.get(&id) else { continue };
            let failure = explain::overdue(job, overdue, &self.workers, &self.config);
            self.conclude(id, Err(failure), effects);
        }
        if self.closing.is_some_and(|end| end <= now) {
            self.give_up(effects);
        }
    }

    /// Takes nothing new; what is queued is refused at once, what runs has until `end`.
    pub(super) fn close(&mut self, end: Instant, effects: &mut Vec<Effect>) {
        self.closing = Some(self.closing.map_or(end, |earlier| earlier.min(end)));
        for id in self.queue.jobs().collect::<Vec<_>>() {
            self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        while let Some((&id, _)) = self.jobs.first_key_value() {
            self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
    }
}
