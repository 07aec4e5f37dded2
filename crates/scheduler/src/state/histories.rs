//! Random histories of clients, workers, operators, restarts and time against a second bookkeeping that only believes the
//! effects, and that holds the scheduler to its promises after every step.

use super::*;
use crate::{Abandoned, Submission};
use Ended::{Defect, Missing, Success};
use mortar_model::{
    ActionResult, Context, Digest, DigestFunction, Error, ExecutionMetadata, Kind, Outcome, Platform,
    RequestMetadata, Termination,
    context::Operation,
    session::{Capacity, ExecutionId, Held, Hello, Run},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, time::SystemTime};

/// One step of a history. Numbers choose among what is there, modulo how much that is.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        action: u8,
        priority: i32,
        merge: bool,
        invocation: u8,
    },
    Leave(usize),
    Join {
        slots: u32,
        platform: usize,
        size: u64,
        version: u32,
    },
    Lose(usize),
    /// A worker that lost its session begins another one.
    Return(usize),
    Drain(usize),
    Tend(usize, Wish),
    Progress(usize),
    Finish(usize, Ended),
    Wait {
        seconds: u64,
        heartbeats: bool,
    },
    /// Hours are gone at once, as for a process that was stopped; what is heard next may come before the tick.
    Leap {
        hours: u64,
        tick: bool,
    },
    /// The server is killed and started; its clients take their operations up, in this order of luck.
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Ended {
    Success,
    /// The worker's fault.
    Defect,
    /// The client's.
    Missing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, -1..2i32, any::<bool>(), 0..3u8).prop_map(|(action, priority, merge, invocation)| {
            Step::Submit { action, priority, merge, invocation }
        }),
        2 => any::<usize>().prop_map(Step::Leave),
        3 => (1..4u32, 0..4usize, 1..5u64, 1..3u32)
            .prop_map(|(slots, platform, size, version)| Step::Join { slots, platform, size, version }),
        1 => any::<usize>().prop_map(Step::Lose),
        2 => any::<usize>().prop_map(Step::Return),
        1 => any::<usize>().prop_map(Step::Drain),
        2 => (any::<usize>(), prop_oneof![Just(Wish::Pause), Just(Wish::Resume), Just(Wish::Drain)])
            .prop_map(|(which, wish)| Step::Tend(which, wish)),
        1 => any::<usize>().prop_map(Step::Progress),
        5 => (any::<usize>(), prop_oneof![3 => Just(Success), 2 => Just(Defect), 1 => Just(Missing)])
            .prop_map(|(which, ended)| Step::Finish(which, ended)),
        2 => (0..50u64, prop::bool::weighted(0.8))
            .prop_map(|(seconds, heartbeats)| Step::Wait { seconds, heartbeats }),
        1 => (1..100u64, any::<bool>()).prop_map(|(hours, tick)| Step::Leap { hours, tick }),
        1 => Just(Step::Restart),
    ]
}

