//! How workers come, come back, and go.
//!
//! A worker whose connection ended keeps its work for a grace. One that comes back, also to a server that was restarted,
//! tells what it holds: that goes on for the jobs that wait for it. What nobody waits for yet is a [`Stray`], for its
//! clients may still be on their way.

use super::{
    Effect, Loss, State, TicketId, Wish, WorkerId, after, explain,
    job::{Cause, Identity, Place, Setback},
    need::Need,
    send,
    workers::Attempt,
};
use crate::Failure;
use mortar_model::{
    Outcome, image,
    session::{self, ExecutionId, Held, Hello, ToWorker},
};
use std::{collections::BTreeMap, time::Instant};

/// An attempt that a worker brought along, until somebody claims it or its time is over.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) worker: WorkerId,
    pub(super) execution: ExecutionId,
    pub(super) until: Instant,
    identities: [Option<Identity>; 2],
    /// How it ended, where it has.
    end: Option<Result<Outcome, Failure>>,
}

impl State {
    pub(super) fn join(
        &mut self,
        now: Instant,
        worker: WorkerId,
        mut hello: Hello,
        effects: &mut Vec<Effect>,
    ) {
        let earlier = self.workers.of_process(&hello.process);
        if self.closing.is_some() && earlier.is_none() {
            return effects.push(Effect::Disconnect { worker, loss: Loss::Closing });
        }
        hello.platform = image::offered(&hello.platform, &hello.images);
        let (held, version) = (std::mem::take(&mut hello.held), hello.version.min(session::VERSION));
        if self.pools.see(&hello) {
            effects.push(Effect::Remember(self.pools.seen().to_vec()));
        }
        let paused = self.paused.contains(&hello.name);
        let before = earlier.and_then(|earlier| self.take_leave(earlier, effects));
        self.workers.join(now, worker, hello, paused, &self.config);
        let heartbeat_interval = self.config.heartbeat_interval;
        send(worker, ToWorker::Welcome { version, heartbeat_interval }, effects);
        self.take_over(now, worker, held, before, effects);
        self.review(now, effects);
    }

    /// Ends the earlier session of a worker that begins another. What it ran, by whom.
    fn take_leave(
        &mut self,
        earlier: WorkerId,
        effects: &mut Vec<Effect>,
    ) -> Option<(WorkerId, String, BTreeMap<ExecutionId, Attempt>)> {
        let before = self.workers.remove(earlier)?;
        if before.away.is_none() {
            effects.push(Effect::Disconnect { worker: earlier, loss: Loss::Replaced });
        }
        Some((earlier, before.name, before.running))
    }

    /// Sorts what a worker holds: what it had in its earlier session goes on, what is new to this server is matched with
    /// what waits, and what it lost on the way is done elsewhere.
    fn take_over(
        &mut self,
        now: Instant,
        worker: WorkerId,
        held: Vec<Held>,
        before: Option<(WorkerId, String, BTreeMap<ExecutionId, Attempt>)>,
        effects: &mut Vec<Effect>,
    ) {
        let (earlier, name, mut running) = match before {
            Some((earlier, name, running)) => (Some(earlier), name, running),
            None => (None, String::new(), BTreeMap::new()),
        };
        for held in held {
            match running.remove(&held.execution) {
                Some(attempt) => self.go_on(worker, held.execution, attempt, effects),
                None => self.adopt(now, worker, held, effects),
            }
        }
        let Some(earlier) = earlier else { return };
        self.strays.retain(|stray| stray.worker != earlier || stray.end.is_some());
        for attempt in running.into_values() {
            self.release(now, &attempt);
            if let Some(job) = attempt.job {
                let cause = Cause::Lost(Loss::Replaced);
                self.set_back(now, job, Setback { worker: earlier, name: name.clone(), cause }, effects);
            }
        }
    }

