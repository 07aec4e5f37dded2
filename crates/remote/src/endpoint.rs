//! Where a server is and how to talk to it: addresses, options, and the connections made of them.

use crate::{
    Remote, Retry, Tls,
    credentials::Wallet,
    tls::{self, HTTP_2},
};
use http::{Uri, uri::Authority};
use hyper_util::rt::TokioIo;
use mortar_model::{Error, Result};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};
use tokio::net::UnixStream;
use tonic::transport::Channel;

/// The address of a server: `grpc://HOST:PORT`, `grpcs://HOST:PORT` (with TLS) or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(Authority),
    Tls(Authority),
    Unix(PathBuf),
}

/// How to talk to a server. The defaults suit a server nearby.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most. The second is made only when the first has a call under way.
    pub connections: usize,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a call with one answer may take.
    pub call_timeout: Duration,
    /// How long a stream that is read may bring nothing.
    pub idle_timeout: Duration,
    /// While calls are under way and nothing comes, the server is asked for a sign of life this often; a connection
    /// without one is given up. Servers built on gRPC's C core close connections that ask more often than they like.
    pub keep_alive: Option<Duration>,
    /// Blobs up to this many bytes travel in batches, larger ones as streams.
    pub small_blob: u64,
    /// Bytes of content in one message of an upload.
    pub chunk: usize,
    /// Blobs travel as zstd where the server says that it takes and gives that. Worth it on networks, not within a machine.
    pub compression: bool,
    /// Output files of up to so many bytes are to come with a result that is looked up; servers of ours do that.
    pub small_outputs: Option<u64>,
    /// What is done about failures that may pass.
    pub retry: Retry,
    /// How TLS is spoken to a `grpcs` address.
    pub tls: Tls,
    /// Who we are. Without it, calls carry no credentials.
    pub credentials: Option<Wallet>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 2,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            keep_alive: Some(Duration::from_secs(30)),
            small_blob: 64 << 10,
            chunk: 1 << 20,
            compression: false,
            small_outputs: None,
            retry: Retry::default(),
            tls: Tls::default(),
            credentials: None,
        }
    }
}

impl Endpoint {
    /// The server at `uri`. Nothing is sent yet, and it need not be there yet. Must be called inside a tokio runtime.
    pub fn connect(uri: &str, options: Options) -> Result<Remote> {
        let endpoint: Self = uri.parse()?;
        if let Address::Tls(_) = &endpoint.0 {
            // What is wrong with the files is told now, and not with the first call.
            options.tls.config(HTTP_2)?;
        }
        endpoint.warn_of_plain_credentials(&options);
        Ok(Remote::new(endpoint, options))
    }

    /// The server as credentials know it: scheme, host and port.
    pub fn origin(&self) -> Uri {
        let (scheme, authority) = match &self.0 {
            Address::Tcp(authority) => ("http", authority.as_str()),
            Address::Tls(authority) => ("https", authority.as_str()),
            Address::Unix(_) => ("http", "localhost"),
        };
        let origin = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
        origin.expect("an authority that was parsed makes a URI")
    }

    fn warn_of_plain_credentials(&self, options: &Options) {
        if matches!(self.0, Address::Tcp(_))
            && options.credentials.is_some()
            && !tls::is_loopback(&self.origin())
        {
            tracing::warn!("credentials for `{self}` are sent without TLS; anybody on the way can read them");
        }
    }

    /// One connection of its own, made when the first call needs it and again after it broke. Calls over it carry no
    /// credentials; those of a [`Remote`] do.
    pub fn channel(&self, options: &Options) -> Channel {
        match &self.0 {
            Address::Tcp(authority) => tuned("http", authority.as_str(), options).connect_lazy(),
            Address::Tls(authority) => {
                let (tls, origin) = (options.tls.clone(), self.origin());
                let connector = tower::service_fn(move |_: Uri| {
                    let (tls, origin) = (tls.clone(), origin.clone());
                    async move { tls::dial(&origin, &tls, HTTP_2).await.map(TokioIo::new) }
                });
                tuned("https", authority.as_str(), options).connect_with_connector_lazy(connector)
            }
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                tuned("http", "localhost", options).connect_with_connector_lazy(connector)
            }
        }
    }
}

fn tuned(scheme: &str, authority: &str, options: &Options) -> tonic::transport::Endpoint {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("{scheme}://{authority}"))
        .expect("an authority that was parsed makes a URI");
    let endpoint = endpoint
        .user_agent(concat!("mortar/", env!("CARGO_PKG_VERSION")))
        .expect("a version is a header value")
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_frame_size(1 << 20);
    match options.keep_alive {
        Some(interval) => endpoint
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(false),
        None => endpoint,
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let message = format!(
                "server address `{uri}` {why}; expected `grpc://HOST:PORT`, `grpcs://HOST:PORT` or `unix:PATH`"
            );
            Err(Error::invalid("uri", message))
        };
        if let Some(path) = uri.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                refuse("names no socket")
            } else {
                Ok(Self(Address::Unix(path.into())))
            };
        }
        let (rest, kind): (_, fn(Authority) -> Address) = match uri.split_once("://") {
            Some(("grpc", rest)) => (rest, Address::Tcp),
            Some(("grpcs", rest)) => (rest, Address::Tls),
            _ => return refuse("is of a kind that is not spoken here"),
        };
        match rest.trim_end_matches('/').parse::<Authority>() {
            Ok(authority) if authority.port_u16().is_none() => refuse("has no port"),
            Ok(authority) if authority.as_str().contains('@') || authority.host().is_empty() => {
                refuse("has no plain host name")
            }
            Ok(authority) => Ok(Self(kind(authority))),
            Err(_) => refuse("is malformed"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Tcp(authority) => write!(f, "grpc://{authority}"),
            Address::Tls(authority) => write!(f, "grpcs://{authority}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (uri, shown) in [
            ("grpc://localhost:8980", "grpc://localhost:8980"),
            ("grpc://127.0.0.1:1/", "grpc://127.0.0.1:1"),
            ("grpc://[::1]:8980", "grpc://[::1]:8980"),
            ("grpcs://cache.example.com:443/", "grpcs://cache.example.com:443"),
            ("unix:/run/mortar.sock", "unix:/run/mortar.sock"),
            ("unix:///run/mortar.sock", "unix:/run/mortar.sock"),
            ("unix:relative.sock", "unix:relative.sock"),
        ] {
            assert_eq!(uri.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for (uri, needle) in [
            ("", "not spoken"),
            ("http://localhost:80", "not spoken"),
            ("grpcs://localhost", "no port"),
            ("localhost:8980", "not spoken"),
            ("grpc://localhost", "no port"),
            ("grpc://", "malformed"),
            ("grpc://user@host:1", "plain host"),
            ("grpc://host:1/instance", "malformed"),
            ("grpc://host:99999", "no port"),
            ("unix:", "no socket"),
        ] {
            let error = uri.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(needle), "{uri}: {error}");
        }
    }
}
