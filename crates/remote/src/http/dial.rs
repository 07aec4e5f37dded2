//! Makes connections to an origin: TCP, TLS where the address asks for it, and the handshake of the version of HTTP that
//! the origin speaks.

use super::{HttpAddress, HttpOptions, Protocol, protocol::Watched};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mortar_model::{Error, Kind, Result};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long an origin that is not known may take to open with HTTP/2. One that takes longer is spoken to in 1.1.
const PATIENCE: Duration = Duration::from_secs(2);

/// The body of a request.
pub(super) type Outgoing = UnsyncBoxBody<Bytes, Error>;

/// A connection that is ready for requests.
pub(super) enum Connection {
    One(http1::SendRequest<Outgoing>),
    Many(http2::SendRequest<Outgoing>),
}

/// Makes connections to one origin.
pub(super) struct Dialer {
    address: HttpAddress,
    connect_timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
    /// Made of the machine's own certificates when the first connection needs it.
    own_tls: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    pub(super) fn new(address: &HttpAddress, options: &HttpOptions) -> Self {
        let tls = options.tls.as_ref().map(with_protocols);
        Self {
            address: address.clone(),
            connect_timeout: options.connect_timeout,
            tls,
            own_tls: OnceLock::new(),
        }
    }

    /// A new connection. `known` is what the origin spoke last.
    pub(super) async fn dial(&self, known: Option<Protocol>) -> Result<Connection> {
        match tokio::time::timeout(self.connect_timeout, self.dial_slowly(known)).await {
            Ok(connection) => connection.map_err(|error| self.unreachable(&error)),
            Err(_) => {
                let text = format!("no connection within {} ms", self.connect_timeout.as_millis());
                Err(self.unreachable(&io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }

    async fn dial_slowly(&self, known: Option<Protocol>) -> io::Result<Connection> {
        if self.address.is_tls() {
            let stream = self.connector()?.connect(self.server_name()?, self.connect().await?).await?;
            return match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => many(stream).await,
                _ => one(stream).await,
            };
        }
        if known != Some(Protocol::Http1)
            && let Some(connection) = self.prior_knowledge(known).await?
        {
            return Ok(connection);
        }
        one(self.connect().await?).await
    }

    /// A connection of HTTP/2 without TLS, if the origin answers in it.
    async fn prior_knowledge(&self, known: Option<Protocol>) -> io::Result<Option<Connection>> {
        let (stream, verdict) = Watched::new(self.connect().await?);
        let patience = if known.is_some() { self.connect_timeout } else { PATIENCE };
        // Where it is none, dropping the connection's only handle ends it.
        let Ok(connection) = many(stream).await else { return Ok(None) };
        let verdict = tokio::time::timeout(patience, verdict).await;
        Ok(matches!(verdict, Ok(Ok(true))).then_some(connection))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.address.host(), self.address.port())).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn connector(&self) -> io::Result<TlsConnector> {
        if let Some(config) = self.tls.as_ref().or_else(|| self.own_tls.get()) {
            return Ok(config.clone().into());
        }
        let config = native_tls()?;
        Ok(self.own_tls.get_or_init(|| config).clone().into())
    }

    fn server_name(&self) -> io::Result<ServerName<'static>> {
        let name = ServerName::try_from(self.address.host().to_owned());
        name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let message = format!("the cache at `{}` cannot be reached: {error}", self.address);
        Error::new(Kind::Unavailable { message, retry_after: None })
    }
}

/// Trusts what the machine trusts.
fn native_tls() -> io::Result<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        return Err(io::Error::other("this machine has no certificates of authorities to trust"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(with_protocols(&Arc::new(config)))
}

/// Offers both versions of HTTP.
fn with_protocols(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn one(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Connection> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of HTTP/1.1 ended");
        }
    });
    Ok(Connection::One(sender))
}

async fn many(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Connection> {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_frame_size(1 << 20)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of HTTP/2 ended");
        }
    });
    Ok(Connection::Many(sender))
}
