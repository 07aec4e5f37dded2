//! What an action needs of a worker beside its properties, and what it asks for in all: jobs that ask for the same wait
//! in one group.

use mortar_model::{Platform, session::Capacity};

/// What an action says that it needs. What it does not say may be learned from earlier executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Need {
    /// Processors, in thousandths; 0 where nothing was said.
    pub cpu_millis: u64,
    /// Memory, in bytes; 0 where nothing was said.
    pub memory: u64,
}

/// What the jobs of one group ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Demand {
    pub(super) platform: Platform,
    /// What the action itself says: a worker that has less can never run it.
    pub(super) declared: Need,
    /// With what was learned where it says nothing: that much room is left to it. A worker that does nothing else has
    /// room for whatever was learned.
    pub(super) need: Need,
}

/// The room on a worker, or the size of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) cpu_millis: u64,
    pub(super) memory: u64,
}

impl Room {
    /// A worker that does not tell its size has a processor for each slot, and memory without a known end.
    pub(super) fn of(capacity: Capacity, slots: u32) -> Self {
        let or = |told: u64, otherwise| if told == 0 { otherwise } else { told };
        Self {
            cpu_millis: or(capacity.cpu_millis, u64::from(slots) * 1000),
            memory: or(capacity.memory, u64::MAX),
        }
    }

    pub(super) fn holds(self, need: Need) -> bool {
        need.cpu_millis <= self.cpu_millis && need.memory <= self.memory
    }

    pub(super) fn covers(self, other: Self) -> bool {
        other.cpu_millis <= self.cpu_millis && other.memory <= self.memory
    }

    pub(super) fn take(&mut self, need: Need) {
        self.cpu_millis = self.cpu_millis.saturating_sub(need.cpu_millis);
        self.memory = self.memory.saturating_sub(need.memory);
    }
}

impl Need {
    /// What is said here, and what `learned` says where nothing is.
    pub(super) fn or(self, learned: Self) -> Self {
        let or = |said: u64, otherwise| if said == 0 { otherwise } else { said };
        Self { cpu_millis: or(self.cpu_millis, learned.cpu_millis), memory: or(self.memory, learned.memory) }
    }
}
