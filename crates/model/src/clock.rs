//! Time as a dependency, so that tests can hold it.

use std::time::{Duration, Instant, SystemTime};

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for intervals.
    fn now(&self) -> Instant;
    /// Wall time, for timestamps that people see.
    fn wall(&self) -> SystemTime;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Time since the Unix epoch; times before it count as the epoch.
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
