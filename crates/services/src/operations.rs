//! Executions in flight, by operation name: who watches, what they are told, and when one that nobody watches ends.
//!
//! An execution outlives the stream that began it, so that WaitExecution can take it up after a broken connection. It
//! is dropped, and with it the work, when nobody has watched it for the grace. With a journal it outlives the server.

use crate::inline::Hints;
use crate::log_streams::LiveLogs;
use futures::FutureExt;
use mortar_model::{
    Context, Digest, Error, ExecuteRequest, ExecutionMetadata, Executor, InstanceName, Kind, Outcome,
    Progress, Result, Stage, context,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The executions of one server.
#[derive(Clone)]
pub struct Operations {
    executor: Arc<dyn Executor>,
    known: Arc<Mutex<Known>>,
    journal: Option<Arc<dyn OperationJournal>>,
    closing: Arc<AtomicBool>,
    live: Option<Arc<dyn LiveLogs>>,
    longest_following: Option<Duration>,
}

/// Keeps the operations that wait or run, for after a restart of the server. Must not make its caller wait.
pub trait OperationJournal: Send + Sync {
    /// An operation was queued. Its name is in the context. The answer stands for it from now on.
    fn begun(&self, context: &Context, request: &ExecuteRequest) -> u64;
    /// A worker has it.
    fn started(&self, number: u64);
    /// It need not be kept any longer.
    fn ended(&self, number: u64);
}

/// An operation that was open when an earlier run of the server ended. Its name, and whether it ran, are in the context.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// What the journal calls it.
    pub number: u64,
    /// For whom.
    pub context: Context,
    /// What.
    pub request: ExecuteRequest,
}

/// Operations by name, and the names of those that are over, oldest first.
#[derive(Default)]
struct Known {
    operations: HashMap<String, Arc<Operation>>,
    over: VecDeque<(Instant, String)>,
}

impl Known {
    fn finish(&mut self, name: String) {
        self.over.push_back((Instant::now(), name));
        while self
            .over
            .front()
            .is_some_and(|(at, _)| self.over.len() > Operations::KEPT || at.elapsed() > Operations::KEEP)
        {
            if let Some((_, name)) = self.over.pop_front() {
                self.operations.remove(&name);
            }
        }
    }
}

/// One execution.
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) context: Context,
    pub(crate) action_digest: Digest,
    /// What the client wants to find in the result itself.
    pub(crate) hints: Hints,
    state: watch::Sender<State>,
    /// What the journal calls it, once that has it.
    kept: OnceLock<u64>,
    started: AtomicBool,
    /// Whether a client ever watched it, in this run of the server.
    watched: AtomicBool,
    /// Somebody wants it to end.
    cancelled: CancellationToken,
}

/// What is known of an execution by now.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) stage: Option<Stage>,
    pub(crate) metadata: ExecutionMetadata,
    pub(crate) done: Option<Arc<Result<Outcome>>>,
}

impl State {
    /// Whether a worker has it.
    pub(crate) fn is_running(&self) -> bool {
        self.done.is_none() && self.stage == Some(Stage::Executing)
    }
}

/// A watcher of one execution; as long as one lives, the execution goes on.
pub(crate) struct Watch {
    pub(crate) operation: Arc<Operation>,
    pub(crate) states: watch::Receiver<State>,
}

/// An execution as a status page shows it.
#[derive(Clone, Debug)]
pub struct OperationSummary {
    /// The operation's name.
    pub name: String,
    /// The action.
    pub action_digest: Digest,
    /// Such as `CppCompile`, where the client tells.
    pub mnemonic: String,
    /// The label, where the client tells.
    pub target: String,
    /// Where it stands.
    pub stage: Option<Stage>,
}

impl Operations {
    /// The time that a client has to come back after its connection broke.
    pub const GRACE: Duration = Duration::from_millis(1_200);
    /// The time that a client has to come back after the server was restarted.
    pub const RESTART_GRACE: Duration = Duration::from_secs(60);
    /// The time that an outcome stays known.
    pub const KEEP: Duration = Duration::from_secs(120);
    /// The number of outcomes that stay known; older ones are forgotten before their time.
    pub const KEPT: usize = 4_096;

