//! Upstreams that want to know who we are, and do not take what they took before.

use crate::{
    LEASE, context, fresh, fresh_key, has, options, run, settings, until,
    upstream::{Asked, Upstream, upstream},
};
use axum::{body::Body, extract::Request};
use mortar_companion::Settings;
use mortar_model::{ActionCache, BlobStore, BlobStoreExt, DigestSet};
use mortar_remote::{
    Options,
    credentials::{TokenFile, Wallet},
};
use mortar_services::listener::{self, Listener};
use parking_lot::Mutex;
use std::{fs, sync::Arc};
use tonic::{Status, transport::Channel};

/// An upstream and the address of a gate before it, which lets in whoever has one of these tokens.
async fn upstream_behind(tokens: Arc<Mutex<Vec<String>>>) -> (Upstream, String) {
    let upstream = upstream(Some(LEASE)).await;
    let channel = Channel::from_shared(upstream.url.replace("grpc://", "http://")).unwrap().connect_lazy();
    let gate = move |request: Request| {
        let told = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let is_in = tokens.lock().iter().any(|token| told == Some(format!("Bearer {token}").as_str()));
        let mut channel = channel.clone();
        async move {
            if !is_in {
                return Status::unauthenticated("not with that").into_http::<Body>();
            }
            let request = request.map(tonic::body::Body::new);
            let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
            tower::Service::call(ready, request).await.unwrap().map(Body::new)
        }
    };
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = listener.url();
    let router = axum::Router::new().fallback(gate);
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    (upstream, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_costs_no_call_and_nothing_that_is_owed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, tokens) = (directory.path().join("token"), Arc::new(Mutex::new(vec!["old".to_owned()])));
    let (upstream, url) = upstream_behind(tokens.clone()).await;
    fs::write(&file, "old").unwrap();
    let remote = Options { credentials: Some(Wallet::of(TokenFile::new(&file))), ..options() };
    let running = run(Settings { remote, ..settings(&directory.path().join("data"), &url) }).await;
    let client = &running.client;
    let (known, _) = running.put(2_000).await;
    running.flush().await;
    assert!(has(&*upstream.store, known).await);

    tokens.lock().clear();
    assert_eq!(client.get(&context(), fresh_key()).await.unwrap(), None);
    let unknown = fresh(300_000).0;
    let missing = client.find_missing(&context(), &DigestSet::from_iter([unknown])).await.unwrap();
    assert!(missing.contains(&unknown));
    assert!(client.read_all(&context(), unknown, 1 << 20).await.unwrap_err().is_not_found());
    let (owed, bytes) = running.put(2_000).await;
    let key = running.put_result(&[owed]).await;
    assert_eq!(client.read_all(&context(), owed, 1 << 20).await.unwrap(), bytes);
    let flushed = running.companion.flush(Some(std::time::Duration::from_millis(300))).await;
    assert_eq!((flushed.left.blobs, flushed.left.results, flushed.refused.len()), (1, 1, 0));
    assert!(!has(&*upstream.store, owed).await);

    fs::write(&file, "new").unwrap();
    tokens.lock().push("new".to_owned());
    running.flush().await;
    assert!(has(&*upstream.store, owed).await);
    until("the result is there", async || upstream.watch.has(&Asked::Put(key))).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_what_is_written_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (upstream, url) = upstream_behind(Arc::default()).await;
    let running = run(settings(directory.path(), &url)).await;
    let (digest, _) = running.put(2_000).await;
    let trouble = async || running.companion.flush(Some(std::time::Duration::ZERO)).await.trouble;
    until("the reason is told", async || trouble().await.is_some()).await;
    assert!(!has(&*upstream.store, digest).await);
    assert!(!running.companion.can_pay(), "it need not be kept running for that");
    running.end().await;
}
