//! What the scheduler is doing, for people: the status page and `mortar status`. A snapshot, never a live view.

use mortar_model::{Digest, InstanceName, Platform};
use std::time::Duration;

/// The scheduler at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Every connected worker, in order of arrival.
    pub workers: Vec<WorkerStatus>,
    /// Actions that wait for a worker.
    pub queued: usize,
    /// How long the oldest of them has waited.
    pub oldest_wait: Option<Duration>,
    /// What runs, by worker.
    pub running: Vec<RunningAction>,
    /// What happened since the start.
    pub counters: Counters,
    /// Nothing new is taken.
    pub closing: bool,
}

/// One worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// Actions that it may run at once.
    pub slots: u32,
    /// Slots in use, also by what was cancelled and has not yet ended.
    pub busy: u32,
    /// What it offers.
    pub platform: Platform,
    /// It gets no new work.
    pub draining: bool,
    /// How long it has been connected.
    pub connected_for: Duration,
}

/// One action on a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningAction {
    /// For which instance.
    pub instance: InstanceName,
    /// The action.
    pub action_digest: Digest,
    /// Its kind, such as `CppCompile`, if the client told.
    pub mnemonic: String,
    /// Its target, if the client told.
    pub target: String,
    /// The worker's name.
    pub worker: String,
    /// How long the worker has had it.
    pub running_for: Duration,
    /// How many clients wait for it.
    pub waiters: usize,
    /// 1 for the first.
    pub attempt: u32,
    /// Nobody waits for it any more; the worker was told.
    pub cancelled: bool,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Executions that ended with an outcome, whatever its exit code.
    pub executed: u64,
    /// Requests that joined an execution in flight.
    pub merged: u64,
    /// Attempts that were made again after a worker failed.
    pub retried: u64,
    /// Executions given up because nobody waited any more.
    pub cancelled: u64,
    /// Executions, and refused requests, that ended with an error.
    pub failed: u64,
}
