//! Calls with credentials that expire and are refused.

use super::{super::fake::*, endpoint::Endpoint};
use async_trait::async_trait;
use mortar_model::{ActionCache, ActionKey, BlobStore, DigestSet, ExecuteRequest, Executor, Kind, Result};
use mortar_remote::{
    Endpoint as Server, Options, Remote,
    credentials::{ClientCredentials, Credentials, Grant, Proof, Provider, Secret, StaticHeaders, Wallet},
};
use mortar_wire::{
    bytestream::byte_stream_server::ByteStreamServer,
    longrunning::Operation,
    reapi::{
        action_cache_server::ActionCacheServer,
        content_addressable_storage_server::ContentAddressableStorageServer,
        execution_server::ExecutionServer,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status, service::InterceptorLayer};

/// Who may in, by the value of the `authorization` header, and what came.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<Book>>);

#[derive(Default)]
pub struct Book {
    /// Until when.
    valid: HashMap<String, Option<Instant>>,
    pub let_in: HashSet<String>,
    pub refused: u64,
}

impl Gate {
    pub fn allow(&self, token: &str, life: Option<Duration>) {
        let until = life.map(|life| Instant::now() + life);
        self.0.lock().valid.insert(format!("Bearer {token}"), until);
    }

    fn revoke(&self, token: &str) {
        self.0.lock().valid.remove(&format!("Bearer {token}"));
    }

    fn refused(&self) -> u64 {
        self.0.lock().refused
    }

    fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut book = self.0.lock();
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let token = token.unwrap_or_default();
        let is_valid = match book.valid.get(&token) {
            Some(Some(until)) => Instant::now() < *until,
            Some(None) => true,
            None => false,
        };
        if is_valid {
            book.let_in.insert(token);
            Ok(request)
        } else {
            book.refused += 1;
            Err(Status::unauthenticated("not with that"))
        }
    }

    /// A server behind this gate.
    pub async fn serve(&self, fake: &Fake) -> String {
        let gate = self.clone();
        let layer = InterceptorLayer::new(move |request| gate.check(request));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("grpc://{}", listener.local_addr().unwrap());
        let router = tonic::transport::Server::builder()
            .layer(layer)
            .add_service(ActionCacheServer::new(fake.clone()))
            .add_service(ContentAddressableStorageServer::new(fake.clone()))
            .add_service(ByteStreamServer::new(fake.clone()))
            .add_service(ExecutionServer::new(fake.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        uri
    }
}

/// Gives `t0`, `t1` and so on, which the gate lets in if told to.
#[derive(Clone)]
struct Numbered {
    gate: Gate,
    given: Arc<AtomicU64>,
    are_good: bool,
}

impl std::fmt::Debug for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbered")
    }
}

impl Numbered {
    fn new(gate: &Gate, are_good: bool) -> Self {
        Self { gate: gate.clone(), given: Arc::default(), are_good }
    }

    fn given(&self) -> u64 {
        self.given.load(Relaxed)
    }
}

#[async_trait]
impl Credentials for Numbered {
    fn name(&self) -> String {
        "numbers".into()
    }

    async fn grant(&self, _: &http::Uri) -> Result<Grant> {
        let token = format!("t{}", self.given.fetch_add(1, Relaxed));
        if self.are_good {
            self.gate.allow(&token, None);
        }
        let mut value: http::HeaderValue = format!("Bearer {token}").parse().unwrap();
        value.set_sensitive(true);
        let headers = [(http::header::AUTHORIZATION, value)].into_iter().collect();
        Ok(Grant { proof: Proof::Headers(headers), expires: None, look_again: None })
    }
}

fn connect(uri: &str, credentials: impl Credentials) -> Remote {
    let options = Options { credentials: Some(Wallet::of(credentials)), chunk: 256 << 10, ..options() };
    Server::connect(uri, options).unwrap()
}

