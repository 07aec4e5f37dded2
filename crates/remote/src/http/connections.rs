//! The connections to one origin: at most two that carry many requests each where it speaks HTTP/2, a bounded pool of
//! such that carry one at a time where it does not.
//!
//! Who takes a connection of HTTP/1.1 holds it until the answer is read to its end; others wait for one within bounds,
//! since whoever reads an answer may itself be waiting for them.

use super::{
    HttpAddress, HttpOptions, Protocol,
    dial::{Connection, Dialer, Outgoing},
};
use hyper::client::conn::{http1, http2};
use mortar_model::{Error, Kind, Result};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of HTTP/2.
const SHARED: usize = 2;
/// With so many requests under way, a connection of HTTP/2 gets a second one beside it.
const BUSY: usize = 50;
/// A connection of HTTP/1.1 that nobody used for so long is not used again: servers and what stands before them close
/// such without a word.
const STALE: Duration = Duration::from_secs(50);

pub(super) struct Connections {
    dialer: Dialer,
    state: Mutex<State>,
    /// Held by who finds out what the origin speaks, or makes a shared connection: others would only make the same.
    dialing: tokio::sync::Mutex<()>,
    permits: Arc<Semaphore>,
    /// How long a connection may be waited for.
    wait: Duration,
    address: HttpAddress,
}

#[derive(Default)]
struct State {
    protocol: Option<Protocol>,
    /// Something was answered in that protocol.
    proven: bool,
    shared: Vec<Shared>,
    idle: Vec<(http1::SendRequest<Outgoing>, Instant)>,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Outgoing>,
    calls: Arc<AtomicUsize>,
}

/// A connection for one request.
pub(super) enum Lease {
    One(Alone),
    Many(Share),
}

/// A connection that carries nothing else meanwhile.
pub(super) struct Alone {
    pub(super) sender: http1::SendRequest<Outgoing>,
    /// It has served before, and may have died since.
    pub(super) was_used: bool,
    home: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
}

/// A share in a connection.
pub(super) struct Share {
    pub(super) sender: http2::SendRequest<Outgoing>,
    calls: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Alone {
    /// Gives the connection back; the answer was read to its end.
    pub(super) fn give_back(self) {
        if !self.sender.is_closed() {
            self.home.state.lock().idle.push((self.sender, Instant::now()));
        }
    }
}

impl Connections {
    pub(super) fn new(address: &HttpAddress, options: &HttpOptions) -> Arc<Self> {
        Arc::new(Self {
            dialer: Dialer::new(address, options),
            state: Mutex::new(State { protocol: options.protocol, ..State::default() }),
            dialing: tokio::sync::Mutex::default(),
            permits: Arc::new(Semaphore::new(options.connections.max(1))),
            wait: options.idle_timeout,
            address: address.clone(),
        })
    }

    /// What the origin speaks, once that is known.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        self.state.lock().protocol
    }

    /// An answer came.
    pub(super) fn answered(&self) {
        self.state.lock().proven = true;
    }

    /// A request got no answer. What the origin speaks is found out anew if it was never seen to speak it.
    pub(super) fn failed(&self) {
        let mut state = self.state.lock();
        if !state.proven {
            state.protocol = None;
        }
    }

    /// A connection for one request.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease> {
        loop {
            if let Some(share) = self.share().await {
                return Ok(Lease::Many(share));
            }
            if self.protocol() == Some(Protocol::Http1) {
                return self.alone().await.map(Lease::One);
            }
            let _turn = self.dialing.lock().await;
            if self.protocol() != Some(Protocol::Http1) && self.idlest().is_none() {
                self.dial().await?;
            }
        }
    }

    /// A share in the shared connection with the fewest requests; makes another one if all are busy.
    async fn share(&self) -> Option<Share> {
        let (share, busy, count) = self.idlest()?;
        if busy && count < SHARED {
            // Whoever else comes meanwhile makes do with what there is.
            if let Ok(_turn) = self.dialing.try_lock()
                && self.dial().await.is_ok()
            {
                drop(share);
                return self.idlest().map(|(share, ..)| share);
            }
        }
        Some(share)
    }

    /// The share, whether its connection is busy, and how many there are.
    fn idlest(&self) -> Option<(Share, bool, usize)> {
        let mut state = self.state.lock();
        state.shared.retain(|shared| !shared.sender.is_closed());
        let count = state.shared.len();
        let idlest = state.shared.iter().min_by_key(|shared| shared.calls.load(Ordering::Relaxed))?;
        let Shared { sender, calls } = idlest.clone();
        let busy = calls.fetch_add(1, Ordering::Relaxed) >= BUSY;
        Some((Share { sender, calls }, busy, count))
    }

    /// Makes a connection while nobody else does, and enters it.
    async fn dial(&self) -> Result<()> {
        let known = self.protocol();
        let connection = self.dialer.dial(known).await?;
        let mut state = self.state.lock();
        let spoken = match connection {
            Connection::One(sender) => {
                state.idle.push((sender, Instant::now()));
                Protocol::Http1
            }
            Connection::Many(sender) => {
                state.shared.push(Shared { sender, calls: Arc::default() });
                Protocol::Http2
            }
        };
        if known != Some(spoken) {
            tracing::debug!(origin = %self.address, protocol = %spoken, "what the origin speaks is known");
            (state.protocol, state.proven) = (Some(spoken), spoken == Protocol::Http2);
        }
        Ok(())
    }

    /// A connection of HTTP/1.1: one that was used before, or a new one.
    async fn alone(self: &Arc<Self>) -> Result<Alone> {
        let permit = tokio::time::timeout(self.wait, self.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| self.busy())?.expect("the semaphore is never closed");
        loop {
            let idle = self.state.lock().idle.pop();
            let Some((mut sender, since)) = idle else { break };
            if since.elapsed() < STALE && sender.ready().await.is_ok() {
                return Ok(Alone { sender, was_used: true, home: self.clone(), _permit: permit });
            }
        }
        match self.dialer.dial(Some(Protocol::Http1)).await? {
            Connection::One(sender) => {
                Ok(Alone { sender, was_used: false, home: self.clone(), _permit: permit })
            }
            // Over TLS, an origin may have learned HTTP/2 since.
            Connection::Many(sender) => {
                let mut state = self.state.lock();
                (state.protocol, state.proven) = (Some(Protocol::Http2), true);
                state.shared.push(Shared { sender, calls: Arc::default() });
                let message = format!("the cache at `{}` has changed to HTTP/2", self.address);
                Err(Error::new(Kind::Aborted { message }))
            }
        }
    }

    fn busy(&self) -> Error {
        let (address, wait) = (&self.address, self.wait.as_secs_f64());
        let message = format!("all connections to the cache at `{address}` were busy for {wait:.1} s");
        Error::new(Kind::Unavailable { message, retry_after: None })
    }
}
