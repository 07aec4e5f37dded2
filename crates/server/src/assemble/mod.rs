//! A server put together. Reading this is reading the deployment:
//!
//! ```text
//! services ── blobs:    rewinding ── disk
//!          ├─ results:  completeness ── results ── disk
//!          ├─ values:   named values ── disk
//!          └─ executor: look-up ── rewinding ── queue ── (workers, in this process or others)
//! ```
//!
//! Both ends of rewinding are the same: it reads from the disk, runs actions on the queue, and asks the results who made
//! what.

use crate::{
    care::Care,
    look_up::LookUp,
    requirements::StoredActions,
    rewind::{Parts, Rewinder, Rewinding},
    status_page::{self, Page},
    worker_sessions,
};
use axum::Router;
use mortar_model::{ActionCache, BlobStore, Codec, Result, SystemClock};
use mortar_scheduler::{QueueExecutor, Scheduler};
use mortar_services::{Operations, Ports, limits, listener::Listener};
use mortar_store::{Completeness, DiskConfig, DiskStore, NamedValues, Results};
use mortar_wire::{Protobuf, worker::worker_session_server::WorkerSessionServer};
use std::{path::PathBuf, sync::Arc};

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// How many bytes that may take.
    pub max_size: u64,
    /// The limits of executions.
    pub scheduler: mortar_scheduler::Config,
}

/// The parts of a server that others hold on to.
pub struct Server {
    /// Blobs, uploads, local files.
    pub store: Arc<DiskStore>,
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
        let store =
            DiskStore::open(DiskConfig { directory: settings.directory, max_size: settings.max_size })?;
        let blobs: Arc<dyn BlobStore> = store.clone();
        let results = Arc::new(Results::new(store.clone(), codec.clone()));
        let completeness =
            Arc::new(Completeness::new(results.clone(), blobs.clone(), codec.clone()).with_remakes());
        let actions: Arc<dyn ActionCache> = completeness.clone();

        let scheduler = Scheduler::start(settings.scheduler, Arc::new(SystemClock));
        let queue = QueueExecutor::new(scheduler.clone(), Arc::new(StoredActions::new(blobs.clone())));
        let values = Arc::new(NamedValues::new(store.clone(), Arc::new(SystemClock)));
        let care = Care {
            store: store.clone(),
            results: results.clone(),
            values: values.clone(),
            actions: actions.clone(),
            blobs: blobs.clone(),
            codec,
            gentle: true,
        };
        let rewinder = Rewinder::new(Parts {
            blobs,
            index: store.clone(),
            results: results.clone(),
            executor: Arc::new(queue),
            staff: Arc::new(scheduler.clone()),
        });
        let rewinding = Arc::new(Rewinding::new(rewinder.clone(), results));
        let executor = Arc::new(LookUp::new(actions.clone(), Arc::new(rewinder.clone())));
        let ports = Ports {
            blobs: rewinding.clone(),
            actions: actions.clone(),
            uploads: store.clone(),
            index: rewinding,
            values,
            executor: Some(executor.clone()),
        };
        let operations = Operations::new(executor);
        Ok(Self { store, actions, scheduler, care, completeness, rewinder, operations, ports })
    }

    /// Everything that is served on the port, which clients reach at the listener's URL.
    pub fn router(&self, listener: &Listener) -> Router {
        let mut own = tonic::service::Routes::builder();
        own.add_service(
            WorkerSessionServer::new(worker_sessions::Service::new(self.scheduler.clone()))
                .max_decoding_message_size(limits::MAX_SESSION_MESSAGE),
        );
        let page = Page {
            url: listener.url().into(),
            store: self.store.clone(),
            scheduler: self.scheduler.clone(),
            completeness: self.completeness.clone(),
            rewinder: self.rewinder.clone(),
            operations: self.operations.clone(),
            traffic: listener.traffic(),
        };
        let more = own.routes().into_axum_router().reset_fallback().merge(status_page::router(page));
        mortar_services::router(&self.ports, Some(self.operations.clone()), more)
    }
}
