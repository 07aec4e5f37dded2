//! What a server and a worker say to each other, over gRPC or, in one process, over a channel.

use crate::{Context, Digest, Error, ExecutionMetadata, Outcome, Platform};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// The version of this conversation. Since 2, a worker tells its capacity and what it still holds of an earlier
/// session, and is told what was delivered. Since 3, it lets what runs be read while it writes.
pub const VERSION: u32 = 3;
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
    /// Tell some of what a command has written. It is answered by `Log`. Since version 3.
    ReadLog(LogRequest),
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
    /// Some of what a command has written, for whoever asked. Since version 3.
    Log(LogPiece),
}

/// The first version in which a worker is asked for what its commands write.
pub const LOGS_SINCE: u32 = 3;

/// One of the two streams that a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Log {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Asks for some of what a command has written. Nothing is sent that nobody asked for, so that who reads slowly slows
/// nothing but itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Is in the answer, too.
    pub request: u64,
    /// Which attempt.
    pub execution: ExecutionId,
    /// Which stream.
    pub log: Log,
    /// What comes first.
    pub offset: u64,
    /// How many bytes at most. With 0, only the size is asked for, and told at once.
    pub limit: u64,
}

/// The answer. It waits for a while if there is nothing to tell yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Which request.
    pub request: u64,
    /// What was written from the offset on; nothing where nothing came in time.
    pub data: Bytes,
    /// All that was written by now.
    pub size: u64,
    /// The attempt is over, or was never known: nothing more is told here.
    pub over: bool,
}
