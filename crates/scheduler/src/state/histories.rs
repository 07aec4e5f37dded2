//! Random histories of clients, workers and time against a second bookkeeping that only believes the effects, and
//! that holds the scheduler to its promises after every step.

use super::*;
use crate::Submission;
use Ended::{Defect, Missing, Success};
use mortar_model::{
    ActionResult, Context, Digest, DigestFunction, Error, ExecutionMetadata, Kind, Outcome, Platform,
    Termination,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, time::SystemTime};

/// One step of a history. Numbers choose among what is there, modulo how much that is.
#[derive(Clone, Debug)]
enum Step {
    Submit { action: u8, priority: i32, merge: bool },
    Leave(usize),
    Join { slots: u32, platform: usize },
    Lose(usize),
    Drain(usize),
    Progress(usize),
    Finish(usize, Ended),
    Wait { seconds: u64, heartbeats: bool },
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
        6 => (0..6u8, -1..2i32, any::<bool>())
            .prop_map(|(action, priority, merge)| Step::Submit { action, priority, merge }),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => (1..4u32, 0..4usize).prop_map(|(slots, platform)| Step::Join { slots, platform }),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Drain),
        1 => any::<usize>().prop_map(Step::Progress),
        4 => (any::<usize>(), prop_oneof![3 => Just(Success), 2 => Just(Defect), 1 => Just(Missing)])
            .prop_map(|(which, ended)| Step::Finish(which, ended)),
        2 => (0..50u64, prop::bool::weighted(0.8))
            .prop_map(|(seconds, heartbeats)| Step::Wait { seconds, heartbeats }),
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

fn digest(action: u8, merge: bool) -> Digest {
    Digest::of(DigestFunction::Sha256, &[action, u8::from(merge)])
}

