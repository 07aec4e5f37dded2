//! HTTP caches as upstreams: ours, and Apache's httpd, which checks nothing and speaks HTTP/1.1.

use crate::{Running, context, fresh, run, settings, until, upstream::upstream};
use mortar_companion::{Settings, UpstreamAddress};
use mortar_model::{
    ActionCache, ActionKey, BlobStoreExt, Digest, ExecuteRequest, Executor, InstanceName, Kind,
};
use mortar_testkit::apache::{Apache, PASSWORD, Terms, USER};
use std::{fs, path::Path};

/// What one companion uploads, another one finds, with nothing but the cache between them.
async fn carries(directory: &Path, url: &str, shown: &str) {
    let at = |name: &str| {
        let upstreams = vec![UpstreamAddress { name: InstanceName::default(), uri: url.to_owned() }];
        Settings { upstreams, ..settings(&directory.join(name), "grpc://unused:1") }
    };
    let first = run(at("first")).await;
    assert_eq!(first.companion.standings()[0].1.opened, 0);
    let told = first.client.capabilities(&context()).await.unwrap();
    assert!(told.action_cache_updates && !told.execution);
    let mut written = Vec::new();
    for length in [10, 2_000, 300_000, 3_000_000] {
        let (digest, bytes) = first.put(length).await;
        written.push((first.put_result(&[digest]).await, digest, bytes));
    }
    first.flush().await;
    let refused = execute(&first, written[0].1).await;
    assert!(!matches!(refused.kind(), Kind::Unavailable { .. }), "{refused}");
    first.end().await;

    let second = run(at("second")).await;
    for (key, digest, bytes) in &written {
        let found = second.client.get(&context(), *key).await.unwrap().unwrap();
        assert_eq!(found.files[0].digest, *digest);
        assert_eq!(second.client.read_all(&context(), *digest, 1 << 30).await.unwrap(), bytes);
    }
    assert_eq!(second.client.get(&context(), ActionKey::from(fresh(9).0)).await.unwrap(), None);
    until("all is kept", async || second.companion.store_stats().blobs == written.len() as u64).await;
    // Its protocol is known at the next start, and no password is written down.
    until("it is asked what it offers", async || {
        second.client.capabilities(&context()).await.unwrap();
        fs::read_to_string(directory.join("second/upstreams.json"))
            .is_ok_and(|text| text.contains("\"http\"") && text.contains(shown) && !text.contains("sesame"))
    })
    .await;
    second.end().await;
}

async fn execute(running: &Running, action_digest: Digest) -> mortar_model::Error {
    let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
    running.client.execute(&context(), request, &()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    let url = upstream.url.replace("grpc://", "http://");
    carries(directory.path(), &url, &url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apache() {
    for (http2, password) in [(false, true), (true, false)] {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("apache");
        fs::create_dir(&place).unwrap();
        let apache = Apache::cache(&place, Terms { http2, password }, &["below"]).unwrap();
        let user = if password { format!("{USER}:{}@", PASSWORD.replace(':', "%3A")) } else { String::new() };
        let url = format!("http://{user}{}/below", apache.address());
        carries(directory.path(), &url, &format!("http://{}/below", apache.address())).await;
        assert!(fs::read_dir(apache.root().join("below/cas")).unwrap().next().is_some());
    }
}
