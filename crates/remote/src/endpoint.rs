//! Where a server is and how to talk to it: addresses, options, and the connections made of them.

use crate::{Remote, Retry};
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use mortar_model::{Error, Result};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};
use tokio::net::UnixStream;
use tonic::transport::Channel;

/// The address of a server: `grpc://HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(Authority),
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
    /// What is done about failures that may pass.
    pub retry: Retry,
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
            retry: Retry::default(),
        }
    }
}

impl Endpoint {
    /// The server at `uri`. Nothing is sent yet, and it need not be there yet. Must be called inside a tokio runtime.
    pub fn connect(uri: &str, options: Options) -> Result<Remote> {
        Ok(Remote::new(uri.parse()?, options))
    }

    /// One connection of its own, made when the first call needs it and again after it broke.
    pub fn channel(&self, options: &Options) -> Channel {
        match &self.0 {
            Address::Tcp(authority) => tuned(authority.as_str(), options).connect_lazy(),
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: http::Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                tuned("localhost", options).connect_with_connector_lazy(connector)
            }
        }
    }
}

fn tuned(authority: &str, options: &Options) -> tonic::transport::Endpoint {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
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
            let message = format!("server address `{uri}` {why}; expected `grpc://HOST:PORT` or `unix:PATH`");
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
        let Some(rest) = uri.strip_prefix("grpc://") else {
            return refuse("is of a kind that is not spoken here");
        };
        match rest.trim_end_matches('/').parse::<Authority>() {
            Ok(authority) if authority.port_u16().is_none() => refuse("has no port"),
            Ok(authority) if authority.as_str().contains('@') || authority.host().is_empty() => {
                refuse("has no plain host name")
            }
            Ok(authority) => Ok(Self(Address::Tcp(authority))),
            Err(_) => refuse("is malformed"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Tcp(authority) => write!(f, "grpc://{authority}"),
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
            ("unix:/run/mortar.sock", "unix:/run/mortar.sock"),
            ("unix:///run/mortar.sock", "unix:/run/mortar.sock"),
            ("unix:relative.sock", "unix:relative.sock"),
        ] {
            assert_eq!(uri.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for (uri, needle) in [
            ("", "not spoken"),
            ("http://localhost:80", "not spoken"),
            ("grpcs://localhost:80", "not spoken"),
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
