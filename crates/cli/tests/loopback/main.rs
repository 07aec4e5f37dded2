//! Client and server of our own, over a real socket: the conformance suite through `Remote`, the services and the disk
//! store, an execution through the same, and `mortar bench`, the other client.
#![allow(clippy::unwrap_used)]

mod ahead;
mod bench;
mod executing;
mod following;
mod http;
mod looking_ahead;

use mortar_model::Context;
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_server::{
    LeaseTerms,
    assemble::{Server, Settings},
};
use mortar_services::{
    Ports,
    listener::{self, Listener},
};
use mortar_store::{Completeness, MemoryStore, Results};
use mortar_testkit::conformance::{Subject, assert_conforms};
use std::{path::Path, sync::Arc, time::Duration};

/// A server in this process, over a store of its own in `directory`.
async fn serve(address: &str, directory: &Path) -> String {
    serve_with(address, directory).await.1
}

/// The same, with what tests hold on to.
async fn serve_with(address: &str, directory: &Path) -> (Arc<Server>, String) {
    let settings = Settings {
        leases: LeaseTerms::default(),
        directory: directory.join("data"),
        max_size: 2 << 30,
        scheduler: mortar_server::SchedulerConfig::default(),
        queue: None,
    };
    let server = Arc::new(Server::assemble(settings).unwrap());
    let listener = Listener::bind(&address.parse().unwrap()).await.unwrap();
    let url = listener.url();
    let (router, serving) = (server.router(&listener), server.clone());
    tokio::spawn(async move {
        listener::serve(listener, router, std::future::pending()).await;
        drop(serving);
    });
    (server, url)
}

async fn subject(remote: &Remote) -> Subject {
    let mut subject = Subject::new(Arc::new(remote.clone()));
    subject.actions = Some(Arc::new(remote.clone()));
    subject.uploads = Some(Arc::new(remote.uploads()));
    let chunks = remote.chunks(&Context::internal()).await.unwrap();
    subject.chunks = chunks.map(|chunks| Arc::new(chunks) as _);
    subject
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_conforms_over_tcp() {
    let directory = tempfile::tempdir().unwrap();
    let url = serve("127.0.0.1:0", directory.path()).await;
    let remote = Endpoint::connect(&url, Options::default()).unwrap();
    assert_conforms(&subject(&remote).await).await;
    let capabilities = remote.capabilities(&Context::internal()).await.unwrap();
    assert_eq!(capabilities.digest_functions, mortar_model::DigestFunction::ALL);
    assert!(capabilities.execution && capabilities.action_cache_updates);
}

/// All blobs as zstd, over a store that takes and gives that.
#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_conforms_with_compression() {
    let store = MemoryStore::new(2 << 30);
    let codec = Arc::new(mortar_wire::Protobuf);
    let results = Arc::new(Results::new(store.clone(), codec.clone()));
    let ports = Ports {
        blobs: store.clone(),
        encoded: Some(store.clone()),
        actions: Arc::new(Completeness::new(results, store.clone(), codec)),
        uploads: store.clone(),
        index: store.clone(),
        values: store,
        chunks: None,
        executor: None,
        lease: Some(Duration::from_secs(3_600)),
        offers: None,
    };
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = listener.url();
    let router = mortar_services::router(&ports, None, Default::default());
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    for small_blob in [64 << 10, 0] {
        let retry = Retry::NEVER;
        let options = Options { compression: true, small_blob, chunk: 100_000, retry, ..Options::default() };
        let remote = Endpoint::connect(&url, options).unwrap();
        assert_conforms(&subject(&remote).await).await;
        let capabilities = remote.capabilities(&Context::internal()).await.unwrap();
        assert!(capabilities.zstd_streams && capabilities.zstd_batches);
        assert_eq!(capabilities.lease, ports.lease);
    }
}

/// Nothing in batches, small pieces, unary calls for chunks, one connection, nothing tried twice: what succeeds does so
/// at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_conforms_over_a_socket_file_with_streams_alone() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", directory.path().join("socket").display());
    let url = serve(&address, directory.path()).await;
    let options =
        Options { connections: 1, small_blob: 0, chunk: 10_000, retry: Retry::NEVER, ..Options::default() };
    let remote = Endpoint::connect(&url, options).unwrap();
    let chunks = remote.chunks(&Context::internal()).await.unwrap().unwrap().unary();
    assert_conforms(&Subject { chunks: Some(Arc::new(chunks)), ..subject(&remote).await }).await;
}
