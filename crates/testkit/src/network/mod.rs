//! A network that is slow or breaks, on one machine: a TCP relay on loopback with latency, a rate, loss, resets, black
//! holes and flaps, changed while it runs by calls or by a [`Script`], and repeatable by its seed.
//!
//! [`Relay`] owns a thread with a runtime of its own, so that tests with and without a runtime use it alike. `link` says
//! what the network is like, `path` carries one connection over it, `shaper` shares the rate among connections,
//! `driver` carries out scripts and flaps, `calls` counts those of gRPC, `units` reads what people write.
//!
//! A relay ends TCP on both sides, so it shows what an application sees of a bad network and no more: what is lost comes
//! later, nothing is ever lost for good, and the system accepts a connection even where the relay is a black hole.

mod calls;
mod counters;
mod driver;
mod link;
mod path;
mod script;
mod shaper;
mod units;

pub use counters::Counts;
pub use link::{Flaps, Link, State};
pub use script::{Change, Script, Trigger};
pub use units::{duration, rate, size};

use anyhow::{Context, Result};
use driver::Shared;
use std::{net::SocketAddr, sync::Arc, thread::JoinHandle};
use tokio::{net::TcpListener, sync::oneshot};

/// A way to a server that is as bad as its [`Link`]. Gone, with all its connections, when it is dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a relay is made of, beside its link.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What changes when.
    pub script: Script,
    /// The same seed loses the same packets of the same connections.
    pub seed: u64,
    /// The port to listen on; 0 for any.
    pub port: u16,
}

impl Relay {
    /// A relay to `upstream` (`HOST:PORT`), which need not be there yet.
    pub fn start(upstream: &str, link: Link) -> Result<Self> {
        Self::start_with(upstream, link, Plan::default())
    }

    /// A relay with a script, a seed or a port of its own.
    pub fn start_with(upstream: &str, link: Link, plan: Plan) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", plan.port))
            .with_context(|| format!("listening on 127.0.0.1:{}", plan.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared::new(upstream.to_owned(), link, plan));
        let (stop, stopped) = oneshot::channel();
        let at_work = shared.clone();
        let thread = std::thread::Builder::new().name("bad-network".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, &at_work) => {}
                    () = driver::drive(&at_work) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the network is like now, apart from what flaps make of it.
    pub fn link(&self) -> Link {
        self.shared.link()
    }

    /// Makes the network another. What is on its way already still arrives as it would have.
    pub fn set(&self, link: Link) {
        self.shared.change(|current| *current = link);
    }

    /// Changes the network in part.
    pub fn change(&self, change: impl FnOnce(&mut Link)) {
        self.shared.change(change);
    }

    /// Resets all connections that there are; new ones are served.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Lets all connections that there are stay open and carry nothing any more, not even their end, as when a router
    /// has forgotten them; new ones are served.
    pub fn strand(&self) {
        self.shared.strand();
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and a test that needs the relay fails by itself.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("the listener does not block");
    let mut connections = tokio::task::JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is one of a client that went away before it was accepted.
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(path::carry(client, number, shared.clone()));
                number += 1;
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