    /// An attempt of the earlier session goes on in this one.
    fn go_on(
        &mut self,
        worker: WorkerId,
        execution: ExecutionId,
        attempt: Attempt,
        effects: &mut Vec<Effect>,
    ) {
        let stray = self.strays.iter_mut().find(|stray| stray.execution == execution);
        let is_stray = stray.map(|stray| stray.worker = worker).is_some();
        match attempt.job.and_then(|job| self.jobs.get_mut(&job)) {
            Some(job) => job.place = Place::Running { worker, execution: execution.clone() },
            None if is_stray => {}
            // It was cancelled when nobody could tell the worker.
            None => send(worker, ToWorker::Cancel(execution.clone()), effects),
        }
        self.workers.change(worker, |worker| worker.hold(execution, attempt));
    }

    /// A worker holds what this server, or this run of it, did not give it in its last session.
    fn adopt(&mut self, now: Instant, worker: WorkerId, held: Held, effects: &mut Vec<Effect>) {
        let Held { execution, context, action_digest } = held;
        let identities = [true, false].map(|merge| Identity::of(&context, action_digest, merge));
        let job = identities.iter().flatten().find_map(|identity| self.identities.get(identity).copied());
        let until = after(self.started, self.config.recall_grace);
        let waits = job.filter(|job| {
            let place = self.jobs.get(job).map(|job| &job.place);
            matches!(place, Some(Place::Queued { .. } | Place::Recalled { .. }))
        });
        let demand = waits.and_then(|job| self.jobs.get(&job)).map(|job| job.demand.clone());
        let need = demand.map_or(Need::default(), |demand| demand.need);
        let attempt = Attempt {
            job: waits,
            class: self.classes.of(&context),
            context,
            action_digest,
            number: waits.and_then(|job| self.jobs.get(&job)).map_or(1, |job| job.attempt()),
            since: now,
            weight: self.workers.get(worker).map_or(1, |host| host.weight(need)),
            need,
        };
        self.begin(worker, execution.clone(), attempt);
        match waits {
            Some(id) => self.give(id, worker, execution, effects),
            // Another worker has it by now, or the time is over in which its client would have come back.
            None if job.is_some() || now >= until => send(worker, ToWorker::Cancel(execution), effects),
            None => self.strays.push(Stray { worker, execution, until, identities, end: None }),
        }
    }

    /// Takes a job out of its wait: a worker runs it already.
    fn give(&mut self, id: TicketId, worker: WorkerId, execution: ExecutionId, effects: &mut Vec<Effect>) {
        self.withdraw(id);
        let name = self.workers.get(worker).map(|host| host.name.clone()).unwrap_or_default();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.place = Place::Running { worker, execution };
        job.is_on(&name);
        self.tell_progress(id, effects);
    }

    /// The stray that is what somebody asks for, if there is one. After several restarts there may be more than one: a
    /// result is better than one that still runs, and that than a failure.
    pub(super) fn claim(&mut self, identity: &Identity) -> Option<Stray> {
        let is_it = |stray: &Stray| stray.identities.iter().flatten().any(|known| known == identity);
        let promise = |stray: &Stray| match stray.end {
            Some(Ok(_)) => 0,
            None => 1,
            Some(Err(_)) => 2,
        };
        let known = self.strays.iter().enumerate().filter(|(_, stray)| is_it(stray));
        let (at, _) = known.min_by_key(|(_, stray)| promise(stray))?;
        Some(self.strays.swap_remove(at))
    }

    /// Gives a new job what a worker brought along.
    pub(super) fn hand_over(&mut self, now: Instant, id: TicketId, stray: Stray, effects: &mut Vec<Effect>) {
        let Stray { worker, execution, end, .. } = stray;
        // It never waited in the queue, so there is nothing to take it out of.
        if let Some(job) = self.jobs.get_mut(&id) {
            job.place = Place::Running { worker, execution: execution.clone() };
        }
        match end {
            Some(end) => {
                let name = self.workers.get(worker).map(|host| host.name.clone()).unwrap_or_default();
                self.settle(now, id, worker, name, end, effects);
            }
            None => {
                // Now it is known for whom it is, and what it needs.
                if let Some(job) = self.jobs.get(&id)
                    && let Some((_, before)) = self.workers.end(worker, &execution)
                {
                    let (class, need) = (job.class, job.demand.need);
                    let weight = self.workers.get(worker).map_or(1, |host| host.weight(need));
                    self.release(now, &before);
                    let attempt = Attempt { job: Some(id), class, need, weight, ..before };
                    self.begin(worker, execution.clone(), attempt);
                }
                self.give(id, worker, execution, effects);
            }
        }
    }

