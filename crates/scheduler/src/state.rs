//! The scheduler as a pure state machine: `apply(now, event) → effects`. No await, no I/O, no clock, no lock; ids and
//! times come from outside, so that the same history always has the same effects.
//!
//! An action in flight is a [`Job`]: it waits in the [`Queue`] or runs on one of the [`Workers`], for as long as a
//! ticket waits for it. Here is how jobs come and start; how they end is in `ending`.
//! Left to the actor: carrying effects out. Left to workers: time limits of commands.

mod ending;
mod event;
mod explain;
mod job;
mod queue;
mod workers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod histories;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use event::{Effect, Event, Loss, Submission, Submitted, TicketId, Update, WorkerId};

use crate::{Config, Counters, Failure, RunningAction, Status};
use job::{Job, MergeKey, Place};
use mortar_model::session::{self, ExecutionId, FromWorker, Hello, Run, ToWorker};
use queue::Queue;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use workers::{Attempt, Worker, Workers};

/// All that the scheduler knows.
#[derive(Debug)]
pub struct State {
    config: Config,
    /// Begins every execution's id.
    name: Arc<str>,
    jobs: BTreeMap<TicketId, Job>,
    /// The job that each ticket waits for.
    tickets: HashMap<TicketId, TicketId>,
    /// The jobs that identical actions may join.
    shared: HashMap<MergeKey, TicketId>,
    queue: Queue,
    workers: Workers,
    counters: Counters,
    arrivals: u64,
    /// Nothing new is taken; what runs at this time is given up.
    closing: Option<Instant>,
}

impl State {
    /// A scheduler without workers or work. `name` tells its executions from those of other schedulers and earlier
    /// runs.
    pub fn new(config: Config, name: impl Into<Arc<str>>) -> Self {
        Self {
            config,
            name: name.into(),
            jobs: BTreeMap::new(),
            tickets: HashMap::new(),
            shared: HashMap::new(),
            queue: Queue::default(),
            workers: Workers::default(),
            counters: Counters::default(),
            arrivals: 0,
            closing: None,
        }
    }

    /// Takes in what happened; says what is to be done, in this order.
    pub fn apply(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Submit(submitted) => self.submit(now, submitted, &mut effects),
            Event::Leave(ticket) => self.leave(ticket, &mut effects),
            Event::Join { worker, hello } => self.join(now, worker, hello, &mut effects),
            Event::Heard { worker, message } => self.hear(now, worker, *message, &mut effects),
            Event::Lost { worker, loss } => self.lose(now, worker, loss, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
            Event::Close { drain } => self.close(after(now, drain), &mut effects),
        }
        self.dispatch(now, &mut effects);
        effects
    }

