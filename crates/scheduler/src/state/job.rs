//! One action in flight, however many clients wait for it and however many attempts it takes.

use super::{Loss, Submitted, TicketId, WorkerId};
use crate::Failure;
use mortar_model::{
    Context, Digest, ExecutionMetadata, InstanceName, Kind, Outcome, Platform, Stage, session::ExecutionId,
};
use std::{collections::BTreeSet, fmt, sync::Arc, time::Instant};

/// Where a job stands in the queue: by priority, then by arrival.
pub(super) type Order = (i32, u64);

/// What identical actions have in common.
pub(super) type MergeKey = (InstanceName, Digest);

/// An action in flight. Named after the ticket that brought it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: TicketId,
    pub(super) context: Context,
    pub(super) action_digest: Digest,
    pub(super) platform: Arc<Platform>,
    pub(super) order: Order,
    pub(super) merge: bool,
    pub(super) waiters: BTreeSet<TicketId>,
    pub(super) metadata: ExecutionMetadata,
    pub(super) setbacks: Vec<Setback>,
    pub(super) place: Place,
}

/// Where a job is.
#[derive(Debug)]
pub(super) enum Place {
    /// In the queue.
    Queued { since: Instant },
    /// On a worker.
    Running { worker: WorkerId, execution: ExecutionId },
}

/// An attempt that a worker did not bring to its end.
#[derive(Debug)]
pub(super) struct Setback {
    pub(super) worker: WorkerId,
    pub(super) name: String,
    pub(super) cause: Cause,
}

/// Why it did not.
#[derive(Debug)]
pub(super) enum Cause {
    Lost(Loss),
    Failed(Failure),
}

impl Job {
    pub(super) fn new(now: Instant, arrival: u64, submitted: Submitted, platform: Arc<Platform>) -> Self {
        let Submitted { ticket, context, submission, queued } = submitted;
        Self {
            id: ticket,
            context,
            action_digest: submission.action_digest,
            platform,
            order: (submission.priority, arrival),
            merge: submission.merge,
            waiters: BTreeSet::from([ticket]),
            metadata: ExecutionMetadata { queued: Some(queued), ..ExecutionMetadata::default() },
            setbacks: Vec::new(),
            place: Place::Queued { since: now },
        }
    }

    pub(super) fn merge_key(&self) -> MergeKey {
        (self.context.instance.clone(), self.action_digest)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.place {
            Place::Queued { .. } => Stage::Queued,
            Place::Running { .. } => Stage::Executing,
        }
    }

    /// The number of the attempt that runs, or comes next; 1 for the first.
    pub(super) fn attempt(&self) -> u32 {
        u32::try_from(self.setbacks.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Takes in what a worker tells of the timestamps; what it does not know stays.
    pub(super) fn learn(&mut self, told: ExecutionMetadata) {
        let known = std::mem::replace(&mut self.metadata, told);
        self.complete(known);
    }

    fn complete(&mut self, known: ExecutionMetadata) {
        self.metadata.queued = self.metadata.queued.or(known.queued);
        if self.metadata.worker.is_empty() {
            self.metadata.worker = known.worker;
        }
    }

    /// Forgets what the attempt that just failed told.
    pub(super) fn forget_attempt(&mut self) {
        self.metadata = ExecutionMetadata { queued: self.metadata.queued, ..ExecutionMetadata::default() };
    }

    /// The outcome as its waiters get it: with what the worker left out and, in its message, the attempts before it.
    pub(super) fn embellish(&mut self, outcome: &mut Outcome) {
        self.learn(std::mem::take(&mut outcome.result.metadata));
        outcome.result.metadata = self.metadata.clone();
        if self.setbacks.is_empty() {
            return;
        }
        if !outcome.message.is_empty() {
            outcome.message.push('\n');
        }
        outcome.message.push_str(&format!("This was attempt {}.", self.attempt()));
        for setback in &self.setbacks {
            outcome.message.push_str(&format!(" Before it, {setback}."));
        }
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Lost(loss) => write!(f, "worker `{}` was lost: {loss}", self.name),
            // Clients read this, and may not see the worker's paths.
            Cause::Failed(failure) => match failure.kind() {
                Kind::Io { .. } => {
                    write!(f, "worker `{}` failed at its own files; its log tells why", self.name)
                }
                kind => write!(f, "worker `{}` failed: {kind}", self.name),
            },
        }
    }
}
