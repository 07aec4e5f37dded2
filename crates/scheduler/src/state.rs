//! The scheduler as a pure state machine: `apply(now, event) → effects`. No await, no I/O, no clock, no lock; ids and
//! times come from outside, so that the same history always has the same effects.
//!
//! An action in flight is a [`Job`]: it waits in the [`Queue`] or runs on one of the [`Workers`], for as long as a
//! ticket waits for it. Here is how jobs come; how they start is in `dispatch`, how they end in `ending`, how workers
//! come, come back and go in `attaching`.
//! Left to the actor: carrying effects out. Left to workers: time limits of commands.

mod attaching;
mod classes;
mod dispatch;
mod ending;
mod event;
mod explain;
mod job;
mod learning;
mod need;
mod pools;
mod queue;
mod workers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod histories;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests_of_coming_back;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests_of_sharing;

pub use event::{Effect, Event, Loss, Submission, Submitted, TicketId, Update, Wish, WorkerId};
pub use need::Need;

use crate::{Config, Counters, Failure, KnownPool, RunningAction, Status, status::WaitingGroup};
use attaching::Stray;
use classes::{ClassId, Classes};
use job::{Identity, Job, Place};
use learning::Learning;
use mortar_model::{
    Waiting, image,
    session::{FromWorker, ToWorker},
};
use need::Demand;
use pools::Pools;
use queue::{Outlook, Queue, Reach};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    started: Instant,
    jobs: BTreeMap<TicketId, Box<Job>>,
    /// The job that each ticket waits for, and the class that it waits in.
    tickets: HashMap<TicketId, (TicketId, ClassId)>,
    /// The jobs that identical actions may join, and those that workers may bring along.
    identities: HashMap<Identity, TicketId>,
    queue: Queue,
    /// Demands of which the waiters are to be told something new.
    news: BTreeSet<Arc<Demand>>,
    /// Jobs that wait for the worker that ran them before a restart.
    recalled: BTreeSet<(Instant, TicketId)>,
    /// Jobs that run though nobody waits for them any more.
    abandoned: BTreeSet<TicketId>,
    workers: Workers,
    /// What workers brought along and nobody has claimed.
    strays: Vec<Stray>,
    classes: Classes,
    learning: Learning,
    pools: Pools,
    /// The names of workers that are paused, connected or not.
    paused: BTreeSet<String>,
    counters: Counters,
    arrivals: u64,
    /// Nothing new is taken; what runs at this time is given up.
    closing: Option<Instant>,
}

