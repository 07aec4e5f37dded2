//! Worker sessions over gRPC: joins the stream of a worker to the scheduler's link for it, by way of `live_logs`.

use crate::live_logs::{LiveLogs, Session};
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{
    DigestFunction, Error,
    session::{ExecutionId, FromWorker, Hello, ToWorker},
};
use mortar_scheduler::Scheduler;
use mortar_wire::{session, status::to_status, worker};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

/// Messages to one worker that wait for the network.
const OUTGOING: usize = 16;

/// Takes workers in.
pub(crate) struct Service {
    scheduler: Scheduler,
    logs: LiveLogs,
}

impl Service {
    pub(crate) fn new(scheduler: Scheduler, logs: LiveLogs) -> Self {
        Self { scheduler, logs }
    }
}

#[tonic::async_trait]
impl worker::worker_session_server::WorkerSession for Service {
    async fn session(
        &self,
        request: Request<Streaming<worker::FromWorker>>,
    ) -> Result<Response<BoxStream<'static, Result<worker::ToWorker, Status>>>, Status> {
        let mut incoming = request.into_inner();
        let hello = hello(incoming.message().await?).map_err(|error| to_status(&error))?;
        let span = tracing::info_span!("worker", name = hello.name);
        let held = hello.held.iter().map(|held| (held.execution.clone(), held.action_digest.function()));
        let functions = held.collect();
        let attached = self.logs.attach(&self.scheduler, hello).await;
        let link = attached.map_err(|error| to_status(&error))?;
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        tokio::spawn(converse(link, incoming, outgoing, functions).instrument(span));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()))
    }
}

fn hello(first: Option<worker::FromWorker>) -> Result<Hello, Error> {
    let first = first.ok_or_else(|| Error::invalid("message", "the session ended before it began"))?;
    match session::from_worker_from_wire(first, |_| DigestFunction::default())? {
        FromWorker::Hello(hello) => Ok(hello),
        _ => Err(Error::invalid("message", "the first message of a session has to be a hello")),
    }
}

/// Passes messages both ways until either side is gone. Dropping the link tells the scheduler.
async fn converse(
    mut link: Session,
    mut incoming: Streaming<worker::FromWorker>,
    outgoing: mpsc::Sender<Result<worker::ToWorker, Status>>,
    mut functions: HashMap<ExecutionId, DigestFunction>,
) {
    loop {
        tokio::select! {
            command = link.command() => {
                let Some(command) = command else { break };
                remember(&mut functions, &command);
                if outgoing.send(Ok(session::to_worker_to_wire(&command))).await.is_err() {
                    break;
                }
            }
            message = incoming.message() => {
                let message = match message {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(status) => {
                        tracing::warn!("the session broke: {}", status.message());
                        break;
                    }
                };
                match report(&mut functions, message) {
                    Ok(report) => if !link.report(report).await {
                        break;
                    },
                    Err(error) => {
                        tracing::warn!("the worker sent what cannot be understood: {error}");
                        let _ = outgoing.send(Err(to_status(&error))).await;
                        break;
                    }
                }
            }
        }
    }
    tracing::info!("the session ended");
}

/// Digests in an outcome are of the function that the action was named with.
fn remember(functions: &mut HashMap<ExecutionId, DigestFunction>, command: &ToWorker) {
    if let ToWorker::Run(run) = command {
        functions.insert(run.execution.clone(), run.action_digest.function());
    }
}

fn report(
    functions: &mut HashMap<ExecutionId, DigestFunction>,
    message: worker::FromWorker,
) -> Result<FromWorker, Error> {
    let report =
        session::from_worker_from_wire(message, |id| functions.get(id).copied().unwrap_or_default())?;
    if let FromWorker::Finished { execution, .. } = &report {
        functions.remove(execution);
    }
    Ok(report)
}
