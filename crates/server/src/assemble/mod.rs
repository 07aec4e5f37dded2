//! A server put together. Reading this is reading the deployment:
//!
//! ```text
//! services ── blobs:    rewinding ── chunked ── disk
//!          ├─ results:  recorder ── completeness ── memory ── results ── disk
//!          ├─ values:   named values ── disk
//!          └─ executor: look-up (also recorded) ── following ── infrastructure log ── rewinding ── queue ── (workers, in this process or others)
//! ```
//!
//! Whatever comes into the chunked store or the disk by a port of services or workers is told to who waits for it
//! (`inputs::Told`), and that is *following*.
//!
//! Both ends of rewinding are the same: it reads from the disk, runs actions on the queue, and asks the results who made
//! what.

mod encoded;

use crate::{
    care::Care,
    infrastructure_log::InfrastructureLog,
    inputs::{Arrivals, Complete, Following, LONGEST_WAIT, Told},
    introspection,
    live_logs::LiveLogs,
    look_ahead::{self, Recorder, Trails},
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
use mortar_model::{
    ActionCache, BlobStore, ChunkingParameters, Codec, Executor, LocalFiles, Result, SystemClock,
};
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
    /// Through which workers attach to that, so that what they run can be watched.
    pub logs: LiveLogs,
    /// Purging, verifying, imports.
    pub care: Care,
    completeness: Arc<Completeness>,
    rewinder: Rewinder,
    arrivals: Arrivals,
    operations: Operations,
    ports: Ports,
    trails: Trails,
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
        let arrivals = Arrivals::default();
        let blobs: Arc<dyn BlobStore> = Arc::new(Told::new(Arc::new(chunked.clone()), &arrivals));
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
        let complete = Arc::new(Complete::new(clock.clone()));
        let sources = Arc::new(StoredActions::new(blobs.clone(), complete.clone()));
        let queue = QueueExecutor::new(scheduler.clone(), sources);
        let values = Arc::new(NamedValues::new(store.clone(), clock.clone()));
        let trails = Trails::new(values.clone(), clock);
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
        let logged = InfrastructureLog::new(Arc::new(rewinder.clone()), blobs.clone(), Arc::new(SystemClock));
        let queueing: Arc<dyn Executor> = Arc::new(logged);
        let following = Following {
            blobs: rewinding.clone(),
            arrivals: arrivals.clone(),
            complete,
            next: queueing.clone(),
            after_waiting: Arc::new(LookUp::new(actions.clone(), queueing)),
        };
        // A client may leave its look-up to the execution.
        let recorder = Arc::new(Recorder::new(actions.clone(), trails.clone()));
        let executor = Arc::new(LookUp::new(recorder.clone(), Arc::new(following)));
        let encoded = Encoded::new(store.clone(), rewinding.clone());
        let ports = Ports {
            blobs: rewinding.clone(),
            encoded: Some(Arc::new(Told::new(Arc::new(encoded), &arrivals))),
            actions: recorder,
            uploads: Arc::new(Told::new(store.clone(), &arrivals)),
            index: rewinding,
            values,
            chunks: Some(Arc::new(Told::new(Arc::new(chunked), &arrivals))),
            executor: Some(executor.clone()),
            lease: Some(store.lease()),
            offers: None,
        };
        let operations = match journal {
            Some(journal) => Operations::new(executor).with_journal(Arc::new(journal)),
            None => Operations::new(executor),
        };
        let logs = LiveLogs::default();
        let operations =
            operations.with_live_logs(Arc::new(logs.clone())).with_inputs_following(LONGEST_WAIT);
        operations.resume(resumed.unwrap_or_default());
        Ok(Self {
            store,
            blobs,
            files,
            actions,
            scheduler,
            logs,
            care,
            completeness,
            rewinder,
            arrivals,
            operations,
            ports,
            trails,
        })
    }

    /// Takes nothing new, gives what runs `drain` to end, and stops the rest. What waits is taken up after a restart.
    pub async fn shutdown(&self, drain: Duration) {
        self.operations.close();
        self.arrivals.close();
        self.scheduler.shutdown(drain).await;
    }

    /// Everything that is served on the port, which clients reach at the listener's URL.
    pub fn router(&self, listener: &Listener) -> Router {
        let mut own = tonic::service::Routes::builder();
        own.add_service(
            WorkerSessionServer::new(worker_sessions::Service::new(
                self.scheduler.clone(),
                self.logs.clone(),
            ))
            .max_decoding_message_size(limits::MAX_SESSION_MESSAGE),
        )
        .add_service(introspection::service(self.scheduler.clone()))
        .add_service(look_ahead::service(
            self.trails.clone(),
            self.actions.clone(),
            self.ports.blobs.clone(),
        ));
        let page = Page {
            url: listener.url().into(),
            store: self.store.clone(),
            scheduler: self.scheduler.clone(),
            completeness: self.completeness.clone(),
            rewinder: self.rewinder.clone(),
            arrivals: self.arrivals.clone(),
            operations: self.operations.clone(),
            traffic: listener.traffic(),
        };
        let more = own.routes().into_axum_router().reset_fallback().merge(status_page::router(page.clone()));
        let more = more.merge(metrics::router(page));
        mortar_services::router(&self.ports, Some(self.operations.clone()), more)
    }
}
