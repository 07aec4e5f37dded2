//! Connections: accepted, told apart, served, and told to end.

use super::{Listener, Socket};
use crate::Traffic;
use axum::Router;
use futures::FutureExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use socket2::{SockRef, TcpKeepalive};
use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a client may send that nobody has read yet: of one stream enough to fill a fast link, of one connection as
/// much, or its part of what all connections may have, whichever is less. A frame is what a stream holds at the least.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const LEAST_CONNECTION_WINDOW: u32 = 256 << 10;
const ALL_WINDOWS: u32 = 32 << 20;
const FRAME: u32 = 256 << 10;
const SEND_BUFFER: usize = 256 << 10;
/// Streams that one connection may have open; each client connection of Bazel uses up to 100, and a companion has two
/// connections for all its clients.
const STREAMS: u32 = 16_384;
/// How often a silent connection is asked whether it still lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a new connection may take until its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// How long it may take if the server ends meanwhile.
const NEWCOMER: Duration = Duration::from_secs(1);
/// Connections at most that are accepted once the server is to end.
const BACKLOG: usize = 4_096;

/// Serves `router` until `stop` is done, then lets open calls end.
pub async fn serve(listener: Listener, router: Router, stop: impl Future<Output = ()>) {
    let Listener { socket, traffic } = listener;
    let server = Server {
        router,
        traffic,
        connections: TaskTracker::new(),
        closing: CancellationToken::new(),
        told: Told::default(),
    };
    // Also of who drops this future.
    let _closing = server.closing.clone().drop_guard();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = server.accept(&socket) => {}
            () = &mut stop => break,
        }
    }
    // Who has connected by now is not turned away; a turn of the runtime tells who has.
    tokio::task::yield_now().await;
    for _ in 0..BACKLOG {
        if server.accept(&socket).now_or_never().is_none() {
            break;
        }
    }
    drop(socket);
    server.closing.cancel();
    server.connections.close();
    server.connections.wait().await;
}

struct Server {
    router: Router,
    traffic: Traffic,
    connections: TaskTracker,
    /// Nothing new is begun.
    closing: CancellationToken,
    told: Told,
}

impl Server {
    async fn accept(&self, socket: &Socket) {
        match socket {
            Socket::Tcp(listener) => match listener.accept().await {
                Ok((stream, peer)) => self.greet(stream, peer),
                Err(error) => back_off(error).await,
            },
            Socket::Unix(listener, _) => match listener.accept().await {
                Ok((stream, _)) => {
                    let closing = self.closing.clone();
                    self.spawn(async move {
                        first_word(closing, peek(&stream)).await?;
                        Some(stream)
                    });
                }
                Err(error) => back_off(error).await,
            },
        }
    }

    fn greet(&self, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
        let (told, closing) = (self.told.clone(), self.closing.clone());
        self.spawn(async move {
            let mut first = [0];
            match first_word(closing, stream.peek(&mut first)).await? {
                0 => None,
                _ if first[0] == TLS_HANDSHAKE => {
                    if told.is_news(peer.ip(), Instant::now()) {
                        tell_of_tls(peer);
                    }
                    refuse_tls(stream).await;
                    None
                }
                _ => Some(stream),
            }
        });
    }

    fn spawn<S>(&self, stream: impl Future<Output = Option<S>> + Send + 'static)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, traffic, closing) = (self.router.clone(), self.traffic.clone(), self.closing.clone());
        let connections = self.connections.clone();
        self.connections.spawn(async move {
            let Some(stream) = stream.await else { return };
            let connection = builder(window(connections.len()))
                .serve_connection(TokioIo::new(traffic.count(stream)), TowerToHyperService::new(router))
                .into_owned();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                // What was said already is read first.
                biased;
                ended = &mut connection => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}

/// What the first of a new connection comes to, unless it takes too long. One whose client is about to speak when the
/// server ends is waited for: closed without a word it is a failure to the client, and told to end it is not.
async fn first_word<T>(closing: CancellationToken, word: impl Future<Output = io::Result<T>>) -> Option<T> {
    let accepted = Instant::now();
    let end = async {
        closing.cancelled().await;
        tokio::time::sleep_until(accepted + NEWCOMER).await;
    };
    tokio::select! {
        biased;
        word = tokio::time::timeout(FIRST_BYTE, word) => word.ok()?.ok(),
        () = end => None,
    }
}

/// Waits until there is something to read, or the end.
async fn peek(stream: &UnixStream) -> io::Result<()> {
    let peek = || SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).map(drop);
    stream.async_io(Interest::READABLE, peek).await
}

/// Out of descriptors, say: try again in a moment instead of spinning.
async fn back_off(error: io::Error) {
    tracing::warn!("a connection could not be accepted: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// The window of a connection, when so many are open, itself included.
fn window(connections: usize) -> u32 {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
    (ALL_WINDOWS / connections).clamp(LEAST_CONNECTION_WINDOW, CONNECTION_WINDOW)
}

fn builder(window: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// The first byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal alert, `protocol_version`: the client fails at once and says that TLS did not work out.
const TLS_ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 70];

/// How long one line about a host's TLS is enough: clients try again many times.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// The hosts that a line of the log was about lately.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<HashMap<IpAddr, Instant>>>);

impl Told {
    /// Whether there was no line about this host lately; then there is one now.
    fn is_news(&self, host: IpAddr, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < TOLD_FOR);
        if told.contains_key(&host) {
            return false;
        }
        told.insert(host, now);
        true
    }
}

fn tell_of_tls(peer: SocketAddr) {
    tracing::warn!(
        "{peer} speaks TLS, but this port is plaintext: use grpc:// instead of grpcs:// (or http:// instead of https://) in the client"
    );
}

async fn refuse_tls(mut stream: TcpStream) {
    let _ = stream.write_all(&TLS_ALERT).await;
    let _ = stream.shutdown().await;
    // What the client has sent is read, so that the alert is not lost to a reset.
    let _ =
        tokio::time::timeout(Duration::from_secs(1), tokio::io::copy(&mut stream, &mut tokio::io::sink()))
            .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_what_may_be_sent() {
        for (connections, expected) in
            [(0, 8 << 20), (1, 8 << 20), (4, 8 << 20), (8, 4 << 20), (1000, 256 << 10)]
        {
            assert_eq!(window(connections), expected, "{connections}");
        }
    }

    #[test]
    fn a_host_is_news_once_a_minute() {
        let (told, now) = (Told::default(), Instant::now());
        let [one, other] = ["10.0.0.1", "::1"].map(|host| host.parse::<IpAddr>().unwrap());
        for (host, later, news) in [
            (one, 0, true),
            (one, 1, false),
            (other, 1, true),
            (one, 59, false),
            (one, 60, true),
            (other, 60, false),
        ] {
            assert_eq!(told.is_news(host, now + Duration::from_secs(later)), news, "{host} after {later} s");
        }
    }
}
