//! What the scheduler is doing, for people: the status page and `mortar status`. A snapshot, never a live view.

use mortar_model::{Digest, InstanceName, Platform};
use std::{sync::Arc, time::Duration};

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
    /// What waits, by what it asks for.
    pub waiting: Vec<WaitingGroup>,
    /// Nothing new is taken.
    pub closing: bool,
}

/// Actions that ask for the same and wait for it: what an autoscaler goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingGroup {
    /// The properties that they ask for.
    pub platform: Platform,
    /// The processors that each needs, in thousandths; 0 where nothing is known.
    pub cpu_millis: u64,
    /// The memory that each needs, in bytes; 0 where nothing is known.
    pub memory: u64,
    /// How many they are.
    pub queued: usize,
    /// How long the oldest has waited.
    pub oldest_wait: Duration,
    /// Why they wait.
    pub reason: Arc<str>,
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
    /// How it stands to new work.
    pub standing: Standing,
    /// Processors that are taken, and that it has, in thousandths.
    pub cpu_millis: (u64, u64),
    /// Memory that is taken, and that it has, in bytes.
    pub memory: (u64, u64),
    /// The layers of its sandbox, as it tells them.
    pub layers: Vec<String>,
    /// The images in its store, as it tells them.
    pub images: Vec<String>,
}

/// How a worker stands to new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes it.
    Serving,
    /// It finishes what it has and takes nothing until it is resumed.
    Paused,
    /// It finishes what it has and leaves.
    Draining,
    /// Its connection ended; it may come back.
    Away,
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
    /// The invocation of the client that asked first, if it told.
    pub invocation: String,
    /// The worker's name.
    pub worker: String,
    /// How long the worker has had it.
    pub running_for: Duration,
    /// How many clients wait for it.
    pub waiters: usize,
    /// 1 for the first.
    pub attempt: u32,
    /// Nobody waits for it any more; the worker was told. Also what a worker brought along and nobody has claimed.
    pub cancelled: bool,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Executions that ended with an outcome, whatever its exit code.
    pub executed: u64,
    /// Of those, by a persistent worker.
    pub persistent: u64,
    /// Requests that joined an execution in flight.
    pub merged: u64,
    /// Attempts that were made again after a worker failed.
    pub retried: u64,
    /// Executions given up because nobody waited any more.
    pub cancelled: u64,
    /// Executions, and refused requests, that ended with an error.
    pub failed: u64,
}
