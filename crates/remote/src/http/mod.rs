//! The ports over Bazel's HTTP cache: a server, or a mere web server that takes PUT, as
//! [`BlobStore`](mortar_model::BlobStore) and [`ActionCache`](mortar_model::ActionCache).
//!
//! HTTP/2 where the origin has it (by ALPN under TLS, else by prior knowledge, tried once and without a request in it),
//! HTTP/1.1 otherwise. Such a cache checks nothing: what is written is checked on its way, what is read is checked against
//! its digest, and a blob of another size counts as missing. What cannot be said in HTTP is said in more calls
//! (`presence.rs`) or not at all: uploads do not resume, and SHA-256 is the only digest function, since a path does not
//! tell another.
//!
//! The way of a call: `blobs.rs` or `results.rs` → `exchange.rs` → `connections.rs` → `dial.rs`.

mod address;
mod blobs;
mod connections;
mod dial;
mod download;
mod exchange;
mod presence;
mod protocol;
mod results;
mod status;

pub use address::HttpAddress;
pub use protocol::Protocol;

use crate::{Options, Retry, tls::HTTP_1};
use connections::Connections;
use mortar_model::{Context, DigestFunction, Error, Kind, Result};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// How to talk to an HTTP cache.
#[derive(Clone)]
pub struct HttpOptions {
    /// Connections at most, where the origin speaks HTTP/1.1. Over HTTP/2 there are two.
    pub connections: usize,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long nothing may come or go.
    pub idle_timeout: Duration,
    /// Blobs that are asked for at the same time when it is asked which are missing.
    pub lookups: usize,
    /// Whole blobs are asked for as zstd, which a server may then send.
    pub compression: bool,
    /// What the origin spoke when it was last talked to, as [`HttpUpstream::protocol`] told then: saves the trial.
    pub protocol: Option<Protocol>,
    /// How `https` is made safe; by what the machine trusts where absent. The protocols that it offers are set here.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What is done about failures that may pass.
    pub retry: Retry,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connections: 32,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            lookups: 64,
            compression: false,
            protocol: None,
            tls: None,
            retry: Retry::default(),
        }
    }
}

/// An HTTP cache elsewhere. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct HttpUpstream(Arc<Inner>);

struct Inner {
    address: HttpAddress,
    options: HttpOptions,
    connections: Arc<Connections>,
    /// The server knows no HEAD.
    headless: AtomicBool,
}

impl HttpUpstream {
    /// The cache at `address`. Nothing is sent yet, and it need not be there yet.
    pub fn new(address: HttpAddress, options: HttpOptions) -> Self {
        let connections = Connections::new(&address, &options);
        Self(Arc::new(Inner { address, options, connections, headless: AtomicBool::new(false) }))
    }

    /// The cache at `uri`, talked to as a server of gRPC would be. `protocol` is what it spoke the last time.
    pub fn connect(uri: &str, options: &Options, protocol: Option<Protocol>) -> Result<Self> {
        let address: HttpAddress = uri.parse()?;
        let tls = match address.is_tls() {
            true if options.tls.server_name.is_some() => {
                let message = "the certificate of an HTTP cache must be for the name of its address";
                return Err(Error::invalid("server_name", message));
            }
            true => Some(Arc::new(options.tls.config(HTTP_1)?)),
            false => None,
        };
        let options = HttpOptions {
            connect_timeout: options.connect_timeout,
            idle_timeout: options.idle_timeout,
            compression: options.compression,
            retry: options.retry.clone(),
            protocol,
            tls,
            ..HttpOptions::default()
        };
        Ok(Self::new(address, options))
    }

    /// Where it is.
    pub fn address(&self) -> &HttpAddress {
        &self.0.address
    }

    /// Whether it can be reached at all.
    pub(crate) async fn reach(&self, context: &Context) -> Result<()> {
        self.0.reach(context).await
    }

    /// What the origin speaks, once that is known; to be kept and given back in [`HttpOptions::protocol`].
    pub fn protocol(&self) -> Option<Protocol> {
        self.0.connections.protocol()
    }
}

impl fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpUpstream").field(&self.0.address).finish()
    }
}

/// Whether blobs and actions of this function can be told by a path.
fn check_function(function: DigestFunction) -> Result<()> {
    match function {
        DigestFunction::Sha256 => Ok(()),
        DigestFunction::Blake3 => {
            let message = format!("an HTTP cache knows digests of sha256 alone; got one of {function}");
            Err(Error::new(Kind::Unimplemented { message }))
        }
    }
}
