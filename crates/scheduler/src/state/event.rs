//! The vocabulary of the state machine: what may happen to it, and what it wants done.

use super::need::Need;
use crate::{Failure, KnownPool};
use mortar_model::{
    Context, Digest, ExecutionMetadata, Outcome, Platform, Stage,
    session::{FromWorker, Hello, ToWorker},
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Everything that may happen.
#[derive(Debug)]
pub enum Event {
    /// A client wants an action run.
    Submit(Submitted),
    /// A client no longer waits.
    Leave(TicketId),
    /// A client no longer waits, and wants what ran for it alone to end.
    Cancel(TicketId),
    /// A worker connected; its version and slots are checked already.
    Join {
        /// Its name from now on.
        worker: WorkerId,
        /// What it told of itself.
        hello: Hello,
    },
    /// A worker said something.
    Heard {
        /// Which.
        worker: WorkerId,
        /// What.
        message: Box<FromWorker>,
    },
    /// A worker is gone.
    Lost {
        /// Which.
        worker: WorkerId,
        /// How that was noticed.
        loss: Loss,
    },
    /// The operator wants something of the workers of this name.
    Tend {
        /// Their name.
        worker: String,
        /// What.
        wish: Wish,
    },
    /// The deadline passed that [`State::next_deadline`](super::State::next_deadline) gave.
    Tick,
    /// Take nothing new, refuse what is queued, let what runs end within `drain`.
    Close {
        /// How long that may take.
        drain: Duration,
    },
}

/// Everything that the state machine may want done.
#[derive(Debug)]
pub enum Effect {
    /// Tell a client.
    Tell {
        /// Whom.
        ticket: TicketId,
        /// What.
        update: Update,
    },
    /// Tell a worker.
    Send {
        /// Whom.
        worker: WorkerId,
        /// What.
        message: Box<ToWorker>,
    },
    /// Close the session of a worker that is given up.
    Disconnect {
        /// Whom.
        worker: WorkerId,
        /// Why.
        loss: Loss,
    },
    /// Keep these pools for after a restart.
    Remember(Vec<KnownPool>),
}

/// What an operator may want of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Finish what runs, take nothing new until resumed; also in later sessions of that name.
    Pause,
    /// Take work again.
    Resume,
    /// Finish what runs, and leave.
    Drain,
}

/// A client's wish to have one action run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub u64);

/// One session of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What is to be run, as far as the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The Action message.
    pub action_digest: Digest,
    /// What it asks of the worker.
    pub platform: Platform,
    /// Lower runs first; 0 is the default.
    pub priority: i32,
    /// It may share an execution with identical actions in flight. False for `do_not_cache`.
    pub merge: bool,
    /// What it says that it needs.
    pub need: Need,
}

/// A submission with what the actor knows of it.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Names it; never used before.
    pub ticket: TicketId,
    /// For whom.
    pub context: Context,
    /// What.
    pub submission: Submission,
    /// The wall time, for the metadata.
    pub queued: SystemTime,
}

/// What a client hears.
#[derive(Clone, Debug)]
pub enum Update {
    /// A stage was entered, or more of its timestamps are known.
    Progress(Stage, Box<ExecutionMetadata>),
    /// It is over. Comes once, and last.
    Done(Result<Box<Outcome>, Failure>),
}

/// How a worker was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its connection ended.
    Disconnected,
    /// It does not read what it is sent.
    Unresponsive,
    /// Nothing was heard of it for too long.
    Silent {
        /// How long.
        limit: Duration,
    },
    /// The server closes.
    Closing,
    /// It began another session.
    Replaced,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("its connection ended"),
            Self::Unresponsive => f.write_str("it did not read what it was sent"),
            Self::Silent { limit } => write!(f, "nothing was heard of it for {limit:?}"),
            Self::Closing => f.write_str("the server is closing"),
            Self::Replaced => f.write_str("it began another session"),
        }
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
