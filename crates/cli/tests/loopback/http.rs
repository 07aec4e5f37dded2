//! The HTTP cache from both ends: the conformance suite through `HttpUpstream`, the HTTP front and the disk store.

use crate::serve;
use mortar_model::{ActionCache, ActionResult, Context, Digest, DigestFunction};
use mortar_remote::{Endpoint, HttpOptions, HttpUpstream, Options, Protocol, Retry};
use mortar_testkit::conformance::{Subject, assert_conforms};
use std::sync::Arc;

fn upstream(url: &str, options: HttpOptions) -> HttpUpstream {
    let url = url.replace("grpc://", "http://");
    HttpUpstream::new(url.parse().unwrap(), options)
}

fn subject(upstream: &HttpUpstream) -> Subject {
    let mut subject = Subject::new(Arc::new(upstream.clone()));
    subject.actions = Some(Arc::new(upstream.clone()));
    subject.hashes = Some(Arc::new(upstream.clone()));
    subject.functions = vec![DigestFunction::Sha256];
    subject
}

/// Nothing is tried twice: what succeeds does so at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_http_upstream_conforms_over_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let url = serve("127.0.0.1:0", directory.path()).await;
    for (protocol, compression, spoken) in [
        (None, false, Protocol::Http2),
        (Some(Protocol::Http2), true, Protocol::Http2),
        (Some(Protocol::Http1), false, Protocol::Http1),
        (Some(Protocol::Http1), true, Protocol::Http1),
    ] {
        let options = HttpOptions { protocol, compression, retry: Retry::NEVER, ..HttpOptions::default() };
        let upstream = upstream(&url, options);
        assert_conforms(&subject(&upstream)).await;
        assert_eq!(upstream.protocol(), Some(spoken));
    }
}

/// What one end puts over HTTP the other gets over gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn results_are_shared_with_grpc() {
    let directory = tempfile::tempdir().unwrap();
    let url = serve("127.0.0.1:0", directory.path()).await;
    let (http, grpc) =
        (upstream(&url, HttpOptions::default()), Endpoint::connect(&url, Options::default()).unwrap());
    let key = Digest::of(DigestFunction::Sha256, b"an action").into();
    let result = ActionResult { stdout_raw: "said".into(), ..ActionResult::default() };
    http.put(&Context::internal(), key, result).await.unwrap();
    let found = grpc.get(&Context::internal(), key).await.unwrap().unwrap();
    assert_eq!(found.stdout_raw, "said");
}
