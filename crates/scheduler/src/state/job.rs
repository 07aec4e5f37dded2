//! One action in flight, however many clients wait for it and however many attempts it takes.

use super::{Loss, Submitted, TicketId, WorkerId, classes::ClassId, need::Demand};
use crate::Failure;
use mortar_model::{
    Context, Digest, ExecutionMetadata, InstanceName, Kind, Outcome, Stage, session::ExecutionId,
};
use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Where a job stands in the queue: by priority, then by arrival.
pub(super) type Order = (i32, u64);

/// By what a job is found: by another client's wish for the same, or by the worker that holds it from before a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// What identical actions have in common.
    Action(InstanceName, Digest),
    /// Of what must not be shared: the operation.
    Operation(Arc<str>),
}

/// An action in flight. Named after the ticket that brought it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: TicketId,
    pub(super) context: Context,
    pub(super) action_digest: Digest,
    pub(super) demand: Arc<Demand>,
    pub(super) class: ClassId,
    pub(super) order: Order,
    pub(super) merge: bool,
    /// In order of arrival; nearly always one.
    pub(super) waiters: Vec<TicketId>,
    queued: SystemTime,
    /// What is known beyond that; nothing as long as it waits, since many do.
    metadata: Option<Box<ExecutionMetadata>>,
    pub(super) setbacks: Vec<Setback>,
    pub(super) place: Place,
}

/// Where a job is.
#[derive(Debug)]
pub(super) enum Place {
    /// In the queue.
    Queued { since: Instant },
    /// It ran when an earlier run of the server ended, and its worker has until then to bring it along.
    Recalled { until: Instant },
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
    pub(super) fn new(
        submitted: Submitted,
        demand: Arc<Demand>,
        class: ClassId,
        arrival: u64,
        place: Place,
    ) -> Self {
        let Submitted { ticket, context, submission, queued } = submitted;
        Self {
            id: ticket,
            context,
            action_digest: submission.action_digest,
            demand,
            class,
            order: (submission.priority, arrival),
            merge: submission.merge,
            waiters: vec![ticket],
            queued,
            metadata: None,
            setbacks: Vec::new(),
            place,
        }
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        Identity::of(&self.context, self.action_digest, self.merge)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.place {
            Place::Queued { .. } | Place::Recalled { .. } => Stage::Queued,
            Place::Running { .. } => Stage::Executing,
        }
    }

    /// The number of the attempt that runs, or comes next; 1 for the first.
    pub(super) fn attempt(&self) -> u32 {
        u32::try_from(self.setbacks.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// What is known of its steps.
    pub(super) fn metadata(&self) -> ExecutionMetadata {
        let known = match &self.metadata {
            Some(known) => (**known).clone(),
            None => ExecutionMetadata { queued: Some(self.queued), ..ExecutionMetadata::default() },
        };
        match self.setbacks[..] {
            [] => known,
            _ => {
                let setbacks = self.setbacks.iter().map(ToString::to_string).collect();
                ExecutionMetadata { setbacks: Some(setbacks), ..known }
            }
        }
    }

    /// When it was queued.
    pub(super) fn queued(&self) -> SystemTime {
        self.queued
    }

    /// A worker has it.
    pub(super) fn is_on(&mut self, worker: &str) {
        let known = ExecutionMetadata { worker: worker.to_owned(), ..self.metadata() };
        self.metadata = Some(Box::new(known));
    }

    /// Takes in what a worker tells of the timestamps; what it does not know stays.
    pub(super) fn learn(&mut self, mut told: ExecutionMetadata) {
        told.queued = told.queued.or(Some(self.queued));
        if told.worker.is_empty() {
            told.worker = self.metadata().worker;
        }
        self.metadata = Some(Box::new(told));
    }

    /// Forgets what the attempt that just failed told.
    pub(super) fn forget_attempt(&mut self) {
        self.metadata = None;
    }

    /// The outcome as its waiters get it: with what the worker left out and, in its message, the attempts before it.
    pub(super) fn embellish(&mut self, outcome: &mut Outcome) {
        self.learn(std::mem::take(&mut outcome.result.metadata));
        outcome.result.metadata = self.metadata();
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

impl Identity {
    /// None where nothing that is known of it tells it from its like.
    pub(super) fn of(context: &Context, action: Digest, merge: bool) -> Option<Self> {
        match &context.operation {
            _ if merge => Some(Self::Action(context.instance.clone(), action)),
            Some(operation) => Some(Self::Operation(operation.name.as_str().into())),
            None => None,
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
