//! What the scheduler promises: of each effect by itself, and between any two events.

use super::{
    super::*,
    fixture::*,
    world::{Seen, Wait, World},
};
use mortar_model::session::{ExecutionId, Run};

impl World {
    pub(super) fn believe(&mut self, effect: Effect) {
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

    pub(super) fn believe_run(&mut self, machine: u64, run: &Run) {
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

    /// What holds between any two events.
    pub(super) fn check(&mut self) {
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
    pub(super) fn check_sharing(&self) {
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
}
