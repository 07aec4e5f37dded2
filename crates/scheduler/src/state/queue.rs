//! What waits for a worker: one pool for each set of properties that is asked for, so that a match looks at pools and
//! not at actions. Within a pool the order is priority, then arrival.
//!
//! Which worker gets what is not decided here.

use super::{
    TicketId, after,
    job::{Job, Order, Place},
};
use crate::Config;
use mortar_model::Platform;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// All pools that are not empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pools: BTreeMap<Arc<Platform>, Pool>,
    length: usize,
}

/// The jobs that ask for the same properties.
#[derive(Debug, Default)]
pub(super) struct Pool {
    order: BTreeMap<Order, TicketId>,
    /// By the time since when they wait, which a retry sets anew and a merge leaves as it is.
    waiting: BTreeSet<(Instant, TicketId)>,
    /// Since when no connected worker could run them.
    unserved: Option<Instant>,
}

/// What a job has waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// A worker that could run it.
    Worker { waited: Duration },
    /// Its turn.
    Turn { waited: Duration },
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The platform as it is kept already, if it is, so that equal ones are kept once.
    pub(super) fn share(&self, platform: Platform) -> Arc<Platform> {
        match self.pools.get_key_value(&platform) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(platform),
        }
    }

    /// Adds a job that is queued. `served` tells whether a connected worker could run it.
    pub(super) fn insert(&mut self, job: &Job, served: bool) {
        let Place::Queued { since } = job.place else { return };
        let pool = self
            .pools
            .entry(Arc::clone(&job.platform))
            .or_insert_with(|| Pool { unserved: (!served).then_some(since), ..Pool::default() });
        pool.order.insert(job.order, job.id);
        pool.waiting.insert((since, job.id));
        self.length += 1;
    }

    /// Takes a job out that is queued.
    pub(super) fn remove(&mut self, job: &Job) {
        let Place::Queued { since } = job.place else { return };
        let Some(pool) = self.pools.get_mut(&job.platform) else { return };
        if pool.order.remove(&job.order).is_some() {
            pool.waiting.remove(&(since, job.id));
            self.length -= 1;
        }
        if pool.order.is_empty() {
            self.pools.remove(&job.platform);
        }
    }

    /// Makes a job more, or less, urgent.
    pub(super) fn reorder(&mut self, job: &mut Job, priority: i32) {
        let earlier = job.order;
        job.order.0 = priority;
        let Some(pool) = self.pools.get_mut(&job.platform) else { return };
        if pool.order.get(&earlier) == Some(&job.id) {
            pool.order.remove(&earlier);
            pool.order.insert(job.order, job.id);
        }
    }

    /// Notes which pools can be served, now that a worker came, went or drains.
    pub(super) fn review(&mut self, now: Instant, serves: impl Fn(&Platform) -> bool) {
        for (platform, pool) in &mut self.pools {
            pool.unserved = if serves(platform) { None } else { pool.unserved.or(Some(now)) };
        }
    }

    /// Each pool: what it asks for, and its jobs in order.
    pub(super) fn pools(
        &self,
    ) -> impl Iterator<Item = (&Platform, impl Iterator<Item = (Order, TicketId)> + '_)> {
        self.pools
            .iter()
            .map(|(platform, pool)| (&**platform, pool.order.iter().map(|(order, job)| (*order, *job))))
    }

    /// Every job, pool by pool.
    pub(super) fn jobs(&self) -> impl Iterator<Item = TicketId> + '_ {
        self.pools.values().flat_map(|pool| pool.order.values().copied())
    }

    /// When the next job will have waited too long.
    pub(super) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        self.pools.values().filter_map(|pool| pool.next_deadline(config)).min()
    }

    /// The jobs that have waited too long, and for what.
    pub(super) fn overdue(&self, now: Instant, config: &Config) -> Vec<(TicketId, Overdue)> {
        self.pools.values().flat_map(|pool| pool.overdue(now, config)).collect()
    }

    /// Since when the oldest job waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.pools.values().filter_map(|pool| pool.waiting.first().map(|(since, _)| *since)).min()
    }
}

impl Pool {
    fn next_deadline(&self, config: &Config) -> Option<Instant> {
        let (since, _) = self.waiting.first()?;
        let turn = after(*since, config.max_queue_time);
        let unserved = self.unserved_since(*since).map(|start| after(start, config.max_unserved_time));
        Some(unserved.map_or(turn, |unserved| unserved.min(turn)))
    }

    /// Since when this job waits for a worker that could run it.
    fn unserved_since(&self, since: Instant) -> Option<Instant> {
        self.unserved.map(|unserved| unserved.max(since))
    }

    /// Both limits come later for jobs that wait less long, so the first that is in time ends the search.
    fn overdue(&self, now: Instant, config: &Config) -> impl Iterator<Item = (TicketId, Overdue)> + '_ {
        let (unserved_limit, turn_limit) = (config.max_unserved_time, config.max_queue_time);
        self.waiting.iter().map_while(move |(since, job)| {
            let unserved = self.unserved_since(*since).map(|start| now.saturating_duration_since(start));
            if let Some(waited) = unserved.filter(|waited| *waited >= unserved_limit) {
                return Some((*job, Overdue::Worker { waited }));
            }
            let waited = now.saturating_duration_since(*since);
            (waited >= turn_limit).then_some((*job, Overdue::Turn { waited }))
        })
    }
}
