//! The limits of the scheduler. Plain values: where they come from is the configuration's business.

use mortar_model::{Platform, session::Capacity};
use std::{collections::BTreeSet, time::Duration};

/// Every limit that the scheduler keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Actions that may wait for a worker; the next is refused.
    pub max_queued: usize,
    /// How long an action waits for its turn on workers that could run it.
    pub max_queue_time: Duration,
    /// How long an action waits while no worker of the pools that could run it is connected and takes work.
    pub max_unserved_time: Duration,
    /// How long after the start an action that no known pool can run waits for one to appear; later it is refused at once.
    pub start_grace: Duration,
    /// How often an action is started, at most, if its workers fail. At least 1.
    pub max_attempts: u32,
    /// How often worker and server tell each other that they live; a worker is lost after three silent intervals.
    pub heartbeat_interval: Duration,
    /// How long a worker whose connection ended may take to come back before its work is done elsewhere.
    pub reattach_grace: Duration,
    /// After a restart: how long what ran waits for its worker, and what a worker brings along for its client.
    pub recall_grace: Duration,
    /// How long an action that finds no room because it needs much lets others pass; after that, one worker is kept free
    /// for it.
    pub patience: Duration,
    /// What becomes of an action that runs when nobody waits for it any more.
    pub abandoned: Abandoned,
    /// Applied to actions that name no timeout.
    pub default_timeout: Duration,
    /// Actions that name a longer timeout are refused.
    pub max_timeout: Duration,
    /// What a refused client is told to wait.
    pub retry_after: Duration,
    /// Pools that are known without ever having been seen.
    pub pools: Vec<KnownPool>,
    /// Names of properties that are not matched: any value will do, and none.
    pub ignored_properties: BTreeSet<String>,
}

/// What becomes of an action that runs when nobody waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It is stopped.
    Cancel,
    /// As long as its invocation goes on and nothing waits for its room, it may finish, so that its result is known.
    FinishWhenIdle,
}

/// Workers that offer the same, be they connected or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPool {
    /// For people: as it is configured, or the worker that was seen last.
    pub name: String,
    /// What its workers offer.
    pub platform: Platform,
    /// The most that one of them has. What is not known is 0.
    pub capacity: Capacity,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_queued: 100_000,
            max_queue_time: Duration::from_secs(60 * 60),
            max_unserved_time: Duration::from_secs(10 * 60),
            start_grace: Duration::from_secs(30),
            max_attempts: 3,
            heartbeat_interval: Duration::from_secs(5),
            reattach_grace: Duration::from_secs(3),
            recall_grace: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            abandoned: Abandoned::FinishWhenIdle,
            default_timeout: Duration::from_secs(60 * 60),
            max_timeout: Duration::from_secs(24 * 60 * 60),
            retry_after: Duration::from_secs(2),
            pools: Vec::new(),
            ignored_properties: BTreeSet::new(),
        }
    }
}

impl Config {
    /// How long a worker may be silent.
    pub fn silence(&self) -> Duration {
        self.heartbeat_interval.saturating_mul(3)
    }
}
