//! The worker session on the wire; see `proto/mortar/worker/v1/session.proto`.

use crate::{
    action::{platform_from_wire, platform_to_wire},
    digest_function, digest_to_wire, duration_from_wire, duration_to_wire, execute_response,
    function_to_wire, metadata, metadata_from_wire, metadata_to_wire, outcome_of, required, required_digest,
    worker as wire,
};
use mortar_model::{
    Context, DigestFunction, Error, InstanceName, Result,
    context::Operation,
    session::{Capacity, ExecutionId, FromWorker, Held, Hello, Log, LogPiece, LogRequest, Run, ToWorker},
};
use std::sync::Arc;

/// What a worker says.
pub fn from_worker_to_wire(message: &FromWorker) -> wire::FromWorker {
    use wire::from_worker::Message;
    let message = match message {
        FromWorker::Hello(hello) => Message::Hello(hello_to_wire(hello)),
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
        FromWorker::Log(LogPiece { request, data, size, over }) => {
            Message::Log(wire::Log { request: *request, data: data.clone(), size: *size, over: *over })
        }
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
        Message::Hello(hello) => FromWorker::Hello(hello_from_wire(hello)?),
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
        Message::Log(wire::Log { request, data, size, over }) => {
            FromWorker::Log(LogPiece { request, data, size, over })
        }
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
            operation: operation_name(&run.context),
        }),
        ToWorker::Cancel(execution) => Message::Cancel(wire::Cancel { execution_id: execution.to_string() }),
        ToWorker::Delivered(execution) => {
            Message::Delivered(wire::Delivered { execution_id: execution.to_string() })
        }
        ToWorker::Drain => Message::Drain(wire::Drain {}),
        ToWorker::ReadLog(request) => Message::ReadLog(read_log_to_wire(request)),
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
        Message::Delivered(delivered) => ToWorker::Delivered(ExecutionId(delivered.execution_id.into())),
        Message::Drain(_) => ToWorker::Drain,
        Message::ReadLog(request) => ToWorker::ReadLog(read_log_from_wire(request)?),
        Message::Heartbeat(_) => ToWorker::Heartbeat,
    })
}

fn read_log_to_wire(request: &LogRequest) -> wire::ReadLog {
    use wire::read_log::Stream;
    let stream = match request.log {
        Log::Stdout => Stream::Stdout,
        Log::Stderr => Stream::Stderr,
    };
    wire::ReadLog {
        request: request.request,
        execution_id: request.execution.to_string(),
        stream: stream.into(),
        offset: request.offset,
        limit: request.limit,
    }
}

fn read_log_from_wire(request: wire::ReadLog) -> Result<LogRequest> {
    use wire::read_log::Stream;
    let log = match request.stream() {
        Stream::Stdout => Log::Stdout,
        Stream::Stderr => Log::Stderr,
        Stream::Unspecified => {
            return Err(Error::invalid("stream", format!("the stream {} is not known", request.stream)));
        }
    };
    let wire::ReadLog { request, execution_id, offset, limit, .. } = request;
    Ok(LogRequest { request, execution: ExecutionId(execution_id.into()), log, offset, limit })
}

fn run_from_wire(run: wire::Run) -> Result<Run> {
    let function = digest_function(run.digest_function)?;
    Ok(Run {
        execution: ExecutionId(run.execution_id.into()),
        context: context(&run.instance_name, run.request_metadata, run.operation)?,
        action_digest: required_digest("action_digest", function, run.action_digest)?,
        metadata: run.metadata.map(metadata_from_wire).unwrap_or_default(),
        default_timeout: duration_from_wire(
            "default_timeout",
            required("default_timeout", run.default_timeout)?,
        )?,
    })
}

fn hello_to_wire(hello: &Hello) -> wire::Hello {
    let held = hello.held.iter().map(|held| wire::Held {
        execution_id: held.execution.to_string(),
        instance_name: held.context.instance.to_string(),
        digest_function: function_to_wire(held.action_digest.function()).into(),
        action_digest: Some(digest_to_wire(held.action_digest)),
        request_metadata: Some(metadata::to_wire(&held.context.request)),
        operation: operation_name(&held.context),
    });
    let Capacity { cpu_millis, memory } = hello.capacity;
    wire::Hello {
        version: hello.version,
        name: hello.name.clone(),
        slots: hello.slots,
        platform: Some(platform_to_wire(&hello.platform)),
        capacity: Some(wire::Capacity { cpu_millis, memory }),
        process: hello.process.clone(),
        layers: hello.layers.clone(),
        images: hello.images.clone(),
        draining: hello.draining,
        held: held.collect(),
    }
}

