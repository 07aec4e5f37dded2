//! A server in this process, and clients of it.

use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    ActionResult, Blob, BlobStore, ChunkingParameters, Context, Digest, DigestFunction, ExecuteRequest,
    ExecutionMetadata, Executor, FastCdc2020, InputsFollow, Outcome, Progress, RepMaxCdc, Stage, Termination,
};
use mortar_services::{
    Operations, Ports,
    listener::{self, Listener},
};
use mortar_store::{ChunkedBlobs, Completeness, MemoryStore, Results};
use mortar_wire::{Protobuf, reapi};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};

/// A server on a port of its own; stopped with the test's runtime.
pub struct Server {
    pub address: String,
    pub store: Arc<MemoryStore>,
    pub executor: Arc<FakeExecutor>,
    pub live: Arc<crate::log_streams::FakeLogs>,
    pub channel: Channel,
}

/// How the server cuts blobs: small, for small blobs in tests.
pub const CHUNKING: ChunkingParameters = ChunkingParameters {
    fast_cdc_2020: FastCdc2020 { average: 1 << 10, seed: 0 },
    rep_max_cdc: RepMaxCdc { minimum: 1 << 10, horizon: 8 << 10 },
};

/// Starts a server over memory.
pub async fn server() -> Server {
    start(|_| {}).await
}

/// Starts a server over memory that keeps no blobs as chunks.
pub async fn server_without_chunks() -> Server {
    start(|Parts { ports, .. }| ports.chunks = None).await
}

/// Starts a server over memory that serves zstd and promises a lease.
pub async fn compressing_server() -> Server {
    start(|Parts { ports, store, .. }| {
        ports.encoded = Some(store.clone());
        ports.lease = Some(Duration::from_secs(3 * 60 * 60));
    })
    .await
}

/// Starts a server over memory whose executor waits, up to a second, for inputs that follow.
pub async fn following_server() -> Server {
    start(|Parts { following, .. }| *following = Some(Duration::from_secs(1))).await
}

struct Parts<'a> {
    ports: &'a mut Ports,
    following: &'a mut Option<Duration>,
    store: &'a Arc<MemoryStore>,
}

async fn start(change: impl FnOnce(Parts<'_>)) -> Server {
    let store = MemoryStore::new(256 << 20);
    let executor = Arc::new(FakeExecutor::default());
    let blobs = ChunkedBlobs::new(store.clone(), store.clone(), Some(store.clone()), CHUNKING).unwrap();
    let results = Arc::new(Results::new(store.clone(), Arc::new(Protobuf)));
    let mut ports = Ports {
        chunks: Some(Arc::new(blobs.clone())),
        actions: Arc::new(Completeness::new(results, Arc::new(blobs.clone()), Arc::new(Protobuf))),
        blobs: Arc::new(blobs),
        encoded: None,
        uploads: store.clone(),
        index: store.clone(),
        values: store.clone(),
        executor: Some(executor.clone()),
        lease: None,
        offers: None,
    };
    let mut following = None;
    change(Parts { ports: &mut ports, following: &mut following, store: &store });
    let live = Arc::<crate::log_streams::FakeLogs>::default();
    let operations = Operations::new(executor.clone()).with_live_logs(live.clone());
    let operations = match following {
        Some(longest) => operations.with_inputs_following(longest),
        None => operations,
    };
    let router = mortar_services::router(&ports, Some(operations), axum::Router::new());
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.url().strip_prefix("grpc://").unwrap().to_owned();
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Server { address, store, executor, live, channel }
}

impl Server {
    /// Stores bytes behind the services' back.
    pub async fn keep(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(DigestFunction::Sha256, &bytes);
        self.store.write(&Context::internal(), digest, Blob::bytes(bytes)).await.unwrap();
        digest
    }

    pub async fn has(&self, digest: Digest) -> bool {
        self.store
            .find_missing(&Context::internal(), &[digest].into_iter().collect())
            .await
            .unwrap()
            .is_empty()
    }

    /// That the server still answers.
    pub async fn assert_alive(&self) {
        let mut client = reapi::capabilities_client::CapabilitiesClient::new(self.channel.clone());
        let capabilities =
            client.get_capabilities(reapi::GetCapabilitiesRequest::default()).await.unwrap().into_inner();
        assert_eq!(capabilities.low_api_version.unwrap().major, 2);
    }
}

/// Runs nothing: waits until it is told to finish, and counts who left before.
#[derive(Default)]
pub struct FakeExecutor {
    pub finish: Notify,
    pub begun: AtomicUsize,
    pub left: AtomicUsize,
    /// What the result will be.
    pub result: parking_lot::Mutex<ActionResult>,
    /// What was said of inputs that follow, last.
    pub followed: parking_lot::Mutex<Option<InputsFollow>>,
}

struct Leaving<'a>(&'a AtomicUsize, bool);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Executor for FakeExecutor {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> mortar_model::Result<Outcome> {
        *self.followed.lock() = context.inputs_follow.clone();
        if request.action_digest.size() == 404 {
            return Err(mortar_model::Error::new(mortar_model::Kind::MissingBlobs {
                missing: vec![request.action_digest],
            }));
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut leaving = Leaving(&self.left, true);
        progress.report(Stage::Queued, &ExecutionMetadata::default());
        progress.report(Stage::Executing, &ExecutionMetadata::default());
        self.finish.notified().await;
        leaving.1 = false;
        Ok(Outcome {
            result: self.result.lock().clone(),
            cached: false,
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        })
    }
}

/// Text that compresses well, and its digest.
pub fn text(length: usize) -> (Digest, Bytes) {
    let text: String = (0..).map(|line| format!("line {line} of the text\n")).take(length / 16 + 1).collect();
    let text = Bytes::from(text).slice(..length);
    (digest(&text), text)
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}