impl State {
    /// A scheduler without workers or work, which knows these pools from before. `name` tells its executions from those
    /// of other schedulers and earlier runs.
    pub fn new(now: Instant, config: Config, name: impl Into<Arc<str>>, seen: Vec<KnownPool>) -> Self {
        Self {
            pools: Pools::new(config.pools.clone(), seen),
            config,
            name: name.into(),
            started: now,
            jobs: BTreeMap::new(),
            tickets: HashMap::new(),
            identities: HashMap::new(),
            queue: Queue::default(),
            news: BTreeSet::new(),
            recalled: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            workers: Workers::default(),
            strays: Vec::new(),
            classes: Classes::default(),
            learning: Learning::default(),
            paused: BTreeSet::new(),
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
            Event::Cancel(ticket) => self.cancel(ticket, &mut effects),
            Event::Join { worker, hello } => self.join(now, worker, hello, &mut effects),
            Event::Heard { worker, message } => self.hear(now, worker, *message, &mut effects),
            Event::Lost { worker, loss } => self.lose(now, worker, loss, &mut effects),
            Event::Tend { worker, wish } => self.tend(now, &worker, wish, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
            Event::Close { drain } => self.close(after(now, drain), &mut effects),
        }
        self.dispatch(now, &mut effects);
        for demand in std::mem::take(&mut self.news) {
            for job in self.queue.jobs_of(&demand) {
                self.tell_progress(job, &mut effects);
            }
        }
        effects
    }

    /// When a [`Event::Tick`] is due; none if nothing depends on time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let hopeless = || after(self.started, self.config.start_grace);
        let deadlines = [
            self.queue.next_deadline(&self.config),
            self.workers.next_deadline(&self.config),
            self.closing.filter(|_| !self.jobs.is_empty()),
            self.recalled.first().map(|(until, _)| *until),
            self.strays.iter().map(|stray| stray.until).min(),
            self.queue.is_hopeless().then(hopeless),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether it was closed and all work has ended.
    pub fn is_over(&self) -> bool {
        self.closing.is_some() && self.jobs.is_empty()
    }

    /// Whether a worker of this name is connected, or may come back.
    pub fn knows_worker(&self, name: &str) -> bool {
        self.workers.iter().any(|(_, worker)| worker.name == name)
    }

    /// A snapshot for people.
    pub fn status(&self, now: Instant) -> Status {
        let running = self.workers.iter().flat_map(|(_, worker)| {
            worker.running.values().map(|attempt| self.running_action(now, worker, attempt))
        });
        let waiting = self.queue.groups().map(|(demand, group)| WaitingGroup {
            platform: demand.platform.clone(),
            cpu_millis: demand.need.cpu_millis,
            memory: demand.need.memory,
            queued: group.len(),
            oldest_wait: group.oldest().map(|since| now.saturating_duration_since(since)).unwrap_or_default(),
            reason: group.outlook.reason.clone(),
        });
        Status {
            running: running.collect(),
            workers: self.workers.status(now),
            queued: self.queue.len() + self.recalled.len(),
            oldest_wait: self.queue.oldest().map(|since| now.saturating_duration_since(since)),
            waiting: waiting.collect(),
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
            invocation: attempt.context.request.tool_invocation_id.clone(),
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
        let Submission { action_digest, merge, .. } = submitted.submission;
        let identity = Identity::of(&submitted.context, action_digest, merge);
        if let Some(&job) = identity.as_ref().filter(|_| merge).and_then(|same| self.identities.get(same)) {
            return self.merge(job, submitted, effects);
        }
        let (demand, outlook) = self.demand(&submitted);
        let claimed = identity.as_ref().and_then(|identity| self.claim(identity));
        if claimed.is_none() {
            if outlook.reach == Reach::Never && now >= after(self.started, self.config.start_grace) {
                return self.refuse(submitted.ticket, explain::never(action_digest, &outlook), effects);
            }
            if self.queue.len() >= self.config.max_queued && !self.workers.have_room(&demand) {
                return self.refuse(submitted.ticket, explain::full(&self.config), effects);
            }
        }
        let was_running = submitted.context.operation.as_ref().is_some_and(|operation| operation.was_running);
        let recall = after(self.started, self.config.recall_grace);
        let place = match was_running && claimed.is_none() && now < recall {
            true => Place::Recalled { until: recall },
            false => Place::Queued { since: now },
        };
        let class = self.classes.enter(&submitted.context);
        self.arrivals += 1;
        let job = Box::new(Job::new(submitted, demand, class, self.arrivals, place));
        let id = job.id;
        self.tickets.insert(id, (id, class));
        if let Some(identity) = identity {
            self.identities.insert(identity, id);
        }
        self.jobs.insert(id, job);
        match claimed {
            Some(stray) => self.hand_over(now, id, stray, effects),
            None => self.wait(id, outlook, effects),
        }
    }

    /// What the action asks for in all, and what it would wait for.
    fn demand(&self, submitted: &Submitted) -> (Arc<Demand>, Outlook) {
        let mut platform = image::canonical(&submitted.submission.platform);
        platform.properties.retain(|property| !self.config.ignored_properties.contains(&property.name));
        let declared = submitted.submission.need;
        let need = declared.or(self.learning.need(&submitted.context.request));
        let demand = Demand { platform, declared, need };
        match self.queue.find(&demand) {
            Some((shared, outlook)) => (shared, outlook.clone()),
            None => {
                let outlook = explain::outlook(&demand, &self.workers, &self.pools);
                (Arc::new(demand), outlook)
            }
        }
    }

    /// Lets a new job, or one that was set back, wait.
    fn wait(&mut self, id: TicketId, outlook: Outlook, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(&id) else { return };
        match job.place {
            Place::Queued { .. } => {
                self.classes.join(job.class);
                self.queue.insert(job, self.classes.share(job.class), || outlook);
            }
            Place::Recalled { until } => {
                self.recalled.insert((until, id));
            }
            Place::Running { .. } => return,
        }
        self.tell_progress(id, effects);
    }

    /// Takes a job out of wherever it waits.
    fn withdraw(&mut self, id: TicketId) {
        let Some(job) = self.jobs.get(&id) else { return };
        match job.place {
            Place::Queued { .. } => {
                self.queue.remove(job);
                self.classes.part(job.class);
            }
            Place::Recalled { until } => {
                self.recalled.remove(&(until, id));
            }
            Place::Running { .. } => {}
        }
    }

    /// Lets a ticket wait for a job that is there already. From then on that is at least as urgent as the ticket, and it
    /// waits in the class that has the smaller share.
    fn merge(&mut self, id: TicketId, submitted: Submitted, effects: &mut Vec<Effect>) {
        self.counters.merged += 1;
        let class = self.classes.enter(&submitted.context);
        self.tickets.insert(submitted.ticket, (id, class));
        self.abandoned.remove(&id);
        let Some(job) = self.jobs.get(&id) else { return };
        let priority = job.order.0.min(submitted.submission.priority);
        let sooner = job.waiters.is_empty() || self.classes.share(class) < self.classes.share(job.class);
        let outlook = self.queue.outlook(&job.demand).map(|(outlook, _)| outlook.clone());
        if (priority < job.order.0 || sooner) && matches!(job.place, Place::Queued { .. }) {
            self.withdraw(id);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.waiters.push(submitted.ticket);
        let moves = priority < job.order.0 || sooner;
        job.order.0 = priority;
        if sooner {
            job.class = class;
        }
        if let Some(outlook) = outlook.filter(|_| moves && matches!(job.place, Place::Queued { .. })) {
            self.classes.join(job.class);
            self.queue.insert(job, self.classes.share(job.class), || outlook);
        }
        let update = self.progress(id);
        effects.extend(update.map(|update| Effect::Tell { ticket: submitted.ticket, update }));
    }

    fn refuse(&mut self, ticket: TicketId, failure: Failure, effects: &mut Vec<Effect>) {
        self.counters.failed += 1;
        effects.push(Effect::Tell { ticket, update: Update::Done(Err(failure)) });
    }

    fn hear(&mut self, now: Instant, worker: WorkerId, message: FromWorker, effects: &mut Vec<Effect>) {
        if !self.workers.heard(now, worker) {
            return;
        }
        match message {
            FromWorker::Progress { execution, metadata } => {
                let attempt = self.workers.attempt(worker, &execution);
                if let Some(id) = attempt.and_then(|attempt| attempt.job)
                    && let Some(job) = self.jobs.get_mut(&id)
                {
                    job.learn(metadata);
                    self.tell_progress(id, effects);
                }
            }
            FromWorker::Finished { execution, outcome } => {
                self.finish(now, worker, &execution, outcome.map_err(Failure::from), effects);
            }
            FromWorker::Draining => {
                self.workers.change(worker, |worker| worker.draining = true);
                self.review(now, effects);
            }
            // A second greeting changes nothing; like a heartbeat it is a sign of life. What commands write is for others.
            FromWorker::Hello(_) | FromWorker::Heartbeat | FromWorker::Log(_) => {}
        }
    }

    /// Tells all waiters of a job where it stands.
    fn tell_progress(&self, id: TicketId, effects: &mut Vec<Effect>) {
        let (Some(job), Some(update)) = (self.jobs.get(&id), self.progress(id)) else { return };
        for ticket in &job.waiters {
            effects.push(Effect::Tell { ticket: *ticket, update: update.clone() });
        }
    }

    fn progress(&self, id: TicketId) -> Option<Update> {
        let job = self.jobs.get(&id)?;
        let mut metadata = job.metadata();
        let said = match job.place {
            Place::Running { .. } => None,
            Place::Recalled { .. } => Some((explain::recalled(), 0)),
            Place::Queued { .. } => {
                let outlook = self.queue.outlook(&job.demand);
                outlook.map(|(outlook, queued)| (outlook.reason.clone(), queued.saturating_sub(1) as u64))
            }
        };
        metadata.waiting =
            said.map(|(reason, ahead)| Arc::new(Waiting { reason, ahead, since: job.queued() }));
        Some(Update::Progress(job.stage(), Box::new(metadata)))
    }
}

fn send(worker: WorkerId, message: ToWorker, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send { worker, message: Box::new(message) });
}

/// `start` and `duration` later; for durations beyond all reason, later than any server lives.
fn after(start: Instant, duration: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    start + duration.min(YEARS)
}