/// Tokens of an OAuth provider live for one second; calls go on for as long as ten of them expire.
#[tokio::test(flavor = "multi_thread")]
async fn ten_expiries_under_load_reach_no_caller() {
    const EXPIRIES: usize = 10;
    const LIFE: Duration = Duration::from_secs(1);
    let gate = Gate::default();
    let (given, issuing) = (Arc::new(AtomicU64::new(0)), gate.clone());
    let provider = Endpoint::serve(move |_| {
        let token = format!("token-{}", given.fetch_add(1, Relaxed));
        issuing.allow(&token, Some(LIFE));
        (200, format!(r#"{{"access_token": "{token}", "token_type": "Bearer", "expires_in": 1}}"#))
    })
    .await;
    let uri = gate.serve(&Fake::default()).await;
    let source = ClientCredentials {
        provider: Provider::Endpoints { token: format!("{}/token", provider.base), device: None },
        client_id: "ci".into(),
        client_secret: Secret::new("hush"),
        scopes: vec![],
        audience: None,
        tls: Default::default(),
    };
    let remote = connect(&uri, source);
    let (key, _) = content(10);
    let started = Instant::now();
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (remote, gate) = (remote.clone(), gate.clone());
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while gate.0.lock().let_in.len() <= EXPIRIES {
                    let asked = Instant::now();
                    let answer = ActionCache::get(&remote, &context(), ActionKey::from(key)).await;
                    // Two tokens in a row can run out under a single call only if it takes longer than this.
                    let was_starved = asked.elapsed() >= LIFE.mul_f64(0.8);
                    assert!(was_starved || matches!(answer, Ok(None)), "{answer:?}");
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let rate = calls as f64 / started.elapsed().as_secs_f64();
    let refused = gate.refused();
    println!("{calls} calls, {rate:.0} a second, {refused} refused and repeated");
    // Single flight: nothing but what was needed was asked for.
    assert!(provider.asked().len() <= EXPIRIES + 2, "{}", provider.asked().len());
}

#[tokio::test]
async fn what_is_refused_is_replaced_and_the_call_repeated_once() {
    let (gate, fake) = (Gate::default(), Fake::default());
    let source = Numbered::new(&gate, true);
    let remote = connect(&gate.serve(&fake).await, source.clone());
    let (digest, bytes) = content(3 << 20);
    fake.keep(digest, bytes.clone());
    for (number, what) in
        ["unary", "a batch of 3 MiB", "a stream read", "a stream written"].iter().enumerate()
    {
        let of_call = async {
            match number {
                0 => ActionCache::get(&remote, &context(), ActionKey::from(digest)).await.map(|_| ()),
                1 => remote.write_batch(&context(), &[(digest, bytes.clone())]).await.map(|_| ()),
                2 => remote.read(&context(), digest, Default::default()).await.map(|_| ()),
                _ => remote.write(&context(), digest, streamed(&bytes, 100_000)).await,
            }
        };
        of_call.await.unwrap_or_else(|error| panic!("{what}: {error}"));
        gate.revoke(&format!("t{number}"));
    }
    ActionCache::get(&remote, &context(), ActionKey::from(digest)).await.unwrap();
    assert_eq!((source.given(), gate.refused()), (5, 4));
}

#[tokio::test]
async fn a_stream_that_is_refused_at_its_end_is_taken_up_again() {
    let (gate, fake) = (Gate::default(), Fake::default());
    let source = Numbered::new(&gate, true);
    let remote = connect(&gate.serve(&fake).await, source.clone());
    let running = Operation { name: "op".into(), ..Default::default() };
    let expired = Status::unauthenticated("the token has expired meanwhile");
    fake.fail("Execute", [Fault::Play(vec![running], Some(expired))]);
    fake.fail("WaitExecution", [Fault::Refuse(Status::invalid_argument("heard"))]);
    let request = ExecuteRequest { action_digest: content(1).0, skip_cache_lookup: false, priority: 0 };
    let error = remote.execute(&context(), request, &()).await.unwrap_err();
    assert!(error.to_string().contains("heard"), "{error}");
    assert_eq!((fake.log(), source.given()), (vec!["Execute".into(), "WaitExecution op".into()], 2));
}

#[tokio::test]
async fn who_may_not_in_hears_so_and_no_source_is_worn_out() {
    let (gate, fake) = (Gate::default(), Fake::default());
    let source = Numbered::new(&gate, false);
    let remote = connect(&gate.serve(&fake).await, source.clone());
    for _ in 0..20 {
        let missing = remote.find_missing(&context(), &DigestSet::from_iter([content(1).0])).await;
        let error = missing.map(|_| ()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Unauthenticated { .. }), "{error}");
        assert!(error.to_string().contains("not with that"), "{error}");
    }
    assert_eq!((source.given(), gate.refused(), fake.log().len()), (2, 21, 0));
}

#[tokio::test]
async fn what_never_changes_is_not_repeated() {
    let gate = Gate::default();
    let key = Secret::new("Bearer wrong");
    let source = StaticHeaders::new([("authorization", &key), ("x-tenant", &Secret::new("a"))]).unwrap();
    let remote = connect(&gate.serve(&Fake::default()).await, source);
    let error =
        ActionCache::get(&remote, &context(), ActionKey::from(content(1).0)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), Kind::Unauthenticated { .. }), "{error}");
    assert_eq!(gate.refused(), 1);
}

#[tokio::test]
async fn a_source_that_fails_is_named() {
    let gate = Gate::default();
    let remote = connect(
        &gate.serve(&Fake::default()).await,
        mortar_remote::credentials::TokenFile::new("/nowhere/token"),
    );
    let error =
        ActionCache::get(&remote, &context(), ActionKey::from(content(1).0)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), Kind::Unauthenticated { .. }), "{error}");
    assert!(error.to_string().contains("`/nowhere/token`"), "{error}");
    assert_eq!(gate.refused(), 0);
}
