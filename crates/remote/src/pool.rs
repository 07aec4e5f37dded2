//! A few connections to one server. A call takes the one with the fewest calls under way, the first among equals, so
//! that callers who ask one thing after another need a single connection, and busy ones spread over all.

use crate::{
    Endpoint, Options,
    credentials::{Attached, Authorized},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

pub(crate) struct Pool {
    connections: Vec<Connection>,
}

struct Connection {
    channel: Authorized,
    calls: Arc<AtomicUsize>,
}

impl Pool {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Self {
        let origin = endpoint.origin();
        let attached =
            options.credentials.as_ref().map_or_else(Attached::none, |wallet| wallet.attached(&origin));
        let connection = |_| Connection {
            channel: Authorized::new(endpoint.channel(options), origin.clone(), attached.clone()),
            calls: Arc::default(),
        };
        Self { connections: (0..options.connections.max(1)).map(connection).collect() }
    }

    /// A connection for one call, which holds this for as long as it lasts.
    pub(crate) fn lease(&self) -> Lease {
        let idlest =
            self.connections.iter().min_by_key(|connection| connection.calls.load(Ordering::Relaxed));
        let Connection { channel, calls } = idlest.expect("there is at least one connection");
        calls.fetch_add(1, Ordering::Relaxed);
        Lease { channel: channel.clone(), calls: calls.clone() }
    }
}

/// A share in a connection.
pub(crate) struct Lease {
    channel: Authorized,
    calls: Arc<AtomicUsize>,
}

impl Lease {
    pub(crate) fn channel(&self) -> Authorized {
        self.channel.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
