//! What a server and a worker say to each other, over gRPC or, in one process, over a channel.

use crate::{Context, Digest, Error, ExecutionMetadata, Outcome, Platform};
use std::{fmt, sync::Arc, time::Duration};

/// The version of this conversation. Since 2, a worker tells its capacity and what it still holds of an earlier
/// session, and is told what was delivered.
pub const VERSION: u32 = 2;
/// The oldest version that is still spoken.
pub const OLDEST_VERSION: u32 = 1;

/// One attempt to run one action on one worker.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutionId(pub Arc<str>);

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a worker introduces itself.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// The version that it speaks.
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// Actions that it runs at the same time, at least 1.
    pub slots: u32,
    /// What it offers.
    pub platform: Platform,
    /// What its actions may use together.
    pub capacity: Capacity,
    /// Tells this run of the worker from others, so that a new session of it is known for one. Empty in version 1.
    pub process: String,
    /// The layers of its sandbox.
    pub layers: Vec<String>,
    /// The images in its store.
    pub images: Vec<String>,
    /// It takes no new work, and leaves when it has delivered what it holds.
    pub draining: bool,
    /// What it took on in earlier sessions and has not delivered: it runs still, or its end is told next.
    pub held: Vec<Held>,
}

/// What the actions of a worker may use together. What is not known is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capacity {
    /// Processors, in thousandths.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory: u64,
}

/// An attempt that a worker holds from an earlier session.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which.
    pub execution: ExecutionId,
    /// For whom.
    pub context: Context,
    /// The Action message.
    pub action_digest: Digest,
}

/// From server to worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// The answer to `Hello`.
    Welcome {
        /// The version that will be spoken.
        version: u32,
        /// Send something at least this often.
        heartbeat_interval: Duration,
    },
    /// Run this.
    Run(Box<Run>),
    /// Stop that, if it still runs. It is answered by `Finished` all the same.
    Cancel(ExecutionId),
    /// The end of that was heard and need not be kept. Since version 2.
    Delivered(ExecutionId),
    /// Finish what runs, and leave. Since version 2.
    Drain,
    /// Still here.
    Heartbeat,
}

/// One action to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names this attempt.
    pub execution: ExecutionId,
    /// For whom.
    pub context: Context,
    /// The Action message.
    pub action_digest: Digest,
    /// What is known by now: when it was queued.
    pub metadata: ExecutionMetadata,
    /// Applied where the action names none.
    pub default_timeout: Duration,
}

/// From worker to server.
#[derive(Debug)]
pub enum FromWorker {
    /// The first message.
    Hello(Hello),
    /// A step was entered; its timestamp is new in the metadata.
    Progress {
        /// Which attempt.
        execution: ExecutionId,
        /// The timestamps so far.
        metadata: ExecutionMetadata,
    },
    /// It is over.
    Finished {
        /// Which attempt.
        execution: ExecutionId,
        /// How.
        outcome: Box<Result<Outcome, Error>>,
    },
    /// Still here.
    Heartbeat,
    /// No new work, please.
    Draining,
}
