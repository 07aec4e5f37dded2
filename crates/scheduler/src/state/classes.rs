//! Who shares the workers with whom: each invocation is a class, and so is, for each instance and tool, all that names
//! none. Of classes that wait for the same, the one goes first that holds least at the moment; of equal ones the one
//! that was served least since it came.

use mortar_model::{Context, InstanceName};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// One class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(pub(super) u64);

/// What a class has of the workers: first what it holds now, in thousandths of processors, then what it has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share {
    pub(super) held: u64,
    pub(super) served: u64,
}

/// All classes that wait for something, or hold something.
#[derive(Debug, Default)]
pub(super) struct Classes {
    ids: HashMap<Key, ClassId>,
    all: BTreeMap<ClassId, Class>,
    /// What the class had been served that was dispatched last. Who comes begins there: with what was before, he has
    /// nothing to do.
    clock: u64,
    last: u64,
}

/// Instance, invocation, and the tool where there is no invocation.
type Key = (InstanceName, Box<str>, Box<str>);

#[derive(Debug)]
struct Class {
    key: Key,
    share: Share,
    /// Tickets that wait.
    tickets: usize,
    /// Jobs in the queue and attempts on workers.
    uses: usize,
}

impl Classes {
    /// The class of whoever asks, which a new ticket of it waits in.
    pub(super) fn enter(&mut self, context: &Context) -> ClassId {
        let id = self.of(context);
        self.get(id).tickets += 1;
        id
    }

    /// A ticket waits no longer. Whether another one of the class does.
    pub(super) fn leave(&mut self, id: ClassId) -> bool {
        let class = self.get(id);
        class.tickets -= 1;
        let goes_on = class.tickets > 0;
        self.tidy(id);
        goes_on
    }

    /// Whether this is an invocation of which something waits.
    pub(super) fn goes_on(&self, id: ClassId) -> bool {
        self.all.get(&id).is_some_and(|class| class.tickets > 0 && !class.key.1.is_empty())
    }

    /// A job of the class is queued, or runs.
    pub(super) fn join(&mut self, id: ClassId) {
        let clock = self.clock;
        let class = self.get(id);
        if class.uses == 0 {
            class.share.served = class.share.served.max(clock);
        }
        class.uses += 1;
    }

    /// It is not any more.
    pub(super) fn part(&mut self, id: ClassId) {
        self.get(id).uses -= 1;
        self.tidy(id);
    }

    /// The class that strays belong to until they are claimed.
    pub(super) fn of(&mut self, context: &Context) -> ClassId {
        let request = &context.request;
        let tool = if request.tool_invocation_id.is_empty() { request.tool_name.as_str() } else { "" };
        let key = (context.instance.clone(), Box::from(request.tool_invocation_id.as_str()), Box::from(tool));
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        self.last += 1;
        let id = ClassId(self.last);
        self.ids.insert(key.clone(), id);
        let share = Share { held: 0, served: self.clock };
        self.all.insert(id, Class { key, share, tickets: 0, uses: 0 });
        id
    }

    pub(super) fn share(&self, id: ClassId) -> Share {
        self.all.get(&id).map(|class| class.share).unwrap_or_default()
    }

    /// The class begins to hold so much.
    pub(super) fn hold(&mut self, id: ClassId, weight: u64) {
        let class = self.get(id);
        class.share.held += weight;
        let served = class.share.served;
        self.clock = self.clock.max(served);
    }

    /// The class gives it back after so long.
    pub(super) fn release(&mut self, id: ClassId, weight: u64, after: Duration) {
        let class = self.get(id);
        class.share.held -= weight;
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
        class.share.served = class.share.served.saturating_add(weight.saturating_mul(millis));
    }

    fn get(&mut self, id: ClassId) -> &mut Class {
        self.all.get_mut(&id).expect("a class stays for as long as a ticket, a job or an attempt is of it")
    }

    fn tidy(&mut self, id: ClassId) {
        if let Some(class) = self.all.get(&id)
            && class.tickets == 0
            && class.uses == 0
        {
            self.ids.remove(&class.key);
            self.all.remove(&id);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
