//! The limits of the scheduler. Plain values: where they come from is the configuration's business.

use std::time::Duration;

/// Every limit that the scheduler keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Actions that may wait for a worker; the next is refused.
    pub max_queued: usize,
    /// How long an action waits for its turn on workers that could run it.
    pub max_queue_time: Duration,
    /// How long an action waits while no connected worker could run it.
    pub max_unserved_time: Duration,
    /// How often an action is started, at most, if its workers fail. At least 1.
    pub max_attempts: u32,
    /// How often worker and server tell each other that they live; a worker is lost after three silent intervals.
    pub heartbeat_interval: Duration,
    /// Applied to actions that name no timeout.
    pub default_timeout: Duration,
    /// Actions that name a longer timeout are refused.
    pub max_timeout: Duration,
    /// What a refused client is told to wait.
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_queued: 100_000,
            max_queue_time: Duration::from_secs(60 * 60),
            max_unserved_time: Duration::from_secs(2 * 60),
            max_attempts: 3,
            heartbeat_interval: Duration::from_secs(5),
            default_timeout: Duration::from_secs(60 * 60),
            max_timeout: Duration::from_secs(24 * 60 * 60),
            retry_after: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// How long a worker may be silent.
    pub fn silence(&self) -> Duration {
        self.heartbeat_interval.saturating_mul(3)
    }
}
