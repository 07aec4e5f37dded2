//! Bazel's HTTP/1.1 in front, another protocol behind: REAPI, whose blobs have sizes that Bazel does not tell, and a foreign
//! HTTP cache. The front has forgotten everything when Bazel comes for its second build.

use std::sync::Arc;

use anyhow::Result;
use mortar_model::{ActionCache, BlobStore, HashIndex, UploadSessions};
use mortar_remote::{Endpoint, HttpOptions, HttpUpstream, Options, Protocol};
use mortar_services::Ports;
use mortar_services::listener::{self, Listener};
use mortar_store::{MemoryStore, SizesSeen};
use mortar_testkit::apache::{Apache, Terms};
use mortar_testkit::bazel::{Bazel, Project};
use mortar_wire::Protobuf;

use crate::{assert_all_cached, assert_all_local, up};

/// A front in a runtime of its own, and its address.
struct Front {
    _runtime: tokio::runtime::Runtime,
    url: String,
}

/// What stands behind a front.
struct Behind {
    blobs: Arc<dyn BlobStore>,
    actions: Arc<dyn ActionCache>,
    index: Arc<dyn HashIndex>,
    uploads: Arc<dyn UploadSessions>,
}

fn front(behind: impl FnOnce() -> Result<Behind>) -> Result<Front> {
    let runtime = tokio::runtime::Runtime::new()?;
    let inside = runtime.enter();
    let Behind { blobs, actions, index, uploads } = behind()?;
    let values = MemoryStore::new(1 << 20);
    let ports = Ports {
        blobs,
        actions,
        index,
        uploads,
        values,
        encoded: None,
        chunks: None,
        executor: None,
        lease: None,
        offers: None,
    };
    let router = mortar_services::router(&ports, None, Default::default());
    let listener = runtime.block_on(Listener::bind(&"127.0.0.1:0".parse()?))?;
    let url = listener.url().replace("grpc://", "http://");
    runtime.spawn(listener::serve(listener, router, std::future::pending()));
    drop(inside);
    Ok(Front { _runtime: runtime, url })
}

fn caches_behind(front: impl Fn() -> Result<Front>) -> Result<()> {
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    let first = front()?;
    bazel.set_flags(&[&format!("--remote_cache={}", first.url)]);
    assert_all_local(bazel.build(&[], &["//..."])?.success()?);
    let local = bazel.outputs()?;

    let second = front()?;
    bazel.set_flags(&[&format!("--remote_cache={}", second.url)]);
    bazel.clean()?;
    assert_all_cached(bazel.build(&[], &["//..."])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn bazel_over_http_before_a_grpc_server() -> Result<()> {
    let server = up()?;
    caches_behind(|| {
        front(|| {
            let remote = Endpoint::connect(&server.mortar.grpc(), Options::default())?;
            let seen = SizesSeen::new(100_000, Arc::new(Protobuf));
            let blobs = seen.blobs(Arc::new(remote.clone()));
            Ok(Behind {
                actions: seen.actions(Arc::new(remote.clone())),
                index: seen.index(blobs.clone()),
                uploads: Arc::new(remote.uploads()),
                blobs,
            })
        })
    })
}

#[test]
fn bazel_over_http_before_apache() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let apache = Apache::cache(dir.path(), Terms { http2: true, password: false }, &[])?;
    let address = format!("http://{}", apache.address());
    caches_behind(|| {
        front(|| {
            let options = HttpOptions { protocol: Some(Protocol::Http2), ..HttpOptions::default() };
            let upstream = HttpUpstream::new(address.parse()?, options);
            Ok(Behind {
                blobs: Arc::new(upstream.clone()),
                actions: Arc::new(upstream.clone()),
                index: Arc::new(upstream),
                uploads: MemoryStore::new(1 << 20),
            })
        })
    })
}