    /// When a [`Event::Tick`] is due; none if nothing depends on time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let queue = self.queue.next_deadline(&self.config);
        let workers = self.workers.next_deadline(&self.config);
        [queue, workers, self.closing.filter(|_| !self.jobs.is_empty())].into_iter().flatten().min()
    }

    /// Whether it was closed and all work has ended.
    pub fn is_over(&self) -> bool {
        self.closing.is_some() && self.jobs.is_empty()
    }

    /// A snapshot for people.
    pub fn status(&self, now: Instant) -> Status {
        let running = self.workers.iter().flat_map(|(_, worker)| {
            worker.running.values().map(|attempt| self.running_action(now, worker, attempt))
        });
        Status {
            running: running.collect(),
            workers: self.workers.status(now),
            queued: self.queue.len(),
            oldest_wait: self.queue.oldest().map(|since| now.saturating_duration_since(since)),
            counters: self.counters,
            closing: self.closing.is_some(),
        }
    }

    fn running_action(&self, now: Instant, worker: &Worker, attempt: &Attempt) -> RunningAction {
        let job = attempt.job.and_then(|job| self.jobs.get(&job));
        RunningAction {
            instance: attempt.context.instance.clone(),
            action_digest: attempt.action_digest,
            mnemonic: attempt.context.request.action_mnemonic.clone(),
            target: attempt.context.request.target_id.clone(),
            worker: worker.name.clone(),
            running_for: now.saturating_duration_since(attempt.since),
            waiters: job.map_or(0, |job| job.waiters.len()),
            attempt: attempt.number,
            cancelled: job.is_none(),
        }
    }

    fn submit(&mut self, now: Instant, submitted: Submitted, effects: &mut Vec<Effect>) {
        if self.closing.is_some() {
            return self.refuse(submitted.ticket, explain::closing(&self.config), effects);
        }
        let key = (submitted.context.instance.clone(), submitted.submission.action_digest);
        if let Some(&job) = self.shared.get(&key).filter(|_| submitted.submission.merge) {
            return self.merge(job, submitted, effects);
        }
        let platform = self.queue.share(submitted.submission.platform.clone());
        if self.queue.len() >= self.config.max_queued && !self.workers.have_room(&platform) {
            return self.refuse(submitted.ticket, explain::full(&self.config), effects);
        }
        self.arrivals += 1;
        let job = Job::new(now, self.arrivals, submitted, platform);
        if job.merge {
            self.shared.insert(key, job.id);
        }
        self.tickets.insert(job.id, job.id);
        tell_progress(&job, effects);
        self.queue.insert(&job, self.workers.serve(&job.platform));
        self.jobs.insert(job.id, job);
    }

    /// Lets a ticket wait for a job that is there already, which is from then on at least as urgent as the ticket.
    fn merge(&mut self, id: TicketId, submitted: Submitted, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.counters.merged += 1;
        self.tickets.insert(submitted.ticket, id);
        job.waiters.insert(submitted.ticket);
        let update = Update::Progress(job.stage(), Box::new(job.metadata.clone()));
        effects.push(Effect::Tell { ticket: submitted.ticket, update });
        if submitted.submission.priority < job.order.0 {
            self.queue.reorder(job, submitted.submission.priority);
        }
    }

    fn refuse(&mut self, ticket: TicketId, failure: Failure, effects: &mut Vec<Effect>) {
        self.counters.failed += 1;
        effects.push(Effect::Tell { ticket, update: Update::Done(Err(failure)) });
    }

    fn join(&mut self, now: Instant, worker: WorkerId, hello: Hello, effects: &mut Vec<Effect>) {
        if self.closing.is_some() {
            return effects.push(Effect::Disconnect { worker, loss: Loss::Closing });
        }
        self.workers.join(now, worker, hello, &self.config);
        let heartbeat_interval = self.config.heartbeat_interval;
        send(worker, ToWorker::Welcome { version: session::VERSION, heartbeat_interval }, effects);
        self.review_pools(now);
    }

    fn hear(&mut self, now: Instant, worker: WorkerId, message: FromWorker, effects: &mut Vec<Effect>) {
        if !self.workers.heard(now, worker) {
            return;
        }
        match message {
            FromWorker::Progress { execution, metadata } => {
                let job = self.workers.job(worker, &execution);
                if let Some(job) = job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.learn(metadata);
                    tell_progress(job, effects);
                }
            }
            FromWorker::Finished { execution, outcome } => {
                self.finish(now, worker, &execution, outcome.map_err(Failure::from), effects);
            }
            FromWorker::Draining => {
                self.workers.drain(worker);
                self.review_pools(now);
            }
            // A second greeting changes nothing; like a heartbeat it is a sign of life.
            FromWorker::Hello(_) | FromWorker::Heartbeat => {}
        }
    }

    fn review_pools(&mut self, now: Instant) {
        self.queue.review(now, |platform| self.workers.serve(platform));
    }

    /// Starts all that can start.
    fn dispatch(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some((job, worker)) = self.next_match() {
            self.start(now, job, worker, effects);
        }
    }

    /// The first job in order for which there is room, and its worker. Only a job that is to avoid a worker can be
    /// passed over by later ones of its pool, so the search within a pool is short.
    fn next_match(&self) -> Option<(TicketId, WorkerId)> {
        let heads = self.queue.pools().filter(|(platform, _)| self.workers.have_room(platform));
        let matches = heads.filter_map(|(platform, mut jobs)| {
            jobs.find_map(|(order, id)| {
                let job = self.jobs.get(&id)?;
                let failed_before = |worker| job.setbacks.iter().any(|setback| setback.worker == worker);
                Some((order, id, self.workers.pick(platform, failed_before)?))
            })
        });
        matches.min().map(|(_, job, worker)| (job, worker))
    }

    fn start(&mut self, now: Instant, id: TicketId, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.queue.remove(job);
        let execution = ExecutionId(format!("{}-{id}-{}", self.name, job.attempt()).into());
        let attempt = Attempt {
            job: Some(id),
            context: job.context.clone(),
            action_digest: job.action_digest,
            number: job.attempt(),
            since: now,
        };
        let run = Run {
            execution: execution.clone(),
            context: job.context.clone(),
            action_digest: job.action_digest,
            metadata: job.metadata.clone(),
            default_timeout: self.config.default_timeout,
        };
        job.place = Place::Running { worker, execution: execution.clone() };
        if let Some(started) = self.workers.start(worker, execution, attempt) {
            job.metadata.worker.clone_from(&started.name);
        }
        send(worker, ToWorker::Run(Box::new(run)), effects);
        tell_progress(job, effects);
    }
}

fn tell_progress(job: &Job, effects: &mut Vec<Effect>) {
    effects.extend(job.waiters.iter().map(|ticket| {
        let update = Update::Progress(job.stage(), Box::new(job.metadata.clone()));
        Effect::Tell { ticket: *ticket, update }
    }));
}

fn send(worker: WorkerId, message: ToWorker, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send { worker, message: Box::new(message) });
}

/// `start` and `duration` later; for durations beyond all reason, later than any server lives.
fn after(start: Instant, duration: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    start + duration.min(YEARS)
}
