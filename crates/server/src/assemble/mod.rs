//! A server put together. Reading this is reading the deployment:
//!
//! ```text
//! services ── blobs:    rewinding ── chunked ── disk
//!          ├─ results:  completeness ── memory ── results ── disk
//!          ├─ values:   named values ── disk
//!          └─ executor: look-up ── rewinding ── queue ── (workers, in this process or others)
//! ```
//!
//! Both ends of rewinding are the same: it reads from the disk, runs actions on the queue, and asks the results who made
//! what.

mod encoded;

use crate::{
    care::Care,
    introspection,
    look_up::LookUp,
    metrics,
    operation_journal::Journal,
    pool_book::FileBook,
    requirements::StoredActions,
    rewind::{Parts, Rewinder, Rewinding},
    status_page::{self, Page},
    worker_sessions,
};
use axum::Router;
use encoded::Encoded;
use mortar_model::{ActionCache, BlobStore, ChunkingParameters, Codec, LocalFiles, Result, SystemClock};
use mortar_scheduler::{QueueExecutor, Scheduler};
use mortar_services::{Operations, Ports, limits, listener::Listener};
use mortar_store::{
    ChunkedBlobs, ChunkedFiles, ChunkedHashes, Completeness, DiskConfig, DiskStore, LeaseTerms, NamedValues,
    Policy, ResultTier, Results,
};
use mortar_wire::{Protobuf, worker::worker_session_server::WorkerSessionServer};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// How long a result is served from memory before the disk is asked again.
const TRUST: Duration = Duration::from_secs(60);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// How many bytes that may take.
    pub max_size: u64,
    /// For how long promises hold.
    pub leases: LeaseTerms,
    /// The limits of executions.
    pub scheduler: mortar_scheduler::Config,
    /// Where is kept what waits and runs, and which pools are known; where there is nothing, that ends with the process.
    pub queue: Option<PathBuf>,
}

/// The parts of a server that others hold on to.
pub struct Server {
    /// What lies beneath: uploads, statistics.
    pub store: Arc<DiskStore>,
    /// Blobs, whole or as chunks.
    pub blobs: Arc<dyn BlobStore>,
    /// Files of them.
    pub files: Arc<dyn LocalFiles>,
    /// Complete results.
    pub actions: Arc<dyn ActionCache>,
    /// Who runs what.
    pub scheduler: Scheduler,
    /// Purging, verifying, imports.
    pub care: Care,
    completeness: Arc<Completeness>,
    rewinder: Rewinder,
    operations: Operations,
    ports: Ports,
}

impl Server {
    /// Opens the store and puts everything on top of it. Nothing is listened to yet.
    pub fn assemble(settings: Settings) -> Result<Self> {
        let codec: Arc<dyn Codec> = Arc::new(Protobuf);
        let disk = DiskConfig { directory: settings.directory, max_size: settings.max_size };
        let policy = Policy { leases: settings.leases, ..Policy::default() };
        let store = DiskStore::open_with(disk, policy)?;
        let chunking = ChunkingParameters::default();
        let chunked = ChunkedBlobs::new(store.clone(), store.clone(), Some(store.clone()), chunking)?;
        let blobs: Arc<dyn BlobStore> = Arc::new(chunked.clone());
        let hashes = Arc::new(ChunkedHashes::new(chunked.clone(), store.clone()));
        let files = Arc::new(ChunkedFiles::new(chunked.clone(), store.clone()));
        let results = Arc::new(Results::new(store.clone(), codec.clone()));
        let clock = Arc::new(SystemClock);
        let hot_results =
            Arc::new(ResultTier::new(results.clone(), ResultTier::DEFAULT_BUDGET, TRUST, clock.clone()));
        let completeness =
            Arc::new(Completeness::new(hot_results.clone(), blobs.clone(), codec.clone()).with_remakes());
        let actions: Arc<dyn ActionCache> = completeness.clone();

        let (journal, resumed) = settings.queue.as_deref().map(Journal::open).transpose()?.unzip();
        let scheduler = match settings.queue.as_deref() {
            Some(queue) => {
                Scheduler::resume(settings.scheduler, clock.clone(), Arc::new(FileBook::open(queue)))
            }
            None => Scheduler::start(settings.scheduler, clock.clone()),
        };
        let queue = QueueExecutor::new(scheduler.clone(), Arc::new(StoredActions::new(blobs.clone())));
        let values = Arc::new(NamedValues::new(store.clone(), clock));
        let care = Care {
            store: store.clone(),
            results: results.clone(),
            hot_results: Some(hot_results.clone()),
            values: values.clone(),
            actions: actions.clone(),
            blobs: blobs.clone(),
            codec,
            gentle: true,
        };
        let rewinder = Rewinder::new(Parts {
            blobs: blobs.clone(),
            checks_pieces: true,
            index: hashes,
            results: hot_results,
            executor: Arc::new(queue),
            staff: Arc::new(scheduler.clone()),
        });
        let rewinding = Arc::new(Rewinding::new(rewinder.clone(), results.clone()));
        let executor = Arc::new(LookUp::new(actions.clone(), Arc::new(rewinder.clone())));
        let ports = Ports {
            blobs: rewinding.clone(),
            encoded: Some(Arc::new(Encoded::new(store.clone(), rewinding.clone()))),
            actions: actions.clone(),
            uploads: store.clone(),
            index: rewinding,
            values,
            chunks: Some(Arc::new(chunked)),
            executor: Some(executor.clone()),
            lease: Some(store.lease()),
            offers: None,
        };
        let operations = match journal {
            Some(journal) => Operations::new(executor).with_journal(Arc::new(journal)),
            None => Operations::new(executor),
        };
        operations.resume(resumed.unwrap_or_default());
        Ok(Self { store, blobs, files, actions, scheduler, care, completeness, rewinder, operations, ports })
    }

    /// Takes nothing new, gives what runs `drain` to end, and stops the rest. What waits is taken up after a restart.
    pub async fn shutdown(&self, drain: Duration) {
        self.operations.close();
        self.scheduler.shutdown(drain).await;
    }

    /// Everything that is served on the port, which clients reach at the listener's URL.
    pub fn router(&self, listener: &Listener) -> Router {
        let mut own = tonic::service::Routes::builder();
        own.add_service(
            WorkerSessionServer::new(worker_sessions::Service::new(self.scheduler.clone()))
                .max_decoding_message_size(limits::MAX_SESSION_MESSAGE),
        )
        .add_service(introspection::service(self.scheduler.clone()));
        let page = Page {
            url: listener.url().into(),
            store: self.store.clone(),
            scheduler: self.scheduler.clone(),
            completeness: self.completeness.clone(),
            rewinder: self.rewinder.clone(),
            operations: self.operations.clone(),
            traffic: listener.traffic(),
        };
        let more = own.routes().into_axum_router().reset_fallback().merge(status_page::router(page.clone()));
        let more = more.merge(metrics::router(page));
        mortar_services::router(&self.ports, Some(self.operations.clone()), more)
    }
}
