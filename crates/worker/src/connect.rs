//! A worker that dials its server: one gRPC stream, dialled again for as long as we serve.

use crate::{Phase, SessionEnd, Shutdown, Worker, session::Attempts};
use futures::StreamExt;
use mortar_model::{
    Error, Kind, Result,
    session::{FromWorker, OLDEST_VERSION, ToWorker, VERSION},
};
use mortar_wire::{session as convert, worker as wire, worker::worker_session_client::WorkerSessionClient};
use prost::Message;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// The first wait before a server is dialled again, and the longest: a server that was restarted is found within it.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(800);
/// How long a dial may take, and how long a server that is asked whether it lives may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what runs goes on while there is no server that it could be delivered to.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// Messages that wait on either side of the stream.
const IN_FLIGHT: usize = 64;
/// The largest message of a session, which the server keeps to as well: a result may name very many outputs.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Serves the server at `address` (`grpc://HOST:PORT` or `unix:PATH`) until we are asked to stop. Only an address that
/// is none is an error: a server that cannot be reached, or goes away, is dialled again. What runs when it goes away goes
/// on, and is brought along into the next session.
pub async fn connect(worker: Worker, address: &str, mut shutdown: Shutdown) -> Result<()> {
    let endpoint = endpoint(address)?;
    let mut attempts = Attempts::new(worker, true);
    let served = dial(&mut attempts, address, &endpoint, &mut shutdown).await;
    attempts.stop().await;
    served
}

async fn dial(
    attempts: &mut Attempts,
    address: &str,
    endpoint: &Endpoint,
    shutdown: &mut Shutdown,
) -> Result<()> {
    let mut wait = FIRST_WAIT;
    let mut told = None;
    let mut alone_since = Instant::now();
    while shutdown.phase() == Phase::Serving {
        match attempt(attempts, endpoint, shutdown).await {
            Attempt::Over => return Ok(()),
            Attempt::Ended(end) => {
                tracing::warn!(address, ?end, "the session with the server ended; dialling again");
                (wait, told, alone_since) = (FIRST_WAIT, None, Instant::now());
                // It may be another release that answers next.
                attempts.offer(VERSION).await;
            }
            // An older server refuses what it does not know, and is asked again in its own words.
            Attempt::Failed(error) if is_refusal(&error) && attempts.version() > OLDEST_VERSION => {
                tracing::info!(address, "the server refuses this version of the session: {error}");
                attempts.offer(attempts.version() - 1).await;
                continue;
            }
            Attempt::Failed(error) if is_final(&error) => return Err(error),
            Attempt::Failed(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(
                        address,
                        "no session with the server yet; dialling until there is one: {text}"
                    );
                    told = Some(text);
                }
            }
        }
        if !attempts.is_empty() && alone_since.elapsed() >= KEPT {
            tracing::warn!(address, "the server stays away; what ran for it is stopped");
            attempts.stop().await;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
            _ = shutdown.beyond(Phase::Serving) => return Ok(()),
        }
    }
    Ok(())
}

/// How one dial ended.
enum Attempt {
    /// We were asked to stop.
    Over,
    /// There was a session.
    Ended(SessionEnd),
    /// There was none.
    Failed(Error),
}

async fn attempt(attempts: &mut Attempts, endpoint: &Endpoint, shutdown: &mut Shutdown) -> Attempt {
    let channel = tokio::select! {
        channel = endpoint.connect() => channel,
        _ = shutdown.beyond(Phase::Serving) => return Attempt::Over,
    };
    match channel {
        Ok(channel) => session(attempts, channel, shutdown.clone()).await,
        Err(error) => {
            let cause = innermost(&error);
            Attempt::Failed(Error::new(Kind::Unavailable {
                message: format!("it cannot be reached: {cause}"),
                retry_after: None,
            }))
        }
    }
}

/// That the server does not speak with such a worker.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::FailedPrecondition { .. })
}

/// What another dial would not change: the server refuses this worker, or knows no workers.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::FailedPrecondition { .. } | Kind::InvalidArgument { .. } | Kind::Unimplemented { .. }
    )
}