fn config() -> Config {
    let seconds = Duration::from_secs;
    Config {
        max_queued: 8,
        max_queue_time: seconds(300),
        max_unserved_time: seconds(60),
        max_attempts: 3,
        heartbeat_interval: seconds(10),
        ..Config::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    Open,
    Left,
    Done,
}

struct Seen {
    worker: WorkerId,
    action: Digest,
    cancelled: bool,
}

struct Believed {
    slots: u32,
    platform: Platform,
    draining: bool,
}

/// The second bookkeeping.
struct World {
    state: State,
    now: Instant,
    tickets: BTreeMap<TicketId, (Wait, Digest, bool)>,
    workers: BTreeMap<WorkerId, Believed>,
    running: BTreeMap<ExecutionId, Seen>,
    used: BTreeSet<ExecutionId>,
    next: u64,
    log: Vec<String>,
}

impl World {
    fn new(start: Instant) -> Self {
        Self {
            state: State::new(config(), "test"),
            now: start,
            tickets: BTreeMap::new(),
            workers: BTreeMap::new(),
            running: BTreeMap::new(),
            used: BTreeSet::new(),
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

    fn believe(&mut self, effect: Effect) {
        match effect {
            Effect::Tell { ticket, update } => {
                let (wait, ..) = self.tickets.get_mut(&ticket).expect("the ticket exists");
                assert_eq!(*wait, Wait::Open, "ticket {ticket} hears of something after it ended");
                if let Update::Done(_) = update {
                    *wait = Wait::Done;
                }
            }
            Effect::Send { worker, message } => match *message {
                ToWorker::Run(run) => self.believe_run(worker, &run),
                ToWorker::Cancel(execution) => {
                    let seen = self.running.get_mut(&execution).expect("only what runs is cancelled");
                    assert!(seen.worker == worker && !seen.cancelled);
                    seen.cancelled = true;
                }
                ToWorker::Welcome { .. } | ToWorker::Heartbeat => assert!(self.workers.contains_key(&worker)),
            },
            Effect::Disconnect { worker, .. } => {
                self.workers.remove(&worker).expect("only who is connected is disconnected");
                self.running.retain(|_, seen| seen.worker != worker);
            }
        }
    }

    fn believe_run(&mut self, worker: WorkerId, run: &Run) {
        let believed = self.workers.get(&worker).expect("work goes to who is connected");
        let taken = self.running.values().filter(|seen| seen.worker == worker).count();
        assert!(taken < believed.slots as usize, "a slot is taken twice");
        assert!(!believed.draining, "a draining worker gets work");
        assert!(self.used.insert(run.execution.clone()), "an id is used twice");
        let attempt: u32 = run.execution.0.rsplit('-').next().unwrap().parse().unwrap();
        assert!(attempt <= config().max_attempts);
        let fits = |action| wanted(action).unmet_by(&believed.platform).next().is_none();
        let action = (0..6)
            .find(|action| [true, false].map(|merge| digest(*action, merge)).contains(&run.action_digest));
        assert!(fits(action.expect("it was submitted")), "a worker gets what it cannot run");
        let merged = self.tickets.values().any(|(_, action, merge)| *merge && *action == run.action_digest);
        let twice = self.running.values().any(|seen| !seen.cancelled && seen.action == run.action_digest);
        assert!(!(merged && twice), "an action that is to be merged runs twice at a time");
        let wanted = self
            .tickets
            .values()
            .any(|(wait, action, _)| *wait == Wait::Open && *action == run.action_digest);
        assert!(wanted, "nobody waits for what is started");
        let seen = Seen { worker, action: run.action_digest, cancelled: false };
        self.running.insert(run.execution.clone(), seen);
    }

    /// What holds between any two events.
    fn check(&self) {
        let state = &self.state;
        let open: Vec<_> =
            self.tickets.iter().filter(|(_, (wait, ..))| *wait == Wait::Open).map(|(id, _)| *id).collect();
        assert_eq!(open.len(), state.tickets.len());
        let jobs: BTreeSet<_> = open.iter().map(|ticket| state.tickets[ticket]).collect();
        assert!(jobs.iter().eq(state.jobs.keys()), "each job has a waiter and each waiter a job");
        let (mut queued, mut running) = (0, 0);
        for job in state.jobs.values() {
            match &job.place {
                Place::Queued { .. } => queued += 1,
                Place::Running { execution, .. } => {
                    assert!(!self.running[execution].cancelled);
                    running += 1;
                }
            }
        }
        assert_eq!(queued, state.queue.jobs().count());
        assert_eq!(queued, state.queue.len());
        assert_eq!(running, self.running.values().filter(|seen| !seen.cancelled).count());
        assert_eq!(state.next_match(), None, "a worker idles while work waits for it");
        let busy: u32 = state.status(self.now).workers.iter().map(|worker| worker.busy).sum();
        assert_eq!(busy as usize, self.running.len(), "a slot leaks");
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

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit { action, priority, merge } => self.submit(action, priority, merge),
            Step::Leave(which) => {
                let open = self.tickets.iter_mut().filter(|(_, (wait, ..))| *wait == Wait::Open);
                if let Some((id, (wait, ..))) = nth(open, which) {
                    *wait = Wait::Left;
                    let id = *id;
                    self.apply(Event::Leave(id));
                }
            }
            Step::Join { slots, platform: number } => self.join(slots, platform(number)),
            Step::Lose(which) => {
                if let Some(worker) = nth(self.workers.keys().copied(), which) {
                    self.apply(Event::Lost { worker, loss: Loss::Disconnected });
                }
            }
            Step::Drain(which) => {
                if let Some(worker) = nth(self.workers.keys().copied(), which) {
                    self.workers.get_mut(&worker).unwrap().draining = true;
                    self.heard(worker, FromWorker::Draining);
                }
            }
            Step::Progress(which) => {
                if let Some((execution, worker)) = self.execution(which) {
                    let metadata = ExecutionMetadata::default();
                    self.heard(worker, FromWorker::Progress { execution, metadata });
                }
            }
            Step::Finish(which, ended) => self.finish(which, ended),
            Step::Wait { seconds, heartbeats } => {
                if heartbeats {
                    for worker in self.workers.keys().copied().collect::<Vec<_>>() {
                        self.heard(worker, FromWorker::Heartbeat);
                    }
                }
                self.wait(Duration::from_secs(seconds));
            }
        }
    }

    fn submit(&mut self, action: u8, priority: i32, merge: bool) {
        let platform = wanted(action);
        let ticket = TicketId(self.id());
        let action_digest = digest(action, merge);
        self.tickets.insert(ticket, (Wait::Open, action_digest, merge));
        self.apply(Event::Submit(Submitted {
            ticket,
            context: Context::internal(),
            submission: Submission { action_digest, platform, priority, merge },
            queued: SystemTime::UNIX_EPOCH,
        }));
    }

    fn join(&mut self, slots: u32, platform: Platform) {
        let worker = WorkerId(self.id());
        self.workers.insert(worker, Believed { slots, platform: platform.clone(), draining: false });
        let hello = Hello { version: session::VERSION, name: format!("w{}", worker.0), slots, platform };
        self.apply(Event::Join { worker, hello });
    }

    fn execution(&self, which: usize) -> Option<(ExecutionId, WorkerId)> {
        nth(self.running.iter().map(|(id, seen)| (id.clone(), seen.worker)), which)
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

    /// Sees to it that everything can end, and that it does.
    fn end(&mut self, close: bool) {
        if close {
            self.apply(Event::Close { drain: Duration::from_secs(5) });
            self.wait(Duration::from_secs(5));
            assert!(self.state.is_over());
        } else {
            self.join(100, platform(2));
            while !self.running.is_empty() {
                self.finish(0, Success);
            }
        }
        let open = self.tickets.values().filter(|(wait, ..)| *wait == Wait::Open).count();
        assert_eq!(open, 0, "somebody waits for ever");
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
