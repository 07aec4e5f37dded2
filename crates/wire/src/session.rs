//! The worker session on the wire; see `proto/mortar/worker/v1/session.proto`.

use crate::{
    action::{platform_from_wire, platform_to_wire},
    digest_function, digest_to_wire, duration_from_wire, duration_to_wire, execute_response,
    function_to_wire, metadata, metadata_from_wire, metadata_to_wire, outcome_of, required, required_digest,
    worker as wire,
};
use mortar_model::{
    Context, DigestFunction, InstanceName, Result,
    session::{ExecutionId, FromWorker, Hello, Run, ToWorker},
};
use std::sync::Arc;

/// What a worker says.
pub fn from_worker_to_wire(message: &FromWorker) -> wire::FromWorker {
    use wire::from_worker::Message;
    let message = match message {
        FromWorker::Hello(hello) => Message::Hello(wire::Hello {
            version: hello.version,
            name: hello.name.clone(),
            slots: hello.slots,
            platform: Some(platform_to_wire(&hello.platform)),
        }),
        FromWorker::Progress { execution, metadata } => Message::Progress(wire::Progress {
            execution_id: execution.to_string(),
            metadata: Some(metadata_to_wire(metadata)),
        }),
        FromWorker::Finished { execution, outcome } => {
            let limit = match outcome.as_ref() {
                Ok(mortar_model::Outcome {
                    termination: mortar_model::Termination::TimedOut { limit },
                    ..
                }) => Some(duration_to_wire(*limit)),
                _ => None,
            };
            Message::Finished(wire::Finished {
                execution_id: execution.to_string(),
                response: Some(execute_response((**outcome).as_ref())),
                timed_out_after: limit,
            })
        }
        FromWorker::Heartbeat => Message::Heartbeat(wire::Heartbeat {}),
        FromWorker::Draining => Message::Draining(wire::Draining {}),
    };
    wire::FromWorker { message: Some(message) }
}

/// What a worker said. `function` tells of which digest function the digests of an execution are.
pub fn from_worker_from_wire(
    message: wire::FromWorker,
    function: impl Fn(&ExecutionId) -> DigestFunction,
) -> Result<FromWorker> {
    use wire::from_worker::Message;
    Ok(match required("message", message.message)? {
        Message::Hello(hello) => FromWorker::Hello(Hello {
            version: hello.version,
            name: hello.name,
            slots: hello.slots,
            platform: hello.platform.map(platform_from_wire).unwrap_or_default(),
        }),
        Message::Progress(progress) => FromWorker::Progress {
            execution: ExecutionId(progress.execution_id.into()),
            metadata: progress.metadata.map(metadata_from_wire).unwrap_or_default(),
        },
        Message::Finished(finished) => {
            let execution = ExecutionId(finished.execution_id.into());
            let limit = finished
                .timed_out_after
                .map(|limit| duration_from_wire("timed_out_after", limit))
                .transpose()?;
            let response = required("response", finished.response)?;
            let outcome = Box::new(outcome_of(function(&execution), response, limit));
            FromWorker::Finished { execution, outcome }
        }
        Message::Heartbeat(_) => FromWorker::Heartbeat,
        Message::Draining(_) => FromWorker::Draining,
    })
}

/// What a server says.
pub fn to_worker_to_wire(message: &ToWorker) -> wire::ToWorker {
    use wire::to_worker::Message;
    let message = match message {
        ToWorker::Welcome { version, heartbeat_interval } => Message::Welcome(wire::Welcome {
            version: *version,
            heartbeat_interval: Some(duration_to_wire(*heartbeat_interval)),
        }),
        ToWorker::Run(run) => Message::Run(wire::Run {
            execution_id: run.execution.to_string(),
            instance_name: run.context.instance.to_string(),
            digest_function: function_to_wire(run.action_digest.function()).into(),
            action_digest: Some(digest_to_wire(run.action_digest)),
            request_metadata: Some(metadata::to_wire(&run.context.request)),
            metadata: Some(metadata_to_wire(&run.metadata)),
            default_timeout: Some(duration_to_wire(run.default_timeout)),
        }),
        ToWorker::Cancel(execution) => Message::Cancel(wire::Cancel { execution_id: execution.to_string() }),
        ToWorker::Heartbeat => Message::Heartbeat(wire::Heartbeat {}),
    };
    wire::ToWorker { message: Some(message) }
}

/// What a server said.
pub fn to_worker_from_wire(message: wire::ToWorker) -> Result<ToWorker> {
    use wire::to_worker::Message;
    Ok(match required("message", message.message)? {
        Message::Welcome(welcome) => {
            let interval = required("heartbeat_interval", welcome.heartbeat_interval)?;
            let heartbeat_interval = duration_from_wire("heartbeat_interval", interval)?;
            ToWorker::Welcome { version: welcome.version, heartbeat_interval }
        }
        Message::Run(run) => ToWorker::Run(Box::new(run_from_wire(run)?)),
        Message::Cancel(cancel) => ToWorker::Cancel(ExecutionId(cancel.execution_id.into())),
        Message::Heartbeat(_) => ToWorker::Heartbeat,
    })
}

fn run_from_wire(run: wire::Run) -> Result<Run> {
    let function = digest_function(run.digest_function)?;
    let request = run.request_metadata.map(metadata::from_wire).unwrap_or_default();
    let instance = InstanceName::parse(&run.instance_name)?;
    Ok(Run {
        execution: ExecutionId(run.execution_id.into()),
        context: Context { instance, request: Arc::new(request), ..Context::default() },
        action_digest: required_digest("action_digest", function, run.action_digest)?,
        metadata: run.metadata.map(metadata_from_wire).unwrap_or_default(),
        default_timeout: duration_from_wire(
            "default_timeout",
            required("default_timeout", run.default_timeout)?,
        )?,
    })
}
