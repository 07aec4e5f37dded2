//! What clients, workers, operators and time do to the scheduler.

use super::{
    super::*,
    Ended, Step,
    fixture::*,
    world::{Client, Machine, Wait, World},
};
use crate::Submission;
use Ended::{Defect, Missing, Success};
use mortar_model::{
    Context, Error, ExecutionMetadata, Kind, Platform, RequestMetadata,
    context::Operation,
    session::{Capacity, Held, Hello},
};
use std::time::SystemTime;

impl World {
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Submit { action, priority, merge, invocation } => {
                self.submit(action, priority, merge, invocation);
            }
            Step::Leave(which) => self.leave(which, Event::Leave),
            Step::Cancel(which) => self.leave(which, Event::Cancel),
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

    fn leave(&mut self, which: usize, how: fn(TicketId) -> Event) {
        if let Some(id) = nth(self.open().map(|(id, _)| id), which) {
            self.clients.get_mut(&id).unwrap().wait = Wait::Left;
            self.apply(how(id));
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
    pub(super) fn end(&mut self, close: bool) {
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
