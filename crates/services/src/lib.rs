//! The protocols over the ports: one file a service, each handler decode → one domain call → encode, and the
//! listener that serves all of them on one port.
//!
//! [`router`] shows every service with its limits; `mortar-server` and the companion decide what stands behind the ports.

mod action_cache;
mod budget;
pub mod bytestream;
pub mod call;
mod capabilities;
mod cas;
mod chunks;
mod content;
mod execution;
mod http_cache;
mod inline;
mod introspection;
pub mod limits;
pub mod listener;
mod log_streams;
mod long_running;
mod offers;
mod operation_message;
mod operations;
mod traffic;
mod tree;

use axum::Router;
use budget::Budget;
use log_streams::LogStreams;
use mortar_model::{
    ActionCache, BlobStore, Chunks, EncodedBlobs, Executor, HashIndex, UploadSessions, Values,
};
use mortar_wire::{longrunning::operations_server::OperationsServer, reapi};
use std::{sync::Arc, time::Duration};

pub use log_streams::LiveLogs;
pub use offers::{Offer, Offers};
pub use operations::{OperationJournal, OperationSummary, Operations, Resumed};
pub use traffic::Traffic;

/// What stands behind the services.
#[derive(Clone)]
pub struct Ports {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Action results.
    pub actions: Arc<dyn ActionCache>,
    /// Blobs as zstd frames, if they are served; then `uploads` take frames too.
    pub encoded: Option<Arc<dyn EncodedBlobs>>,
    /// Uploads that resume.
    pub uploads: Arc<dyn UploadSessions>,
    /// Blobs by hash alone, for HTTP.
    pub index: Arc<dyn HashIndex>,
    /// Opaque values of HTTP clients.
    pub values: Arc<dyn Values>,
    /// Blobs as chunks; without it nothing is split or spliced.
    pub chunks: Option<Arc<dyn Chunks>>,
    /// Executes actions; a server without it is a cache.
    pub executor: Option<Arc<dyn Executor>>,
    /// How long what is called present stays, if that is promised.
    pub lease: Option<Duration>,
    /// What is offered, where that is for another server to say; without it, what the ports make possible.
    pub offers: Option<Arc<dyn Offers>>,
}

/// Every service of the protocol and the HTTP cache, ready for [`listener::serve`]. `more` brings gRPC services and
/// pages of the deployment's own.
pub fn router(ports: &Ports, operations: Option<Operations>, more: Router) -> Router {
    use reapi::{
        action_cache_server::ActionCacheServer, capabilities_server::CapabilitiesServer,
        content_addressable_storage_server::ContentAddressableStorageServer,
        execution_server::ExecutionServer,
    };
    let budget = Budget::new(limits::IN_FLIGHT);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(CapabilitiesServer::new(capabilities::Service::new(ports, operations.as_ref())))
        .add_service(
            ContentAddressableStorageServer::new(cas::Service::new(ports, budget.clone()))
                .max_decoding_message_size(limits::MAX_MESSAGE)
                .max_encoding_message_size(limits::MAX_MESSAGE),
        )
        .add_service(
            ActionCacheServer::new(action_cache::Service::new(ports.actions.clone(), ports.blobs.clone()))
                .max_decoding_message_size(limits::MAX_MESSAGE)
                .max_encoding_message_size(limits::MAX_MESSAGE),
        )
        .add_service(introspection::health())
        .add_service(introspection::reflection())
        .add_service(introspection::reflection_alpha());
    let logs = operations.clone().map(|operations| LogStreams::new(operations, ports.blobs.clone()));
    if let Some(operations) = operations {
        let long_running = long_running::Service::new(operations.clone(), ports.blobs.clone());
        routes
            .add_service(OperationsServer::new(long_running))
            .add_service(ExecutionServer::new(execution::Service::new(operations, ports.blobs.clone())));
    }
    let http = Arc::new(http_cache::HttpCache::new(ports, budget.clone()));
    routes
        .routes()
        .into_axum_router()
        .reset_fallback()
        .merge(bytestream::Service::new(ports, budget.clone(), logs).routes())
        .merge(more)
        .fallback(move |request: axum::extract::Request| http_cache::handle(http.clone(), request))
}
