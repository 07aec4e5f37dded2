//! The port of execution over the Execution service.
//!
//! The stream of an execution may break at any time; the operation goes on, and WaitExecution takes it up by its name.
//! A server that no longer knows the name is asked to execute again, which it may merge with what still runs.

use crate::{Inner, Lease, Remote, retry::Backoff};
use async_trait::async_trait;
use mortar_model::{
    Context, Error, ExecuteRequest, ExecutionMetadata, Executor, Kind, Outcome, Progress, Result, Stage,
};
use mortar_wire::{
    digest_to_wire, function_to_wire, inputs_follow,
    longrunning::{Operation, operation},
    metadata_from_wire, outcome_of, reapi, status,
};
use prost::Message;
use std::time::Duration;
use tonic::Streaming;

/// What an execution is to bring along, beside its result. Servers may leave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inline {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Output files, by the paths that the command gives them.
    pub files: Vec<String>,
}

#[async_trait]
impl Executor for Remote {
    /// As `execute_inline`, with nothing in the result.
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        self.execute_inline(context, request, &Inline::default(), progress).await
    }
}

impl Remote {
    /// Executes, and asks for contents in the result itself.
    ///
    /// Where the context says that inputs follow, the server is told so if it offers to wait for them
    /// (`Capabilities::inputs_follow`); the caller uploads them meanwhile. Another server answers at once what is missing.
    ///
    /// Dropping the future drops the stream, by which the server knows that nobody waits. The limit of a command that
    /// timed out is not told by the protocol; the outcome holds the time that it ran instead.
    pub async fn execute_inline(
        &self,
        context: &Context,
        request: ExecuteRequest,
        inline: &Inline,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let mut execution = Execution {
            remote: &self.0,
            context,
            request,
            inline,
            progress,
            name: None,
            told: None,
            streams: Backoff::new(&self.0.options.retry, context),
            executions: Backoff::new(&self.0.options.retry, context),
        };
        execution.run().await
    }
}

/// An execution that is waited for, over however many streams it takes.
struct Execution<'a> {
    remote: &'a Inner,
    context: &'a Context,
    request: ExecuteRequest,
    inline: &'a Inline,
    progress: &'a dyn Progress,
    /// The operation, once the server has named it.
    name: Option<String>,
    /// What was reported last.
    told: Option<(Stage, ExecutionMetadata)>,
    /// Broken streams since the last word of the server.
    streams: Backoff,
    /// Executions that came to nothing.
    executions: Backoff,
}

/// How watching a stream ended without an outcome.
enum Broken {
    /// The operation goes on as far as anybody knows.
    Stream(Error),
    /// There is nothing left to wait for.
    Operation(Error),
}

