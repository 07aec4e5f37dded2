//! How jobs end: an outcome, a worker's failure and the retry after it, a client that leaves, a wait that was too long,
//! the closing of it all.

use super::{
    Effect, Loss, State, TicketId, Update, WorkerId, after,
    classes::ClassId,
    explain,
    job::{Cause, Job, Place, Setback},
    send,
};
use crate::{Abandoned, Failure};
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
        if self.workers.get(worker).is_some_and(|host| host.version >= 2) {
            send(worker, ToWorker::Delivered(execution.clone()), effects);
        }
        let Some((name, attempt)) = self.workers.end(worker, execution) else { return };
        self.release(now, &attempt);
        if let Ok(outcome) = &outcome {
            self.learning.learn(&attempt.context.request, &outcome.result.metadata);
        }
        match attempt.job {
            Some(job) => self.settle(now, job, worker, name, outcome, effects),
            None => self.stray_ended(worker, execution, outcome),
        }
    }

    /// Ends a job, or has it tried elsewhere where its worker failed.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        job: TicketId,
        worker: WorkerId,
        name: String,
        outcome: Result<Outcome, Failure>,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            Ok(outcome) => self.conclude(job, Ok(outcome), effects),
            Err(failure) if failure.is_the_workers() => {
                let setback = Setback { worker, name, cause: Cause::Failed(failure) };
                self.set_back(now, job, setback, effects);
            }
            Err(failure) => self.conclude(job, Err(failure), effects),
        }
    }

    /// Puts a job back into its old place in the queue, unless it has used up its attempts, or nobody waits for it.
    pub(super) fn set_back(
        &mut self,
        now: Instant,
        id: TicketId,
        setback: Setback,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.setbacks.push(setback);
        if job.waiters.is_empty() {
            self.counters.cancelled += 1;
            self.forget(id, effects);
            return;
        }
        if job.attempt() > self.config.max_attempts {
            let failure = explain::exhausted(job);
            return self.conclude(id, Err(failure), effects);
        }
        if self.closing.is_some() {
            return self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
        self.counters.retried += 1;
        job.forget_attempt();
        self.requeue(now, id, effects);
    }

    /// Lets a job wait in the queue that was elsewhere, unless another worker brought the same along. Where nobody known
    /// can run it any more, it is refused.
    fn requeue(&mut self, now: Instant, id: TicketId, effects: &mut Vec<Effect>) {
        let identity = self.jobs.get(&id).and_then(|job| job.identity());
        if let Some(stray) = identity.and_then(|identity| self.claim(&identity)) {
            return self.hand_over(now, id, stray, effects);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.place = Place::Queued { since: now };
        let outlook = explain::outlook(&job.demand, &self.workers, &self.pools);
        self.wait(id, outlook, effects);
        if now >= after(self.started, self.config.start_grace) {
            self.refuse_hopeless(effects);
        }
    }

    /// A client no longer waits. What nobody waits for ends, unless it may be finished for the cache.
    pub(super) fn leave(&mut self, ticket: TicketId, effects: &mut Vec<Effect>) {
        let Some((id, class)) = self.tickets.remove(&ticket) else { return };
        let goes_on = self.classes.leave(class);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.waiters.retain(|waiter| *waiter != ticket);
            match job.waiters.first().and_then(|waiter| self.tickets.get(waiter)) {
                Some((_, heir)) if job.class == class => {
                    let heir = *heir;
                    self.inherit(id, heir);
                }
                Some(_) => {}
                None => self.abandon(id, effects),
            }
        }
        if !goes_on {
            self.stop_abandoned(effects);
        }
    }

    /// A client leaves and wants an end of it: what nobody else waits for is not finished for the cache either.
    pub(super) fn cancel(&mut self, ticket: TicketId, effects: &mut Vec<Effect>) {
        let job = self.tickets.get(&ticket).map(|(job, _)| *job);
        self.leave(ticket, effects);
        if let Some(id) = job.filter(|id| self.abandoned.contains(id)) {
            self.counters.cancelled += 1;
            self.forget(id, effects);
        }
    }

    /// A job is in the class of one of those that wait for it.
    fn inherit(&mut self, id: TicketId, heir: ClassId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let outlook = self.queue.outlook(&job.demand).map(|(outlook, _)| outlook.clone());
        let outlook = outlook.filter(|_| matches!(job.place, Place::Queued { .. }));
        if outlook.is_some() {
            self.withdraw(id);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.class = heir;
        if let Some(outlook) = outlook {
            self.classes.join(heir);
            self.queue.insert(job, self.classes.share(heir), || outlook);
        }
    }

    fn abandon(&mut self, id: TicketId, effects: &mut Vec<Effect>) {
        let finishes = self.config.abandoned == Abandoned::FinishWhenIdle
            && self.closing.is_none()
            && self.jobs.get(&id).is_some_and(|job| {
                matches!(job.place, Place::Running { .. }) && self.classes.goes_on(job.class)
            })
            && !self.is_in_the_way(id);
        if finishes {
            self.abandoned.insert(id);
        } else {
            self.counters.cancelled += 1;
            self.forget(id, effects);
        }
    }

    /// Stops what nobody waits for and whose invocation is over: its user wants nothing to run any more.
    fn stop_abandoned(&mut self, effects: &mut Vec<Effect>) {
        let over = |id: &TicketId| {
            let class = self.jobs.get(id).map(|job| job.class);
            class.is_some_and(|class| !self.classes.goes_on(class))
        };
        for id in self.abandoned.iter().copied().filter(over).collect::<Vec<_>>() {
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
        match &end {
            Ok(outcome) => {
                self.counters.executed += 1;
                let persistent = outcome.result.metadata.persistent_worker;
                self.counters.persistent += u64::from(persistent.is_some());
            }
            Err(_) => self.counters.failed += 1,
        }
        for ticket in job.waiters {
            effects.push(Effect::Tell { ticket, update: Update::Done(end.clone()) });
        }
    }

    /// Takes a job out of everything. If a worker runs it, that is told to stop; the slot stays taken until it says
    /// that it has.
    pub(super) fn forget(&mut self, id: TicketId, effects: &mut Vec<Effect>) -> Option<Box<Job>> {
        self.withdraw(id);
        self.abandoned.remove(&id);
        let job = self.jobs.remove(&id)?;
        for ticket in &job.waiters {
            if let Some((_, class)) = self.tickets.remove(ticket) {
                self.classes.leave(class);
            }
        }
        if let Some(identity) = job.identity()
            && self.identities.get(&identity) == Some(&id)
        {
            self.identities.remove(&identity);
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
        for worker in self.workers.gone(now) {
            self.give_up_on(now, worker, Loss::Disconnected, effects);
        }
        for worker in self.workers.beats(now, &self.config) {
            send(worker, ToWorker::Heartbeat, effects);
        }
        self.drop_strays(now, effects);
        while let Some((_, id)) = self.recalled.first().copied().filter(|(until, _)| *until <= now) {
            self.withdraw(id);
            self.requeue(now, id, effects);
        }
        for (id, overdue) in self.queue.overdue(now, &self.config) {
            let Some(job) = self.jobs.get(&id) else { continue };
            let Some((outlook, _)) = self.queue.outlook(&job.demand) else { continue };
            let failure = explain::overdue(job, overdue, outlook, &self.config);
            self.conclude(id, Err(failure), effects);
        }
        if now >= after(self.started, self.config.start_grace) {
            self.refuse_hopeless(effects);
        }
        if self.closing.is_some_and(|end| end <= now) {
            self.give_up(effects);
        }
    }

    /// Refuses what nobody known can run.
    pub(super) fn refuse_hopeless(&mut self, effects: &mut Vec<Effect>) {
        if !self.queue.is_hopeless() {
            return;
        }
        for id in self.queue.hopeless() {
            let Some(job) = self.jobs.get(&id) else { continue };
            let Some((outlook, _)) = self.queue.outlook(&job.demand) else { continue };
            let failure = explain::never(job.action_digest, outlook);
            self.conclude(id, Err(failure), effects);
        }
    }

    /// Takes nothing new; what waits is refused at once, what runs has until `end`.
    pub(super) fn close(&mut self, end: Instant, effects: &mut Vec<Effect>) {
        self.closing = Some(self.closing.map_or(end, |earlier| earlier.min(end)));
        let recalled = self.recalled.iter().map(|(_, id)| *id);
        for id in self.queue.jobs().chain(recalled).collect::<Vec<_>>() {
            self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
        for id in self.abandoned.iter().copied().collect::<Vec<_>>() {
            self.forget(id, effects);
        }
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        while let Some((&id, _)) = self.jobs.first_key_value() {
            self.conclude(id, Err(explain::closing(&self.config)), effects);
        }
    }
}