    /// How an attempt ended for which no job waits. Kept if it is a stray.
    pub(super) fn stray_ended(
        &mut self,
        worker: WorkerId,
        execution: &ExecutionId,
        end: Result<Outcome, Failure>,
    ) {
        let is_it = |stray: &&mut Stray| stray.worker == worker && stray.execution == *execution;
        if let Some(stray) = self.strays.iter_mut().find(is_it) {
            stray.end = Some(end);
        }
    }

    /// Strays that nobody claimed in time are stopped.
    pub(super) fn drop_strays(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let over = self.strays.extract_if(.., |stray| stray.until <= now);
        // One that is away is told when it comes back with it.
        let told = |stray: &Stray| stray.end.is_none() && self.workers.is_here(stray.worker);
        for stray in over.filter(told) {
            send(stray.worker, ToWorker::Cancel(stray.execution), effects);
        }
    }

    /// A session ended. A worker that can come back keeps its work for the grace.
    pub(super) fn lose(&mut self, now: Instant, worker: WorkerId, loss: Loss, effects: &mut Vec<Effect>) {
        let Some(host) = self.workers.get(worker).filter(|host| host.away.is_none()) else { return };
        effects.push(Effect::Disconnect { worker, loss });
        if loss == Loss::Disconnected && !host.process.is_empty() && !host.running.is_empty() {
            let until = after(now, self.config.reattach_grace);
            self.workers.change(worker, |host| host.away = Some(until));
            return self.review(now, effects);
        }
        self.give_up_on(now, worker, loss, effects);
    }

    /// A worker is gone, and with it what it ran.
    pub(super) fn give_up_on(
        &mut self,
        now: Instant,
        worker: WorkerId,
        loss: Loss,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lost) = self.workers.remove(worker) else { return };
        self.pools.left(&lost.platform, lost.size);
        effects.push(Effect::Remember(self.pools.seen().to_vec()));
        self.strays.retain(|stray| stray.worker != worker || stray.end.is_some());
        self.review(now, effects);
        for attempt in lost.running.into_values() {
            self.release(now, &attempt);
            if let Some(job) = attempt.job {
                let setback = Setback { worker, name: lost.name.clone(), cause: Cause::Lost(loss) };
                self.set_back(now, job, setback, effects);
            }
        }
    }

    /// Does what an operator wishes of the workers of this name.
    pub(super) fn tend(&mut self, now: Instant, name: &str, wish: Wish, effects: &mut Vec<Effect>) {
        match wish {
            Wish::Pause => drop(self.paused.insert(name.to_owned())),
            Wish::Resume => drop(self.paused.remove(name)),
            Wish::Drain => {}
        }
        let named = self.workers.iter().filter(|(_, worker)| worker.name == name).map(|(id, _)| id);
        for id in named.collect::<Vec<_>>() {
            self.workers.change(id, |worker| match wish {
                Wish::Pause => worker.paused = true,
                Wish::Resume => worker.paused = false,
                Wish::Drain => worker.draining = true,
            });
            // An older worker cannot be told: it takes no more work, and stays.
            let listens = self.workers.get(id).is_some_and(|host| host.version >= 2 && host.away.is_none());
            if wish == Wish::Drain && listens {
                send(id, ToWorker::Drain, effects);
            }
        }
        self.review(now, effects);
    }

    /// Looks anew at what waits for whom, and refuses what nobody can run. Those for whom it is something else now are told.
    pub(super) fn review(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (workers, pools) = (&self.workers, &self.pools);
        self.news.extend(self.queue.review(now, |demand| explain::outlook(demand, workers, pools)));
        if now >= after(self.started, self.config.start_grace) {
            self.refuse_hopeless(effects);
        }
    }
}