impl Execution<'_> {
    async fn run(&mut self) -> Result<Outcome> {
        loop {
            match self.watch().await {
                Ok(outcome) => return Ok(outcome),
                Err(Broken::Stream(error)) => self.streams.pause(error).await?,
                Err(Broken::Operation(error)) => {
                    self.name = None;
                    self.executions.pause(error).await?;
                }
            }
        }
    }

    /// Opens a stream and listens to its end.
    async fn watch(&mut self) -> Result<Outcome, Broken> {
        // In boxes: what listens, which may take hours, needs no room for them.
        let (mut operations, _lease) = match self.name.clone() {
            Some(name) => Box::pin(self.wait(name)).await?,
            None => Box::pin(self.begin()).await.map_err(Broken::Stream)?,
        };
        loop {
            let message = self.remote.timely(self.context, None, operations.message()).await;
            let Some(operation) = message.map_err(|error| self.broken(error))? else {
                let message = format!("the stream of operation `{}` ended before the operation", self.name());
                return Err(Broken::Stream(Error::new(Kind::Aborted { message })));
            };
            self.streams.progressed();
            if let Some(outcome) = self.hear(operation) {
                return outcome.map_err(Broken::Operation);
            }
        }
    }

    async fn begin(&self) -> Result<(Streaming<Operation>, Lease)> {
        let ExecuteRequest { action_digest, skip_cache_lookup, priority } = self.request;
        let request = reapi::ExecuteRequest {
            instance_name: self.context.instance.to_string(),
            skip_cache_lookup,
            action_digest: Some(digest_to_wire(action_digest)),
            execution_policy: Some(reapi::ExecutionPolicy { priority }),
            digest_function: function_to_wire(action_digest.function()).into(),
            inline_stdout: self.inline.stdout,
            inline_stderr: self.inline.stderr,
            inline_output_files: self.inline.files.clone(),
            ..Default::default()
        };
        let mut request = self.remote.request(self.context, request);
        if let Some(follow) = &self.context.inputs_follow
            && self.remote.terms(self.context).await?.inputs_follow
        {
            inputs_follow::to_headers(follow, request.metadata_mut());
        }
        let (mut client, lease) = self.remote.execution();
        let call = client.execute(request);
        Ok((self.remote.timely(self.context, None, call).await?.into_inner(), lease))
    }

    async fn wait(&self, name: String) -> Result<(Streaming<Operation>, Lease), Broken> {
        let (mut client, lease) = self.remote.execution();
        let call = client.wait_execution(
            self.remote.request(self.context, reapi::WaitExecutionRequest { name: name.clone() }),
        );
        match self.remote.timely(self.context, None, call).await {
            Ok(stream) => Ok((stream.into_inner(), lease)),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// What a failed stream means for the operation.
    fn broken(&self, error: Error) -> Broken {
        match error.kind() {
            Kind::NotFound { .. } | Kind::Unimplemented { .. } if self.name.is_some() => {
                let message = format!("the server no longer knows operation `{}`", self.name());
                Broken::Operation(Error::new(Kind::Aborted { message }).with_source(error))
            }
            _ => Broken::Stream(error),
        }
    }

    /// Takes in what the server says; the outcome, if this is its last word.
    fn hear(&mut self, operation: Operation) -> Option<Result<Outcome>> {
        if !operation.name.is_empty() {
            self.name = Some(operation.name);
        }
        self.report(operation.metadata.unwrap_or_default());
        if !operation.done {
            return None;
        }
        Some(match operation.result {
            Some(operation::Result::Error(error)) => Err(status::from_rpc(error)),
            Some(operation::Result::Response(response)) => self.outcome(&response.value),
            None => Err(Error::internal(format!("operation `{}` ended without a result", self.name()))),
        })
    }

    fn outcome(&self, response: &[u8]) -> Result<Outcome> {
        let response = reapi::ExecuteResponse::decode(response)
            .map_err(|error| self.remote.garbled(Error::invalid("response", error.to_string())))?;
        let failed = response.status.as_ref().is_some_and(|status| status.code != 0);
        let ran = response.result.as_ref().and_then(|result| result.execution_metadata.clone());
        let ran = ran.map(metadata_from_wire).and_then(|metadata| run_time(&metadata));
        let outcome = outcome_of(self.request.action_digest.function(), response, ran);
        // A failure that the response tells is the execution's own.
        if failed { outcome } else { outcome.map_err(|error| self.remote.garbled(error)) }
    }

    /// Tells of the stage, once, and again when there are new timestamps.
    fn report(&mut self, metadata: prost_types::Any) {
        let Ok(metadata) = reapi::ExecuteOperationMetadata::decode(metadata.value.as_slice()) else { return };
        let Some(stage) = stage_from_wire(metadata.stage) else { return };
        let known = metadata.partial_execution_metadata.map(metadata_from_wire).unwrap_or_default();
        let news = Some((stage, known));
        if news != self.told {
            self.told = news;
            if let Some((stage, known)) = &self.told {
                self.progress.report(*stage, known);
            }
        }
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

fn run_time(metadata: &ExecutionMetadata) -> Option<Duration> {
    let interval = || metadata.execution_completed?.duration_since(metadata.execution_start?).ok();
    metadata.virtual_execution_duration.or_else(interval)
}

fn stage_from_wire(stage: i32) -> Option<Stage> {
    use reapi::execution_stage::Value;
    match Value::try_from(stage).ok()? {
        Value::Unknown => None,
        Value::CacheCheck => Some(Stage::CacheCheck),
        Value::Queued => Some(Stage::Queued),
        Value::Executing => Some(Stage::Executing),
        Value::Completed => Some(Stage::Completed),
    }
}