    /// Operations that `executor` carries out.
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self {
            executor,
            known: Arc::default(),
            journal: None,
            closing: Arc::default(),
            live: None,
            longest_following: None,
        }
    }

    /// With a journal, in which they are kept while they wait and run.
    #[must_use]
    pub fn with_journal(mut self, journal: Arc<dyn OperationJournal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// With somebody who knows what commands write while they run.
    #[must_use]
    pub fn with_live_logs(mut self, live: Arc<dyn LiveLogs>) -> Self {
        self.live = Some(live);
        self
    }

    /// Who knows what commands write while they run.
    pub(crate) fn live(&self) -> Option<&dyn LiveLogs> {
        self.live.as_deref()
    }

    /// With an executor that waits, up to `longest`, for inputs which follow the call.
    #[must_use]
    pub fn with_inputs_following(mut self, longest: Duration) -> Self {
        self.longest_following = Some(longest);
        self
    }

    /// How long is waited at most for inputs which follow the call; none if that is not done.
    pub(crate) fn longest_following(&self) -> Option<Duration> {
        self.longest_following
    }

    /// Takes up what was open when an earlier run of the server ended, under the names of then.
    pub fn resume(&self, open: Vec<Resumed>) {
        for Resumed { number, context, request } in open {
            let operation = context.operation.clone().unwrap_or_default();
            let kept = OnceLock::from(number);
            let (state, _) = watch::channel(State::default());
            let operation = Arc::new(Operation {
                name: operation.name.clone(),
                context,
                action_digest: request.action_digest,
                hints: Hints::default(),
                state,
                kept,
                started: AtomicBool::new(operation.was_running),
                watched: AtomicBool::new(false),
                cancelled: CancellationToken::new(),
            });
            self.begin(operation, request);
        }
    }

    /// From now on, what ends for want of a server is kept in the journal.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn begin(&self, operation: Arc<Operation>, request: ExecuteRequest) {
        self.known.lock().operations.insert(operation.name.clone(), operation.clone());
        tokio::spawn(self.clone().carry_out(operation, request));
    }

    /// Those that are not over, for people.
    pub fn running(&self) -> Vec<OperationSummary> {
        let known = self.known.lock();
        let running = known.operations.values().filter(|operation| operation.state.borrow().done.is_none());
        running
            .map(|operation| OperationSummary {
                name: operation.name.clone(),
                action_digest: operation.action_digest,
                mnemonic: operation.context.request.action_mnemonic.clone(),
                target: operation.context.request.target_id.clone(),
                stage: operation.state.borrow().stage,
            })
            .collect()
    }

    /// Begins an execution.
    pub(crate) fn start(&self, context: Context, request: ExecuteRequest, hints: Hints) -> Watch {
        let id = uuid::Uuid::new_v4();
        let name = match context.instance.as_str() {
            "" => format!("operations/{id}"),
            instance => format!("{instance}/operations/{id}"),
        };
        let (state, states) = watch::channel(State::default());
        let known = context::Operation { name: name.clone(), ..Default::default() };
        let operation = Arc::new(Operation {
            name,
            context: Context { operation: Some(Arc::new(known)), ..context },
            action_digest: request.action_digest,
            hints,
            state,
            kept: OnceLock::new(),
            started: AtomicBool::new(false),
            watched: AtomicBool::new(true),
            cancelled: CancellationToken::new(),
        });
        self.begin(operation.clone(), request);
        Watch { operation, states }
    }

    fn find(&self, name: &str) -> Result<Arc<Operation>> {
        self.known.lock().operations.get(name).cloned().ok_or_else(|| {
            Error::not_found("operation", name).hint(
                "operations are known while they wait and run, and for two minutes after their end if the server is \
                 not restarted meanwhile",
            )
        })
    }

    /// An execution and where it stands, without watching it.
    pub(crate) fn look(&self, name: &str) -> Result<(Arc<Operation>, State)> {
        let operation = self.find(name)?;
        let state = operation.state.borrow().clone();
        Ok((operation, state))
    }

    /// Ends an execution for all who watch it, at once. One that is over stays as it is.
    pub(crate) fn cancel(&self, name: &str) -> Result<()> {
        let operation = self.find(name)?;
        // First, so that whoever sees the execution dropped knows why.
        if let Some(known) = &operation.context.operation {
            known.unwanted.set();
        }
        operation.cancelled.cancel();
        Ok(())
    }

    /// Those that are over or not, of one instance or of all, by name: up to `size` of those after `after`, and whether
    /// there are more.
    pub(crate) fn page(
        &self,
        over: bool,
        instance: Option<&InstanceName>,
        after: &str,
        size: usize,
    ) -> (Vec<(Arc<Operation>, State)>, bool) {
        let mut open: Vec<_> = {
            let known = self.known.lock();
            let asked = known.operations.values().filter(|operation| {
                operation.name.as_str() > after
                    && instance.is_none_or(|instance| operation.context.instance == *instance)
                    && operation.state.borrow().done.is_some() == over
            });
            asked.cloned().collect()
        };
        open.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let more = open.len() > size;
        open.truncate(size);
        let standing = |operation: Arc<Operation>| {
            let state = operation.state.borrow().clone();
            (operation, state)
        };
        (open.into_iter().map(standing).collect(), more)
    }

    /// Takes up an execution that was begun before.
    pub(crate) fn watch(&self, name: &str) -> Result<Watch> {
        let operation = self.find(name)?;
        let states = operation.state.subscribe();
        operation.watched.store(true, Ordering::Relaxed);
        Ok(Watch { operation, states })
    }

    async fn carry_out(self, operation: Arc<Operation>, request: ExecuteRequest) {
        let progress =
            Reporter { operation: &operation, request: &request, journal: self.journal.as_deref() };
        let execution =
            AssertUnwindSafe(self.executor.execute(&operation.context, request.clone(), &progress))
                .catch_unwind();
        let outcome = tokio::select! {
            outcome = execution => outcome.unwrap_or_else(|_| Err(Error::internal("the execution ended by a defect of the server"))),
            () = self.abandoned(&operation) => {
                let message = format!("nobody waits for operation `{}` any more", operation.name);
                Err(Error::new(Kind::Cancelled { message }))
            }
            () = operation.cancelled.cancelled() => {
                let message = format!("operation `{}` was cancelled by a request to do so", operation.name);
                Err(Error::new(Kind::Cancelled { message }))
            }
        };
        self.forget_kept(&operation, &outcome);
        operation.state.send_modify(|state| {
            if let Ok(outcome) = &outcome {
                state.metadata = outcome.result.metadata.clone();
            }
            state.done = Some(Arc::new(outcome));
        });
        self.known.lock().finish(operation.name.clone());
    }

    /// Forgets an operation whose name nobody learned.
    pub(crate) fn forget(&self, watch: &Watch) {
        self.known.lock().operations.remove(&watch.operation.name);
    }

    /// Takes what ended out of the journal. What ended because the server does is taken up after its restart.
    fn forget_kept(&self, operation: &Operation, outcome: &Result<Outcome>) {
        let unavailable =
            outcome.as_ref().is_err_and(|error| matches!(error.kind(), Kind::Unavailable { .. }));
        if unavailable && self.closing.load(Ordering::Relaxed) {
            return;
        }
        if let (Some(journal), Some(number)) = (&self.journal, operation.kept.get()) {
            journal.ended(*number);
        }
    }

    /// Returns when nobody has watched for the grace.
    async fn abandoned(&self, operation: &Operation) {
        let begun = Instant::now();
        loop {
            operation.state.closed().await;
            tokio::time::sleep(Self::GRACE).await;
            let known = operation.watched.load(Ordering::Relaxed);
            if operation.state.is_closed() && (known || begun.elapsed() >= Self::RESTART_GRACE) {
                return;
            }
        }
    }
}

struct Reporter<'a> {
    operation: &'a Operation,
    request: &'a ExecuteRequest,
    journal: Option<&'a dyn OperationJournal>,
}

impl Reporter<'_> {
    /// What waits or runs is kept; what the cache answers is not worth it.
    fn keep(&self, stage: Stage) {
        let Some(journal) = self.journal.filter(|_| stage >= Stage::Queued) else { return };
        let operation = self.operation;
        let number = *operation.kept.get_or_init(|| journal.begun(&operation.context, self.request));
        if stage == Stage::Executing && !operation.started.swap(true, Ordering::Relaxed) {
            journal.started(number);
        }
    }
}

impl Progress for Reporter<'_> {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        self.keep(stage);
        self.operation.state.send_modify(|state| {
            state.stage = Some(stage);
            state.metadata = metadata.clone();
        });
    }
}