fn platform(number: usize) -> Platform {
    let pairs: &[&[(&str, &str)]] =
        &[&[], &[("os", "linux")], &[("os", "linux"), ("cpu", "arm")], &[("os", "plan9")]];
    Platform::new(pairs[number].iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

/// An action always asks for the same.
fn wanted(action: u8) -> Platform {
    platform(usize::from(action % 3))
}

/// And always needs the same: up to three processors, up to 20 bytes.
fn need(action: u8) -> Need {
    Need { cpu_millis: u64::from(action % 4) * 1000, memory: u64::from(action / 3) * 20 }
}

fn digest(action: u8, merge: bool) -> Digest {
    Digest::of(DigestFunction::Sha256, &[action, u8::from(merge)])
}

/// Which action that is, and whether it is merged.
fn action_of(digest_of: Digest) -> (u8, bool) {
    let all = (0..6).flat_map(|action| [(action, true), (action, false)]);
    all.into_iter().find(|(action, merge)| digest(*action, *merge) == digest_of).unwrap()
}

fn config() -> Config {
    let seconds = Duration::from_secs;
    Config {
        max_queued: 8,
        max_queue_time: seconds(300),
        max_unserved_time: seconds(60),
        start_grace: seconds(30),
        max_attempts: 3,
        heartbeat_interval: seconds(10),
        reattach_grace: seconds(4),
        recall_grace: seconds(20),
        patience: seconds(15),
        abandoned: Abandoned::FinishWhenIdle,
        ..Config::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    Open,
    Left,
    Done,
}

/// A client's ticket.
#[derive(Clone)]
struct Client {
    wait: Wait,
    action: Digest,
    merge: bool,
    priority: i32,
    context: Context,
    /// Whether a worker ever had it, which is written down.
    ran: bool,
}

/// What runs on a worker's machine, whatever the server believes.
#[derive(Clone)]
struct Seen {
    machine: u64,
    action: Digest,
    context: Context,
    cancelled: bool,
    /// Since the server was restarted: somebody waits for it, who was told that it runs.
    recalled: bool,
    /// A worker brought it along that the server did not know to have it.
    returned: bool,
}

/// A worker's machine.
struct Machine {
    name: String,
    slots: u32,
    platform: Platform,
    capacity: Capacity,
    version: u32,
    draining: bool,
    session: Option<WorkerId>,
}

/// The second bookkeeping.
struct World {
    state: State,
    now: Instant,
    lives: u32,
    clients: BTreeMap<TicketId, Client>,
    machines: BTreeMap<u64, Machine>,
    paused: BTreeSet<String>,
    running: BTreeMap<ExecutionId, Seen>,
    used: BTreeSet<ExecutionId>,
    pools: Vec<KnownPool>,
    next: u64,
    log: Vec<String>,
}

impl World {
    fn new(start: Instant) -> Self {
        Self {
            state: State::new(start, config(), "life1", Vec::new()),
            now: start,
            lives: 1,
            clients: BTreeMap::new(),
            machines: BTreeMap::new(),
            paused: BTreeSet::new(),
            running: BTreeMap::new(),
            used: BTreeSet::new(),
            pools: Vec::new(),
            next: 1,
            log: Vec::new(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn apply(&mut self, event: Event) {
        let effects = self.state.apply(self.now, event);
        self.log.push(format!("{effects:?}"));
        effects.into_iter().for_each(|effect| self.believe(effect));
        self.check();
    }

    fn machine(&self, worker: WorkerId) -> Option<u64> {
        self.machines.iter().find(|(_, machine)| machine.session == Some(worker)).map(|(id, _)| *id)
    }

    fn believe(&mut self, effect: Effect) {
        match effect {
            Effect::Tell { ticket, update } => {
                let client = self.clients.get_mut(&ticket).expect("the ticket exists");
                assert_eq!(client.wait, Wait::Open, "ticket {ticket} hears of something after it ended");
                match update {
                    Update::Done(_) => client.wait = Wait::Done,
                    Update::Progress(stage, metadata) => {
                        let runs = stage == mortar_model::Stage::Executing;
                        client.ran |= runs;
                        assert_eq!(metadata.waiting.is_some(), !runs, "who waits is told why");
                    }
                }
            }
            Effect::Send { worker, message } => {
                let machine = self.machine(worker).expect("only who is connected is spoken to");
                match *message {
                    ToWorker::Run(run) => self.believe_run(machine, &run),
                    ToWorker::Cancel(execution) => {
                        let seen = self.running.get_mut(&execution).expect("only what runs is cancelled");
                        assert!(seen.machine == machine && !seen.cancelled);
                        seen.cancelled = true;
                    }
                    ToWorker::Drain => self.machines.get_mut(&machine).unwrap().draining = true,
                    ToWorker::Delivered(_) => assert!(self.machines[&machine].version >= 2),
                    ToWorker::Welcome { version, .. } => {
                        assert_eq!(version, self.machines[&machine].version);
                    }
                    ToWorker::Heartbeat => {}
                    ToWorker::ReadLog(_) => unreachable!("logs pass the scheduler by"),
                }
            }
            Effect::Disconnect { worker, .. } => {
                let machine = self.machine(worker).expect("only who is connected is disconnected");
                self.end_session(machine);
            }
            Effect::Remember(pools) => self.pools = pools,
        }
    }

    /// A machine has no session any more. One of the first version stops what it runs.
    fn end_session(&mut self, machine: u64) {
        let known = self.machines.get_mut(&machine).unwrap();
        known.session = None;
        if known.version < 2 {
            self.running.retain(|_, seen| seen.machine != machine);
            self.machines.remove(&machine);
        }
    }

    fn believe_run(&mut self, machine: u64, run: &Run) {
        let host = &self.machines[&machine];
        let on_it: Vec<_> = self
            .running
            .iter()
            .filter(|(id, seen)| seen.machine == machine && self.counts(id, seen))
            .map(|(_, seen)| seen)
            .collect();
        assert!(on_it.len() < host.slots as usize, "a slot is taken twice");
        assert!(!host.draining && !self.paused.contains(&host.name), "who takes no work gets some");
        assert!(self.used.insert(run.execution.clone()), "an id is used twice");
        let attempt: u32 = run.execution.0.rsplit('-').next().unwrap().parse().unwrap();
        assert!(attempt <= config().max_attempts);
        let (action, merge) = action_of(run.action_digest);
        assert!(wanted(action).unmet_by(&host.platform).next().is_none(), "a worker gets what it cannot run");
        // What a worker brought along and nobody claims is about to be stopped; what it needs is not known.
        let claimed = |(id, seen): &(&ExecutionId, &Seen)| {
            let mut workers = self.state.workers.iter();
            seen.machine == machine
                && (id.0.starts_with(&*self.state.name) && !seen.returned
                    || workers.any(|(_, host)| host.running.get(id).is_some_and(|it| it.job.is_some())))
        };
        let counted = self.running.iter().filter(claimed).filter(|(id, seen)| self.counts(id, seen));
        let needs =
            counted.map(|(_, seen)| seen).map(|seen| need(action_of(seen.action).0)).chain([need(action)]);
        let (cpus, memory) = needs.fold((0, 0), |sum, need| (sum.0 + need.cpu_millis, sum.1 + need.memory));
        let size = need::Room::of(host.capacity, host.slots);
        // What needs none of a kind may come to a worker that has too much of it: it came back with that.
        let (asked, fits) = (need(action), |asked, sum, size| asked == 0 || sum <= size);
        assert!(
            fits(asked.cpu_millis, cpus, size.cpu_millis) && fits(asked.memory, memory, size.memory),
            "a worker has more to do than it can"
        );
        let same = |seen: &Seen| !seen.cancelled && seen.action == run.action_digest;
        let attempts = || self.state.workers.iter().flat_map(|(_, worker)| &worker.running);
        let given_up = |id: &ExecutionId| {
            let stray = self.state.strays.iter().any(|stray| stray.execution == *id);
            !stray && attempts().any(|(known, it)| known == id && it.job.is_none())
        };
        let mut others = self.running.iter().filter(|(id, seen)| same(seen) && !given_up(id));
        let twice = others.any(|(id, seen)| self.counts(id, seen));
        assert!(!(merge && twice), "an action that is to be merged runs twice at a time, and none was lost");
        let wanted = self.open().any(|(_, client)| client.action == run.action_digest);
        assert!(wanted, "nobody waits for what is started");
        let (context, action) = (run.context.clone(), run.action_digest);
        let seen = Seen { machine, action, context, cancelled: false, recalled: false, returned: false };
        self.running.insert(run.execution.clone(), seen);
    }

    fn open(&self) -> impl Iterator<Item = (TicketId, &Client)> {
        self.clients.iter().filter(|(_, client)| client.wait == Wait::Open).map(|(id, client)| (*id, client))
    }

    /// What holds between any two events.
    fn check(&mut self) {
        let state = &self.state;
        let open: BTreeSet<_> = self.open().map(|(id, _)| id).collect();
        assert_eq!(open.len(), state.tickets.len());
        let waited_for: BTreeSet<_> = open.iter().map(|ticket| state.tickets[ticket].0).collect();
        let mut jobs = waited_for.clone();
        jobs.extend(&state.abandoned);
        assert_eq!(jobs.len(), waited_for.len() + state.abandoned.len(), "nobody waits for the abandoned");
        assert!(jobs.iter().eq(state.jobs.keys()), "each job has a waiter, or may finish for the cache");
        let (mut queued, mut recalled, mut running) = (0, 0, 0);
        for job in state.jobs.values() {
            match &job.place {
                Place::Queued { .. } => queued += 1,
                Place::Recalled { .. } => recalled += 1,
                Place::Running { worker, execution } => {
                    let attempt = &state.workers.get(*worker).unwrap().running[execution];
                    assert_eq!(attempt.job, Some(job.id));
                    assert!(!self.running.get(execution).is_some_and(|seen| seen.cancelled));
                    running += 1;
                }
            }
            assert!(state.abandoned.contains(&job.id) || job.waiters.iter().all(|id| open.contains(id)));
        }
        assert_eq!(
            (queued, queued, recalled),
            (state.queue.jobs().count(), state.queue.len(), state.recalled.len())
        );
        let attempts = || state.workers.iter().flat_map(|(_, worker)| worker.running.values());
        assert_eq!(running, attempts().filter(|attempt| attempt.job.is_some()).count());
        assert_eq!(state.next_match(self.now), None, "a worker idles while work waits for it");
        for (_, worker) in state.workers.iter() {
            let status = worker.away.is_none();
            assert_eq!(
                status,
                self.machines
                    .values()
                    .any(|machine| machine.name == worker.name && machine.session.is_some())
            );
        }
        self.check_sharing();
        // What is found again is not expected any more from others, that may hold it as well.
        let found: BTreeSet<_> =
            attempts().filter(|it| it.job.is_some()).map(|it| it.action_digest).collect();
        let lost = self.running.values_mut().filter(|seen| found.contains(&seen.action));
        lost.for_each(|seen| seen.recalled = false);
    }

    /// What each class holds is what its attempts weigh, and what waits for it is entered with its share.
    fn check_sharing(&self) {
        let state = &self.state;
        let mut held: BTreeMap<ClassId, u64> = BTreeMap::new();
        for attempt in state.workers.iter().flat_map(|(_, worker)| worker.running.values()) {
            *held.entry(attempt.class).or_default() += attempt.weight;
        }
        for (class, weight) in &held {
            assert_eq!(state.classes.share(*class).held, *weight);
        }
        for (_, group) in state.queue.groups() {
            let order: Vec<_> = group.in_order().map(|id| &state.jobs[&id]).collect();
            let rank = |job: &Job| (job.order.0, state.classes.share(job.class), job.class, job.order.1);
            assert!(order.is_sorted_by_key(|job| rank(job)), "who has least is first");
            assert_eq!(order.len(), group.len());
        }
        let waits =
            state.jobs.len() + state.workers.iter().map(|(_, worker)| worker.running.len()).sum::<usize>();
        assert!(state.classes.len() <= waits + state.tickets.len(), "classes are left behind");
    }

    /// Whether the server counts on what runs there: it knows of it, or expects it back after its restart. What it has
    /// given up is lost for it, though the machine may not know.
    fn counts(&self, execution: &ExecutionId, seen: &Seen) -> bool {
        let mut workers = self.state.workers.iter();
        let known = workers.any(|(_, worker)| worker.running.contains_key(execution));
        let told = |client: &Client| {
            client.action == seen.action && client.context.operation.as_ref().unwrap().was_running
        };
        let expected = seen.recalled
            && self.now < self.state.started + config().recall_grace
            && self.open().any(|(_, client)| told(client));
        known || expected && self.machines.get(&seen.machine).is_some_and(|machine| machine.session.is_none())
    }

    /// Lets time pass, with a tick whenever one is asked for.
    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.state.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.apply(Event::Tick);
            let next = self.state.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a tick does what it was asked for");
        }
        self.now = end;
    }

    fn heard(&mut self, worker: WorkerId, message: FromWorker) {
        self.apply(Event::Heard { worker, message: Box::new(message) });
    }

    fn sessions(&self) -> impl Iterator<Item = (u64, WorkerId)> + '_ {
        self.machines.iter().filter_map(|(id, machine)| Some((*id, machine.session?)))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit { action, priority, merge, invocation } => {
                self.submit(action, priority, merge, invocation);
            }
            Step::Leave(which) => {
                if let Some(id) = nth(self.open().map(|(id, _)| id), which) {
                    self.clients.get_mut(&id).unwrap().wait = Wait::Left;
                    self.apply(Event::Leave(id));
                }
            }
            Step::Join { slots, platform: number, size, version } => {
                self.hire(slots, platform(number), size, version);
            }
            Step::Lose(which) => {
                if let Some((_, worker)) = nth(self.sessions(), which) {
                    self.apply(Event::Lost { worker, loss: Loss::Disconnected });
                }
            }
            Step::Return(which) => {
                let gone = self.machines.iter().filter(|(_, machine)| machine.session.is_none());
                if let Some(machine) = nth(gone.map(|(id, _)| *id), which) {
                    self.attach(machine);
                }
            }
            Step::Drain(which) => {
                if let Some((machine, worker)) = nth(self.sessions(), which) {
                    self.machines.get_mut(&machine).unwrap().draining = true;
                    self.heard(worker, FromWorker::Draining);
                }
            }
            Step::Tend(which, wish) => self.tend(which, wish),
            Step::Progress(which) => {
                if let Some((execution, worker)) = self.execution(which) {
                    let metadata = ExecutionMetadata::default();
                    self.heard(worker, FromWorker::Progress { execution, metadata });
                }
            }
            Step::Finish(which, ended) => self.finish(which, ended),
            Step::Wait { seconds, heartbeats } => {
                if heartbeats {
                    for (_, worker) in self.sessions().collect::<Vec<_>>() {
                        self.heard(worker, FromWorker::Heartbeat);
                    }
                }
                self.wait(Duration::from_secs(seconds));
            }
            Step::Leap { hours, tick } => {
                self.now += Duration::from_secs(hours * 60 * 60);
                if tick {
                    self.apply(Event::Tick);
                }
            }
            Step::Restart => self.restart(),
        }
    }

    fn tend(&mut self, which: usize, wish: Wish) {
        let Some(name) = nth(self.machines.values().map(|machine| machine.name.clone()), which) else {
            return;
        };
        match wish {
            Wish::Pause => drop(self.paused.insert(name.clone())),
            Wish::Resume => drop(self.paused.remove(&name)),
            Wish::Drain => {
                let it = self.machines.values_mut().filter(|machine| machine.name == name);
                it.filter(|machine| machine.session.is_some()).for_each(|machine| machine.draining = true);
            }
        }
        self.apply(Event::Tend { worker: name, wish });
    }

    fn submit(&mut self, action: u8, priority: i32, merge: bool, invocation: u8) {
        let ticket = TicketId(self.id());
        let request = RequestMetadata {
            tool_invocation_id: if invocation == 0 { String::new() } else { invocation.to_string() },
            ..RequestMetadata::default()
        };
        let operation = Operation { name: format!("op{}", ticket.0), ..Operation::default() };
        let context = Context {
            request: Arc::new(request),
            operation: Some(Arc::new(operation)),
            ..Context::internal()
        };
        let action_digest = digest(action, merge);
        let client = Client { wait: Wait::Open, action: action_digest, merge, priority, context, ran: false };
        self.ask(ticket, client);
    }

    fn ask(&mut self, ticket: TicketId, client: Client) {
        let (action, _) = action_of(client.action);
        let submission = Submission {
            action_digest: client.action,
            platform: wanted(action),
            priority: client.priority,
            merge: client.merge,
            need: need(action),
        };
        let context = client.context.clone();
        self.clients.insert(ticket, client);
        self.apply(Event::Submit(Submitted { ticket, context, submission, queued: SystemTime::UNIX_EPOCH }));
    }

    fn hire(&mut self, slots: u32, platform: Platform, size: u64, version: u32) {
        let machine = self.id();
        let known = version > 1 && size > 1;
        let capacity = Capacity { cpu_millis: size * 1000, memory: size * 15 };
        let capacity = if known { capacity } else { Capacity::default() };
        let name = format!("w{machine}");
        let (draining, session) = (false, None);
        self.machines
            .insert(machine, Machine { name, slots, platform, capacity, version, draining, session });
        self.attach(machine);
    }

    /// A machine begins a session, and brings along what it holds.
    fn attach(&mut self, machine: u64) {
        let worker = WorkerId(self.id());
        let known = self.machines.get_mut(&machine).unwrap();
        known.session = Some(worker);
        let mine = self.running.iter().filter(|(_, seen)| seen.machine == machine);
        let held = mine.map(|(execution, seen)| Held {
            execution: execution.clone(),
            context: seen.context.clone(),
            action_digest: seen.action,
        });
        let hello = Hello {
            version: known.version,
            name: known.name.clone(),
            slots: known.slots,
            platform: known.platform.clone(),
            capacity: known.capacity,
            process: if known.version > 1 { format!("p{machine}") } else { String::new() },
            draining: known.draining,
            held: held.collect(),
            ..Hello::default()
        };
        for (execution, seen) in self.running.iter_mut().filter(|(_, seen)| seen.machine == machine) {
            // What was cancelled is told again.
            seen.cancelled = false;
            seen.returned |= !self.state.workers.iter().any(|(_, host)| host.running.contains_key(execution));
        }
        self.apply(Event::Join { worker, hello });
    }

    fn execution(&self, which: usize) -> Option<(ExecutionId, WorkerId)> {
        let connected = self
            .running
            .iter()
            .filter_map(|(id, seen)| Some((id.clone(), self.machines.get(&seen.machine)?.session?)));
        nth(connected, which)
    }

    fn finish(&mut self, which: usize, ended: Ended) {
        let Some((execution, worker)) = self.execution(which) else { return };
        self.running.remove(&execution);
        let outcome = match ended {
            Success => Ok(success()),
            Defect => Err(Error::internal("the worker stumbled")),
            Missing => Err(Error::new(Kind::MissingBlobs { missing: vec![digest(0, true)] })),
        };
        self.heard(worker, FromWorker::Finished { execution, outcome: Box::new(outcome) });
    }

    /// The server is killed and begins anew; its operations are taken up as they were written down.
    fn restart(&mut self) {
        self.lives += 1;
        let name = format!("life{}", self.lives);
        self.state = State::new(self.now, config(), name, self.pools.clone());
        self.log.push("restart".to_owned());
        self.paused.clear();
        for machine in self.machines.keys().copied().collect::<Vec<_>>() {
            self.end_session(machine);
        }
        let open: Vec<_> = self.open().map(|(id, client)| (id, client.clone())).collect();
        self.clients.retain(|_, client| client.wait != Wait::Open);
        for seen in self.running.values_mut() {
            let operation = |context: &Context| context.operation.as_ref().unwrap().name.clone();
            seen.recalled = open.iter().any(|(_, client)| {
                client.ran
                    && client.action == seen.action
                    && (client.merge || operation(&client.context) == operation(&seen.context))
            });
        }
        for (_, mut client) in open {
            let name = client.context.operation.as_ref().unwrap().name.clone();
            let operation = Operation { name, was_running: client.ran, ..Operation::default() };
            client.context.operation = Some(Arc::new(operation));
            let ticket = TicketId(self.id());
            self.ask(ticket, client);
        }
    }

    /// Sees to it that everything can end, and that it does.
    fn end(&mut self, close: bool) {
        if close {
            self.apply(Event::Close { drain: Duration::from_secs(5) });
            self.wait(Duration::from_secs(5));
            assert!(self.state.is_over());
        } else {
            // What ran elsewhere comes back or is given up; a large worker does the rest.
            self.wait(config().recall_grace);
            self.hire(100, platform(2), 1000, 2);
            while self.execution(0).is_some() {
                self.finish(0, Success);
            }
        }
        assert_eq!(self.open().count(), 0, "somebody waits for ever");
    }
}

fn nth<T>(things: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let mut things: Vec<_> = things.collect();
    (!things.is_empty()).then(|| things.swap_remove(which % things.len()))
}

fn success() -> Outcome {
    Outcome {
        result: ActionResult::default(),
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: Vec::new(),
    }
}

fn live(start: Instant, steps: &[Step], close: bool) -> Vec<String> {
    let mut world = World::new(start);
    steps.iter().for_each(|step| world.take(step.clone()));
    world.end(close);
    world.log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(steps in prop::collection::vec(step(), 0..80), close: bool) {
        let start = Instant::now();
        let log = live(start, &steps, close);
        prop_assert_eq!(log, live(start, &steps, close), "the same history has other effects");
    }
}
