//! One port for everything: gRPC, HTTP/1.1 and HTTP/2 with prior knowledge, over TCP or a unix socket.

use crate::Traffic;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use mortar_model::{Error, Result};
use socket2::{SockRef, TcpKeepalive};
use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_util::sync::CancellationToken;

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

/// Where to listen: `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 picks a free one.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid("listen", format!("`{text}` {why}; expected HOST:PORT or unix:PATH")))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { refuse("names no path") } else { Ok(Self::Unix(path.into())) };
        }
        let text_without_scheme =
            text.strip_prefix("grpc://").or(text.strip_prefix("http://")).unwrap_or(text);
        match text_without_scheme.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text_without_scheme.to_owned()))
            }
            _ => refuse("is no address"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A port that is ours, on which nothing is answered yet.
pub struct Listener {
    socket: Socket,
    traffic: Traffic,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket in the file system, which goes with its listener, unless another process has taken the socket over.
struct SocketFile {
    path: PathBuf,
    taken: Arc<AtomicBool>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        Self { path, taken: Arc::default() }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.taken.load(Ordering::Relaxed) {
            // What cannot be removed is replaced by the next listener.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Takes the address. An address in use is an error that says so; a unix socket that nobody serves any more is replaced.
    pub async fn bind(address: &Address) -> Result<Self> {
        let failed = |error: io::Error| {
            let in_use = error.kind() == io::ErrorKind::AddrInUse;
            let failed = Error::io(format!("listening on `{address}`"), error);
            if in_use {
                failed.hint("something else listens there; stop it, or choose another address with --listen")
            } else {
                failed
            }
        };
        let socket = match address {
            Address::Tcp(tcp) => Socket::Tcp(TcpListener::bind(tcp).await.map_err(failed)?),
            Address::Unix(path) => {
                // Clients may be elsewhere.
                let path = std::path::absolute(path).map_err(failed)?;
                make_room(&path).await.map_err(failed)?;
                Socket::Unix(UnixListener::bind(&path).map_err(failed)?, SocketFile::new(path))
            }
        };
        Ok(Self { socket, traffic: Traffic::default() })
    }

    /// A TCP socket that listens already: opened by who started this process, or taken over from another.
    pub fn adopt_tcp(socket: std::net::TcpListener) -> Result<Self> {
        let failed = |error| Error::io("taking over a socket that listens", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = Socket::Tcp(TcpListener::from_std(socket).map_err(failed)?);
        Ok(Self { socket, traffic: Traffic::default() })
    }

    /// The same of a unix socket, which knows where it is.
    pub fn adopt_unix(socket: std::os::unix::net::UnixListener) -> Result<Self> {
        let failed = |error| Error::io("taking over a socket that listens", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let unnamed = || failed(io::Error::new(io::ErrorKind::InvalidInput, "the socket has no path"));
        let path = address.as_pathname().ok_or_else(unnamed)?.to_owned();
        let socket = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(socket, SocketFile::new(path)), traffic: Traffic::default() })
    }

    /// The socket once more, to be given to another process.
    pub fn spare(&self) -> Result<Spare> {
        let (descriptor, taken) = match &self.socket {
            Socket::Tcp(listener) => (listener.as_fd().try_clone_to_owned(), Arc::default()),
            Socket::Unix(listener, file) => (listener.as_fd().try_clone_to_owned(), file.taken.clone()),
        };
        let descriptor = descriptor.map_err(|error| Error::io("copying a socket", error))?;
        Ok(Spare { descriptor, taken })
    }

    /// Where clients reach it, as Bazel spells it.
    pub fn url(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("grpc://{}", reachable(address)),
                Err(_) => "grpc://?".to_owned(),
            },
            Socket::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// Counts what goes over its connections.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
}

/// A listener's socket, for another process.
pub struct Spare {
    descriptor: OwnedFd,
    taken: Arc<AtomicBool>,
}

impl Spare {
    /// The descriptor that is to be given away.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Another process has it: the end of this listener no longer removes the socket's file.
    pub fn taken(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }
}

/// An address that a client on this machine can dial.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Removes a socket that nobody serves any more. A file that is no socket is not ours to remove.
async fn make_room(path: &Path) -> io::Result<()> {
    match tokio::fs::symlink_metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        other => other?,
    };
    let dead = tokio::net::UnixStream::connect(path).await;
    if dead.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        tokio::fs::remove_file(path).await?;
    }
    Ok(())
}

/// Serves `router` until `stop` is done, then lets open calls end.
pub async fn serve(listener: Listener, router: Router, stop: impl Future<Output = ()>) {
    let Listener { socket, traffic } = listener;
    let graceful = GracefulShutdown::new();
    let (closing, open, told) = (CancellationToken::new(), Arc::new(()), Told::default());
    let server = Server { router, traffic, graceful, closing, open, told };
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = server.accept(&socket) => {}
            () = &mut stop => break,
        }
    }
    let Server { graceful, closing, .. } = server;
    drop(socket);
    closing.cancel();
    graceful.shutdown().await;
}

struct Server {
    router: Router,
    traffic: Traffic,
    graceful: GracefulShutdown,
    /// Nothing new is begun.
    closing: CancellationToken,
    /// One for each connection that is open.
    open: Arc<()>,
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
                Ok((stream, _)) => self.spawn(async { Some(stream) }),
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
            let peeked = tokio::select! {
                peeked = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)) => peeked,
                () = closing.cancelled() => return None,
            };
            match peeked {
                Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
                    if told.is_news(peer.ip(), Instant::now()) {
                        tell_of_tls(peer);
                    }
                    refuse_tls(stream).await;
                    None
                }
                Ok(Ok(1)) => Some(stream),
                _ => None,
            }
        });
    }

    fn spawn<S>(&self, stream: impl Future<Output = Option<S>> + Send + 'static)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, watcher) = (self.router.clone(), self.graceful.watcher());
        let (traffic, open) = (self.traffic.clone(), self.open.clone());
        tokio::spawn(async move {
            let Some(stream) = stream.await else { return };
            let connection = builder(window(Arc::strong_count(&open) - 1))
                .serve_connection(TokioIo::new(traffic.count(stream)), TowerToHyperService::new(router))
                .into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
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

    #[tokio::test]
    async fn only_dead_sockets_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::Unix(path.clone());
        let living = Listener::bind(&address).await.unwrap();
        let error = Listener::bind(&address).await.err().unwrap().to_string();
        assert!(error.contains("in use") && error.contains("Hint: something else listens there"), "{error}");
        drop(living);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Listener::bind(&address).await.unwrap());
        std::fs::write(&path, "kept").unwrap();
        let error = Listener::bind(&address).await.err().unwrap().to_string();
        assert!(error.ends_with("the path exists and is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:8980", Some(Address::Tcp("127.0.0.1:8980".into()))),
            ("grpc://[::1]:0", Some(Address::Tcp("[::1]:0".into()))),
            ("unix:/run/mortar.sock", Some(Address::Unix("/run/mortar.sock".into()))),
            ("unix:", None),
            ("8980", None),
            (":8980", None),
            ("localhost:port", None),
            ("localhost:99999", None),
        ] {
            assert_eq!(text.parse::<Address>().ok(), expected, "{text}");
        }
    }
}
