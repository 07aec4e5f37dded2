//! Executions as a client sees them: a whole server and a real worker in this process, spoken to over gRPC.
//!
//! They stand here and not beside the server, since the sandbox's helper is a binary of this crate.
#![allow(clippy::unwrap_used)]

mod caching;
mod images;
mod job;
mod refusals;
mod results;
mod together;

use job::Job;
use mortar_model::{BlobStoreExt, Context, Digest, DigestFunction, Error};
use mortar_server::{LeaseTerms, Scheduler, SchedulerConfig, Server, Settings};
use mortar_services::listener::{self, Listener};
use mortar_store::DiskStore;
use mortar_wire::{
    digest_to_wire, function_to_wire,
    longrunning::{Operation, operation},
    reapi::{
        self, action_cache_client::ActionCacheClient, capabilities_client::CapabilitiesClient,
        execution_client::ExecutionClient,
    },
    status,
};
use mortar_worker::{Images, Limits, ShutdownHandle, Stores, Worker, WorkerConfig};
use prost::Message;
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// The most nodes of an input root here, and the longest time limit.
pub const MOST_NODES: usize = 1_000;
pub const LONGEST: Duration = Duration::from_secs(100);

/// A server, and what its tests hold on to.
pub struct House {
    pub store: Arc<DiskStore>,
    pub scheduler: Scheduler,
    server: Server,
    url: String,
    channel: Channel,
    workers: Mutex<Vec<ShutdownHandle>>,
    directory: TempDir,
}

impl House {
    /// A server with a worker.
    pub async fn new() -> Self {
        let house = Self::without_worker().await;
        house.hire().await;
        house
    }

    /// A server whose queue goes nowhere yet.
    pub async fn without_worker() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scheduler = SchedulerConfig { max_timeout: LONGEST, ..SchedulerConfig::default() };
        let (data, queue) = (directory.path().join("data"), Some(directory.path().join("queue")));
        let settings =
            Settings { directory: data, max_size: 1 << 30, leases: LeaseTerms::default(), scheduler, queue };
        let server = Server::assemble(settings).unwrap();
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = listener.url();
        let router = server.router(&listener);
        tokio::spawn(listener::serve(listener, router, std::future::pending()));
        let address = url.replace("grpc://", "http://");
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let (store, scheduler, workers) = (server.store.clone(), server.scheduler.clone(), Mutex::default());
        Self { store, scheduler, server, url, channel, workers, directory }
    }

    /// Adds a worker that dials the server, with the server's own stores.
    pub async fn hire(&self) {
        let mut config = WorkerConfig::new("tester", self.directory.path().join("work"));
        config.slots = 4;
        config.limits = Limits { nodes: MOST_NODES, depth: 20, ..Limits::default() };
        config.sandbox.helper = env!("CARGO_BIN_EXE_mortar-worker-sandbox").into();
        let stores = Stores {
            blobs: self.store.clone(),
            near: None,
            local: Some(self.store.clone()),
            actions: self.server.actions.clone(),
        };
        let worker = Worker::open(config, stores).await.unwrap();
        let (handle, shutdown) = mortar_worker::shutdown();
        let url = self.url.clone();
        tokio::spawn(async move { mortar_worker::connect(worker, &url, shutdown).await });
        self.workers.lock().unwrap().push(handle);
    }

    /// Where the images of its workers are.
    pub fn images(&self) -> Images {
        Images::new(self.directory.path().join("work/images"))
    }

    /// Stores bytes.
    pub async fn put(&self, function: DigestFunction, bytes: impl Into<bytes::Bytes>) -> reapi::Digest {
        let bytes = bytes.into();
        let digest = Digest::of(function, &bytes);
        self.store.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        digest_to_wire(digest)
    }

    /// Reads what a result names.
    pub async fn get(&self, function: DigestFunction, digest: Option<&reapi::Digest>) -> bytes::Bytes {
        let Some(digest) = digest else { return bytes::Bytes::new() };
        let digest = Digest::parse(function, &digest.hash, digest.size_bytes).unwrap();
        self.store.read_all(&Context::internal(), digest, 1 << 30).await.unwrap()
    }

    /// Asks for an execution; an action that was uploaded before.
    pub async fn start(&self, job: &Job, action: reapi::Digest) -> Result<Streaming<Operation>, Status> {
        let request = reapi::ExecuteRequest {
            instance_name: job.instance.clone(),
            skip_cache_lookup: job.skip_cache_lookup,
            action_digest: Some(action),
            digest_function: function_to_wire(job.function).into(),
            inline_stdout: true,
            inline_stderr: true,
            ..Default::default()
        };
        let client = ExecutionClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let started = { client }.execute(request).await;
        started.map(tonic::Response::into_inner)
    }

    /// Uploads a job and has it executed.
    pub async fn execute(&self, job: &Job) -> Ended {
        let action = job.upload(self).await;
        Ended::of(self.start(job, action).await).await
    }

    /// Executes a job that succeeds.
    pub async fn ok(&self, job: &Job) -> reapi::ExecuteResponse {
        let ended = self.execute(job).await;
        assert!(ended.error.is_none(), "{:?}", ended.error);
        let result = ended.response.result.as_ref().unwrap();
        assert_eq!(result.exit_code, 0, "{}", String::from_utf8_lossy(&result.stderr_raw));
        ended.response
    }

    /// What the action cache says to clients.
    pub async fn cached(&self, job: &Job, action: reapi::Digest) -> Option<reapi::ActionResult> {
        let request = reapi::GetActionResultRequest {
            instance_name: job.instance.clone(),
            action_digest: Some(action),
            digest_function: function_to_wire(job.function).into(),
            ..Default::default()
        };
        match ActionCacheClient::new(self.channel.clone()).get_action_result(request).await {
            Ok(result) => Some(result.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                None
            }
        }
    }

    /// That the server still answers.
    pub async fn assert_alive(&self) {
        let request = reapi::GetCapabilitiesRequest::default();
        CapabilitiesClient::new(self.channel.clone()).get_capabilities(request).await.unwrap();
    }
}

/// How an execution ended.
pub struct Ended {
    /// What went wrong, told by the call or in the response.
    pub error: Option<(Code, Error)>,
    /// What the last message said.
    pub response: reapi::ExecuteResponse,
}

impl Ended {
    /// Listens to the end.
    pub async fn of(started: Result<Streaming<Operation>, Status>) -> Self {
        let mut stream = match started {
            Ok(stream) => stream,
            Err(status) => {
                let error = Some((status.code(), status::from_status(&status)));
                return Self { error, response: reapi::ExecuteResponse::default() };
            }
        };
        loop {
            let operation = stream.message().await.unwrap().expect("a response before the end");
            let Some(operation::Result::Response(any)) = operation.result else { continue };
            let response = reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap();
            let status = response.status.clone().unwrap_or_default();
            let failed = status.code != 0;
            let error = failed.then(|| (Code::from_i32(status.code), status::from_rpc(status)));
            return Self { error, response };
        }
    }
}

/// Waits for a condition, with a deadline.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
