//! Execution: Execute and WaitExecution as streams of operations.

use crate::{
    call,
    inline::Hints,
    limits,
    operation_message::whole,
    operations::{Operations, State, Watch},
};
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{BlobStore, Error, ExecuteRequest, InputsFollow, Kind, Stage};
use mortar_wire::{
    Functioned, inputs_follow, longrunning, reapi, reapi::execution_server::Execution, required_digest,
};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status, metadata::MetadataMap};

/// A stream that has nothing to tell repeats itself this often, so that nothing on the way takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Missing blobs that the status of a call names: with base64, each takes some 170 bytes.
const MAX_VIOLATIONS: usize = 16;

/// Begins executions and lets clients watch them.
pub(crate) struct Service {
    operations: Operations,
    blobs: Arc<dyn BlobStore>,
}

type OperationStream = BoxStream<'static, Result<longrunning::Operation, Status>>;

impl Service {
    pub(crate) fn new(operations: Operations, blobs: Arc<dyn BlobStore>) -> Self {
        Self { operations, blobs }
    }

    fn start(&self, request: Request<reapi::ExecuteRequest>) -> Result<Watch, Status> {
        let (headers, _, request) = request.into_parts();
        let mut context = call::context(&headers, &request.instance_name)?;
        // The deadline of the stream is not one of the action.
        context.deadline = None;
        context.inputs_follow = self.inputs_follow(&headers)?;
        let function = request.function().map_err(call::refuse)?;
        let action_digest =
            required_digest("action_digest", function, request.action_digest).map_err(call::refuse)?;
        context.action = Some(action_digest);
        let priority = request.execution_policy.map_or(0, |policy| policy.priority);
        if !limits::PRIORITIES.contains(&priority) {
            let message = format!("the priority is {priority}; expected one within {:?}", limits::PRIORITIES);
            return Err(call::refuse(Error::invalid("execution_policy.priority", message)));
        }
        let execute =
            ExecuteRequest { action_digest, skip_cache_lookup: request.skip_cache_lookup, priority };
        let hints = Hints {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.into_iter().collect(),
            small: None,
        };
        Ok(self.operations.start(context, execute, hints))
    }

    /// Whether the client says that inputs follow, and how long they are waited for. Where that is not done, the header
    /// is one that nobody knows.
    fn inputs_follow(&self, headers: &MetadataMap) -> Result<Option<InputsFollow>, Status> {
        let Some(longest) = self.operations.longest_following() else { return Ok(None) };
        let follow = inputs_follow::from_headers(headers).map_err(call::refuse)?;
        Ok(follow.map(|follow| follow.at_most(longest)))
    }

    fn stream(&self, watch: Watch) -> OperationStream {
        let telling = Telling { watch, blobs: self.blobs.clone(), told: false };
        futures::stream::unfold(Some(telling), |telling| async move {
            let (operation, rest) = telling?.next().await;
            Some((Ok(operation), rest))
        })
        .boxed()
    }
}

#[tonic::async_trait]
impl Execution for Service {
    async fn execute(
        &self,
        request: Request<reapi::ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let mut watch = self.start(request)?;
        // Who sends inputs meanwhile is told the operation's name first, and how it went in its response.
        if watch.operation.context.inputs_follow.is_none() {
            refused_at_once(&mut watch).await.inspect_err(|_| self.operations.forget(&watch))?;
        }
        Ok(Response::new(self.stream(watch)))
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let watch = self.operations.watch(&request.get_ref().name).map_err(call::refuse)?;
        Ok(Response::new(self.stream(watch)))
    }
}

/// What fails before the action is queued is the answer to the call; later errors are told in its response.
async fn refused_at_once(watch: &mut Watch) -> Result<(), Status> {
    let queued = |state: &State| state.stage >= Some(Stage::Queued);
    let settled = watch.states.wait_for(|state| queued(state) || state.done.is_some()).await;
    let state = settled.map_err(|_| call::refuse(Error::internal("the execution was lost")))?;
    match state.done.as_deref() {
        Some(Err(error)) if !queued(&state) && fits_trailers(error) => {
            call::log(error);
            Err(mortar_wire::status::to_status(error))
        }
        _ => Ok(()),
    }
}

/// Whether the status of a call can tell this. It travels in HTTP trailers, of which clients take as little as 8 KiB; a
/// response has room for everything.
fn fits_trailers(error: &Error) -> bool {
    !matches!(error.kind(), Kind::MissingBlobs { missing } if missing.len() > MAX_VIOLATIONS)
}

/// One stream to one client.
struct Telling {
    watch: Watch,
    blobs: Arc<dyn BlobStore>,
    told: bool,
}

impl Telling {
    /// The next operation message, and this if it was not the last.
    async fn next(mut self) -> (longrunning::Operation, Option<Self>) {
        if self.told {
            let _ = tokio::time::timeout(HEARTBEAT, self.watch.states.changed()).await;
        }
        self.told = true;
        // In a box: a stream that waits needs no room for it.
        let message = Box::pin(self.message()).await;
        let over = message.done;
        (message, (!over).then_some(self))
    }

    /// How the operation stands now.
    async fn message(&mut self) -> longrunning::Operation {
        let state = self.watch.states.borrow_and_update().clone();
        let operation = &self.watch.operation;
        whole(operation, &state, &operation.hints, self.blobs.as_ref()).await
    }
}