/// The cause that says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let refuse = |why: &str| {
        let message = format!(
            "`{address}` is no address of a server: {why}; expected `grpc://HOST:PORT` or `unix:PATH`"
        );
        Error::invalid("server", message)
    };
    let uri = match address.split_once("://") {
        Some(("grpc" | "http", rest)) if !rest.is_empty() => format!("http://{rest}"),
        _ if address.strip_prefix("unix:").is_some_and(|path| !path.trim_start_matches("//").is_empty()) => {
            address.to_owned()
        }
        Some((scheme, _)) => return Err(refuse(&format!("the scheme `{scheme}` is not spoken here"))),
        None => return Err(refuse("it has no scheme")),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| refuse(&error.to_string()))?;
    Ok(endpoint
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// One session: the attempts on this side of the channels, the stream on the other.
async fn session(attempts: &mut Attempts, channel: Channel, shutdown: Shutdown) -> Attempt {
    let (to_server, from_us) = mpsc::channel(IN_FLIGHT);
    let (to_us, from_server) = mpsc::channel(IN_FLIGHT);
    let serving = attempts.serve(to_server, from_server, shutdown);
    let (end, carried) = tokio::join!(Box::pin(serving), Box::pin(carry(channel, from_us, to_us)));
    match (end, carried) {
        (SessionEnd::Shutdown, _) => Attempt::Over,
        (SessionEnd::Incompatible, _) => {
            let message = "the server speaks another version of the session protocol".to_owned();
            let error = Error::new(Kind::FailedPrecondition { message });
            Attempt::Failed(error.hint("run the same release of mortar on the worker and on the server"))
        }
        (end, Ok(())) => Attempt::Ended(end),
        (_, Err(error)) => Attempt::Failed(error),
    }
}

/// Carries messages both ways until either side ends. An error if the server never said anything.
async fn carry(
    channel: Channel,
    from_us: mpsc::Receiver<FromWorker>,
    to_us: mpsc::Sender<ToWorker>,
) -> Result<()> {
    let mut client = WorkerSessionClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let outgoing = ReceiverStream::new(from_us).map(|message| within_limit(&message));
    let refused = |status: tonic::Status| mortar_wire::status::from_status(&status);
    let mut incoming = client.session(outgoing).await.map_err(refused)?.into_inner();
    let mut welcomed = false;
    loop {
        let message: wire::ToWorker = tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => message,
                Err(status) if !welcomed => return Err(refused(status)),
                ended => {
                    if let Err(status) = ended {
                        tracing::info!("the stream from the server broke: {}", status.message());
                    }
                    return Ok(());
                }
            },
            // What we said last is still on its way; the server ends its side once it has it.
            () = to_us.closed() => {
                tokio::time::timeout(PATIENCE, farewell(&mut incoming)).await.ok();
                return Ok(());
            }
        };
        if !welcomed {
            tracing::info!("connected to the server");
            welcomed = true;
        }
        match convert::to_worker_from_wire(message) {
            // Where nobody hears it, the next turn sees that.
            Ok(message) => to_us.send(message).await.unwrap_or_default(),
            Err(error) => tracing::warn!(%error, "the server sent a message that makes no sense"),
        }
    }
}

async fn farewell(incoming: &mut tonic::Streaming<wire::ToWorker>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

/// The message as it is sent. A result too large to be sent is told as an error, so that it costs its own execution
/// and not the session with all that runs in it.
fn within_limit(message: &FromWorker) -> wire::FromWorker {
    let encoded = convert::from_worker_to_wire(message);
    let length = encoded.encoded_len();
    match message {
        FromWorker::Finished { execution, .. } if length > LARGEST_MESSAGE => {
            let message = format!("the result has {length} bytes; at most {LARGEST_MESSAGE} can be sent");
            let outcome = Box::new(Err(Error::new(Kind::ResourceExhausted { message, retry_after: None })));
            convert::from_worker_to_wire(&FromWorker::Finished { execution: execution.clone(), outcome })
        }
        _ => encoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["grpc://127.0.0.1:8980", "http://[::1]:1", "unix:/run/mortar", "unix:///run/mortar"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1:8980", "", "grpc://", "unix:", "ftp://x:1", "grpc://a b"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
