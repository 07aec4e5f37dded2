//! Executions in flight, by operation name: who watches, what they are told, and when one that nobody watches ends.
//!
//! An execution outlives the stream that began it, so that WaitExecution can take it up after a broken connection. It
//! is dropped, and with it the work, when nobody has watched it for the grace.

use futures::FutureExt;
use mortar_model::{
    Context, Digest, Error, ExecuteRequest, ExecutionMetadata, Executor, Kind, Outcome, Progress, Result,
    Stage,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The executions of one server.
#[derive(Clone)]
pub struct Operations {
    executor: Arc<dyn Executor>,
    known: Arc<Mutex<Known>>,
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
    state: watch::Sender<State>,
}

/// What is known of an execution by now.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) stage: Option<Stage>,
    pub(crate) metadata: ExecutionMetadata,
    pub(crate) done: Option<Arc<Result<Outcome>>>,
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
    pub const GRACE: Duration = Duration::from_millis(1_500);
    /// The time that an outcome stays known.
    pub const KEEP: Duration = Duration::from_secs(120);
    /// The number of outcomes that stay known; older ones are forgotten before their time.
    pub const KEPT: usize = 4_096;

    /// Operations that `executor` carries out.
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self { executor, known: Arc::default() }
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
    pub(crate) fn start(&self, context: Context, request: ExecuteRequest) -> Watch {
        let id = uuid::Uuid::new_v4();
        let name = match context.instance.as_str() {
            "" => format!("operations/{id}"),
            instance => format!("{instance}/operations/{id}"),
        };
        let (state, states) = watch::channel(State::default());
        let operation = Arc::new(Operation { name, context, action_digest: request.action_digest, state });
        self.known.lock().operations.insert(operation.name.clone(), operation.clone());
        tokio::spawn(self.clone().carry_out(operation.clone(), request));
        Watch { operation, states }
    }

    /// Takes up an execution that was begun before.
    pub(crate) fn watch(&self, name: &str) -> Result<Watch> {
        let operation = self.known.lock().operations.get(name).cloned().ok_or_else(|| {
            Error::not_found("operation", name).hint(
                "operations are known for two minutes after their end, and not after a restart of the server",
            )
        })?;
        let states = operation.state.subscribe();
        Ok(Watch { operation, states })
    }

    async fn carry_out(self, operation: Arc<Operation>, request: ExecuteRequest) {
        let progress = Reporter(&operation.state);
        let execution =
            AssertUnwindSafe(self.executor.execute(&operation.context, request, &progress)).catch_unwind();
        let outcome = tokio::select! {
            outcome = execution => outcome.unwrap_or_else(|_| Err(Error::internal("the execution ended by a defect of the server"))),
            () = self.abandoned(&operation.state) => {
                let message = format!("nobody waits for operation `{}` any more", operation.name);
                Err(Error::new(Kind::Cancelled { message }))
            }
        };
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

    /// Returns when nobody has watched for the grace.
    async fn abandoned(&self, state: &watch::Sender<State>) {
        loop {
            state.closed().await;
            tokio::time::sleep(Self::GRACE).await;
            if state.is_closed() {
                return;
            }
        }
    }
}

struct Reporter<'a>(&'a watch::Sender<State>);

impl Progress for Reporter<'_> {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        self.0.send_modify(|state| {
            state.stage = Some(stage);
            state.metadata = metadata.clone();
        });
    }
}
