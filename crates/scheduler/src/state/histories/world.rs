//! The second bookkeeping: who waits for what, and what runs where, as clients and workers see it.

use super::{
    super::*,
    fixture::{config, nth},
};
use mortar_model::{
    Context, Digest, Platform,
    session::{Capacity, ExecutionId},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wait {
    Open,
    Left,
    Done,
}

/// A client's ticket.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) wait: Wait,
    pub(super) action: Digest,
    pub(super) merge: bool,
    pub(super) priority: i32,
    pub(super) context: Context,
    /// Whether a worker ever had it, which is written down.
    pub(super) ran: bool,
}

/// What runs on a worker's machine, whatever the server believes.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) machine: u64,
    pub(super) action: Digest,
    pub(super) context: Context,
    pub(super) cancelled: bool,
    /// Since the server was restarted: somebody waits for it, who was told that it runs.
    pub(super) recalled: bool,
    /// A worker brought it along that the server did not know to have it.
    pub(super) returned: bool,
}

/// A worker's machine.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) slots: u32,
    pub(super) platform: Platform,
    pub(super) capacity: Capacity,
    pub(super) version: u32,
    pub(super) draining: bool,
    pub(super) session: Option<WorkerId>,
}

/// The second bookkeeping.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Instant,
    pub(super) lives: u32,
    pub(super) clients: BTreeMap<TicketId, Client>,
    pub(super) machines: BTreeMap<u64, Machine>,
    pub(super) paused: BTreeSet<String>,
    pub(super) running: BTreeMap<ExecutionId, Seen>,
    pub(super) used: BTreeSet<ExecutionId>,
    pub(super) pools: Vec<KnownPool>,
    pub(super) next: u64,
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(start: Instant) -> Self {
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

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn apply(&mut self, event: Event) {
        let effects = self.state.apply(self.now, event);
        self.log.push(format!("{effects:?}"));
        effects.into_iter().for_each(|effect| self.believe(effect));
        self.check();
    }

    pub(super) fn machine(&self, worker: WorkerId) -> Option<u64> {
        self.machines.iter().find(|(_, machine)| machine.session == Some(worker)).map(|(id, _)| *id)
    }

    /// A machine has no session any more. One of the first version stops what it runs.
    pub(super) fn end_session(&mut self, machine: u64) {
        let known = self.machines.get_mut(&machine).unwrap();
        known.session = None;
        if known.version < 2 {
            self.running.retain(|_, seen| seen.machine != machine);
            self.machines.remove(&machine);
        }
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (TicketId, &Client)> {
        self.clients.iter().filter(|(_, client)| client.wait == Wait::Open).map(|(id, client)| (*id, client))
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = (u64, WorkerId)> + '_ {
        self.machines.iter().filter_map(|(id, machine)| Some((*id, machine.session?)))
    }

    pub(super) fn execution(&self, which: usize) -> Option<(ExecutionId, WorkerId)> {
        let connected = self
            .running
            .iter()
            .filter_map(|(id, seen)| Some((id.clone(), self.machines.get(&seen.machine)?.session?)));
        nth(connected, which)
    }

    /// Whether the server counts on what runs there: it knows of it, or expects it back after its restart. What it has
    /// given up is lost for it, though the machine may not know.
    pub(super) fn counts(&self, execution: &ExecutionId, seen: &Seen) -> bool {
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
}
