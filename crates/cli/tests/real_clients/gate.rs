//! A gate before a server of gRPC: it knows each call by its method, does something when the first one of a kind comes,
//! and turns everybody away, as a server does that does not know its clients, when it is told to.

use anyhow::Result;
use axum::{body::Body, extract::Request, response::Response};
use mortar_services::listener::{self, Listener};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::runtime::Runtime;
use tonic::{Status, transport::Channel};
use tower::ServiceExt;

/// A gate, for as long as this lives.
pub struct Gate {
    address: String,
    guard: Arc<Guard>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Guard {
    shut: AtomicBool,
    awaited: Mutex<Option<Awaited>>,
}

/// What is done at the first call of one of these methods.
struct Awaited {
    methods: &'static [&'static str],
    act: Box<dyn FnOnce() + Send>,
}

impl Gate {
    /// A gate before the server at `http://HOST:PORT`.
    pub fn before(server: &str) -> Result<Gate> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let guard = Arc::new(Guard::default());
        let address = runtime.block_on(serve(server, guard.clone()))?;
        Ok(Gate { address, guard, _runtime: runtime })
    }

    /// `HOST:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Once, when the first call of one of these methods comes: before it is passed on.
    pub fn at_first(&self, methods: &'static [&'static str], act: impl FnOnce() + Send + 'static) {
        *self.guard.awaited.lock() = Some(Awaited { methods, act: Box::new(act) });
    }

    /// Whether such a call is still awaited.
    pub fn awaits(&self) -> bool {
        self.guard.awaited.lock().is_some()
    }

    /// Turns away all calls from now on, or none.
    pub fn shut(&self, shut: bool) {
        self.guard.shut.store(shut, Ordering::SeqCst);
    }

    /// The same from elsewhere.
    pub fn shutter(&self) -> impl Fn(bool) + Send + 'static {
        let guard = self.guard.clone();
        move |shut| guard.shut.store(shut, Ordering::SeqCst)
    }
}

impl Guard {
    fn admit(&self, method: &str) -> Result<(), Status> {
        let is_awaited = |awaited: &mut Awaited| awaited.methods.contains(&method);
        let awaited = self.awaited.lock().take_if(is_awaited);
        if let Some(Awaited { act, .. }) = awaited {
            act();
        }
        match self.shut.load(Ordering::SeqCst) {
            true => Err(Status::unauthenticated("who are you?")),
            false => Ok(()),
        }
    }
}

async fn serve(server: &str, guard: Arc<Guard>) -> Result<String> {
    let channel = Channel::from_shared(server.to_owned())?.connect_lazy();
    let gate = move |request: Request| pass(request, channel.clone(), guard.clone());
    let listener = Listener::bind(&"127.0.0.1:0".parse()?).await?;
    let address = listener.url().trim_start_matches("grpc://").to_owned();
    tokio::spawn(listener::serve(listener, axum::Router::new().fallback(gate), std::future::pending()));
    Ok(address)
}

async fn pass(request: Request, mut channel: Channel, guard: Arc<Guard>) -> Response {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    if let Err(status) = guard.admit(method) {
        return status.into_http();
    }
    let answer = async {
        channel.ready().await?;
        tower::Service::call(&mut channel, request.map(tonic::body::Body::new)).await
    };
    match answer.await {
        Ok(answer) => answer.map(Body::new),
        Err(error) => Status::unavailable(error.to_string()).into_http(),
    }
}
