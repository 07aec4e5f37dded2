//! A worker that dials its server: one gRPC stream, dialled again for as long as we serve.

use crate::{Phase, SessionEnd, Shutdown, Worker, serve};
use futures::StreamExt;
use mortar_model::{
    Error, Kind, Result,
    session::{FromWorker, ToWorker},
};
use mortar_wire::{session as convert, worker as wire, worker::worker_session_client::WorkerSessionClient};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// The first wait before a server is dialled again, and the longest: a server that was restarted is found within it.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(800);
/// How long a dial may take, and how long a server that is asked whether it lives may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that wait on either side of the stream.
const IN_FLIGHT: usize = 64;
/// The largest message that is taken: a result may name very many outputs.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Serves the server at `address` (`grpc://HOST:PORT` or `unix:PATH`) until we are asked to stop. Only an address that
/// is none is an error: a server that cannot be reached, or goes away, is dialled again.
pub async fn connect(worker: Worker, address: &str, mut shutdown: Shutdown) -> Result<()> {
    let endpoint = endpoint(address)?;
    let mut wait = FIRST_WAIT;
    while shutdown.phase() == Phase::Serving {
        let served = tokio::select! {
            channel = endpoint.connect() => match channel {
                Ok(channel) => Some(session(&worker, channel, shutdown.clone()).await),
                Err(error) => {
                    tracing::debug!(address, %error, "the server cannot be reached");
                    None
                }
            },
            _ = shutdown.beyond(Phase::Serving) => return Ok(()),
        };
        match served {
            Some(Session { end: SessionEnd::Shutdown, .. }) => return Ok(()),
            Some(Session { welcomed: true, end }) => {
                tracing::warn!(address, ?end, "the session with the server ended; dialling again");
                wait = FIRST_WAIT;
            }
            Some(Session { welcomed: false, .. }) | None => {
                if wait == FIRST_WAIT {
                    tracing::warn!(address, "the server cannot be reached; dialling until it can");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
            _ = shutdown.beyond(Phase::Serving) => return Ok(()),
        }
    }
    Ok(())
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

struct Session {
    end: SessionEnd,
    /// The server answered at least once.
    welcomed: bool,
}

/// One session: `serve` on this side of the channels, the stream on the other.
async fn session(worker: &Worker, channel: Channel, shutdown: Shutdown) -> Session {
    let (to_server, from_us) = mpsc::channel(IN_FLIGHT);
    let (to_us, from_server) = mpsc::channel(IN_FLIGHT);
    let serving = serve(worker.clone(), to_server, from_server, shutdown);
    let (end, carried) = tokio::join!(Box::pin(serving), Box::pin(carry(channel, from_us, to_us)));
    let welcomed = carried.unwrap_or_else(|error| {
        tracing::info!(%error, "the stream to the server broke");
        false
    });
    Session { end, welcomed }
}

/// Carries messages both ways until either side ends; tells whether the server said anything.
async fn carry(
    channel: Channel,
    from_us: mpsc::Receiver<FromWorker>,
    to_us: mpsc::Sender<ToWorker>,
) -> Result<bool> {
    let mut client = WorkerSessionClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let outgoing = ReceiverStream::new(from_us).map(|message| convert::from_worker_to_wire(&message));
    let mut incoming = client.session(outgoing).await.map_err(lost)?.into_inner();
    let mut welcomed = false;
    loop {
        let message: wire::ToWorker = tokio::select! {
            message = incoming.message() => match message.map_err(lost) {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(welcomed),
                Err(error) => {
                    tracing::info!(%error, "the stream from the server broke");
                    return Ok(welcomed);
                }
            },
            // What we said last is still on its way; the server ends its side once it has it.
            () = to_us.closed() => {
                tokio::time::timeout(PATIENCE, farewell(&mut incoming)).await.ok();
                return Ok(welcomed);
            }
        };
        welcomed = true;
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

fn lost(status: tonic::Status) -> Error {
    Error::new(Kind::Unavailable { message: format!("the server said: {status}"), retry_after: None })
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
