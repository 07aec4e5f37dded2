//! The pools that are known: those that are configured, and those whose workers were seen, also before a restart. An
//! action that one of them could run waits for it, even when it is empty.

use super::need::{Demand, Room};
use crate::KnownPool;
use mortar_model::{
    Platform, image,
    session::{Capacity, Hello},
};

/// Pools that are remembered for having been seen; the one that was not seen for longest is forgotten for a new one.
const SEEN: usize = 256;

/// All of them.
#[derive(Debug)]
pub(super) struct Pools {
    configured: Vec<KnownPool>,
    seen: Vec<KnownPool>,
}

impl Pools {
    pub(super) fn new(mut configured: Vec<KnownPool>, seen: Vec<KnownPool>) -> Self {
        configured.iter_mut().for_each(|pool| pool.platform = image::canonical(&pool.platform));
        Self { configured, seen }
    }

    /// A worker came. Whether there is anything new in that: none of its kind was as large.
    pub(super) fn see(&mut self, hello: &Hello) -> bool {
        self.note(&hello.name, &hello.platform, Room::of(hello.capacity, hello.slots))
    }

    /// A worker of that kind was here until now.
    pub(super) fn left(&mut self, platform: &Platform, size: Room) {
        let covers = |pool: &KnownPool| pool.platform == *platform && room(pool).covers(size);
        if let Some(at) = self.seen.iter().position(covers) {
            let pool = self.seen.remove(at);
            self.seen.push(pool);
        }
    }

    fn note(&mut self, name: &str, platform: &Platform, size: Room) -> bool {
        let same = |pool: &KnownPool| pool.platform == *platform;
        if self.seen.iter().any(|pool| same(pool) && room(pool).covers(size)) {
            return false;
        }
        self.seen.retain(|pool| !(same(pool) && size.covers(room(pool))));
        if self.seen.len() >= SEEN {
            self.seen.remove(0);
        }
        let memory = if size.memory == u64::MAX { 0 } else { size.memory };
        let capacity = Capacity { cpu_millis: size.cpu_millis, memory };
        self.seen.push(KnownPool { name: name.to_owned(), platform: platform.clone(), capacity });
        true
    }

    /// Those that were seen; the one that was seen last is the last.
    pub(super) fn seen(&self) -> &[KnownPool] {
        &self.seen
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KnownPool> {
        self.configured.iter().chain(&self.seen)
    }

    /// A pool that could run this.
    pub(super) fn suiting(&self, demand: &Demand) -> Option<&KnownPool> {
        self.iter().find(|pool| {
            demand.platform.unmet_by(&pool.platform).next().is_none() && room(pool).holds(demand.declared)
        })
    }
}

/// The most that one worker of it has; without end where that is not known.
pub(super) fn room(pool: &KnownPool) -> Room {
    let or = |told: u64| if told == 0 { u64::MAX } else { told };
    Room { cpu_millis: or(pool.capacity.cpu_millis), memory: or(pool.capacity.memory) }
}