fn hello_from_wire(hello: wire::Hello) -> Result<Hello> {
    let held = hello.held.into_iter().map(|held| {
        let function = digest_function(held.digest_function)?;
        Ok(Held {
            execution: ExecutionId(held.execution_id.into()),
            context: context(&held.instance_name, held.request_metadata, held.operation)?,
            action_digest: required_digest("action_digest", function, held.action_digest)?,
        })
    });
    let capacity = hello.capacity.unwrap_or_default();
    Ok(Hello {
        version: hello.version,
        name: hello.name,
        slots: hello.slots,
        platform: hello.platform.map(platform_from_wire).unwrap_or_default(),
        capacity: Capacity { cpu_millis: capacity.cpu_millis, memory: capacity.memory },
        process: hello.process,
        layers: hello.layers,
        images: hello.images,
        draining: hello.draining,
        held: held.collect::<Result<_>>()?,
    })
}

fn operation_name(context: &Context) -> String {
    context.operation.as_ref().map(|operation| operation.name.clone()).unwrap_or_default()
}

/// For whom an attempt is made.
fn context(
    instance: &str,
    request: Option<crate::reapi::RequestMetadata>,
    operation: String,
) -> Result<Context> {
    let request = request.map(metadata::from_wire).unwrap_or_default();
    let operation = (!operation.is_empty()).then_some(Operation { name: operation, ..Operation::default() });
    Ok(Context {
        instance: InstanceName::parse(instance)?,
        request: Arc::new(request),
        operation: operation.map(Arc::new),
        ..Context::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{Digest, Platform, session::VERSION};

    #[test]
    fn a_greeting_comes_back_with_what_is_held() {
        let operation = Operation { name: "operations/1".into(), ..Operation::default() };
        let context = Context { operation: Some(Arc::new(operation)), ..Context::default() };
        let action_digest = Digest::of(DigestFunction::Blake3, b"a");
        let hello = Hello {
            version: VERSION,
            name: "w".into(),
            slots: 3,
            platform: Platform::new([("a".into(), "b".into())]),
            capacity: Capacity { cpu_millis: 1500, memory: 7 },
            process: "p".into(),
            layers: vec!["pid".into()],
            images: vec!["debian".into()],
            draining: true,
            held: vec![Held { execution: ExecutionId("1".into()), context, action_digest }],
        };
        let said = FromWorker::Hello(hello);
        let wire = from_worker_to_wire(&said);
        let heard = from_worker_from_wire(wire, |_| DigestFunction::Sha256).map(|heard| format!("{heard:?}"));
        assert_eq!(heard.ok(), Some(format!("{said:?}")));
    }

    #[test]
    fn what_is_asked_of_a_log_and_answered_comes_back() {
        for log in [Log::Stdout, Log::Stderr] {
            let execution = ExecutionId("7".into());
            let asked = LogRequest { request: 3, execution, log, offset: 5, limit: 9 };
            let heard = to_worker_from_wire(to_worker_to_wire(&ToWorker::ReadLog(asked.clone())));
            assert!(matches!(heard, Ok(ToWorker::ReadLog(heard)) if heard == asked), "{log:?}");
        }
        let piece = LogPiece { request: 3, data: "text".into(), size: 4, over: true };
        let wire = from_worker_to_wire(&FromWorker::Log(piece.clone()));
        let heard = from_worker_from_wire(wire, |_| DigestFunction::Sha256);
        assert!(matches!(heard, Ok(FromWorker::Log(heard)) if heard == piece));
        let unknown = wire::ReadLog { stream: 9, ..Default::default() };
        let refused = read_log_from_wire(unknown).map_err(|error| error.to_string());
        assert_eq!(refused.err().as_deref(), Some("the stream 9 is not known"));
    }

    #[test]
    fn a_greeting_of_the_first_version_is_understood() {
        let first = wire::Hello { version: 1, name: "w".into(), slots: 2, ..Default::default() };
        let hello = hello_from_wire(first).unwrap_or_default();
        assert_eq!((hello.version, hello.slots, hello.capacity), (1, 2, Capacity::default()));
        assert!(hello.process.is_empty() && hello.held.is_empty());
    }
}
