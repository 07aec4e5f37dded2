//! Bazel's HTTP/1.1, one connection a request, before upstreams of other protocols: how many connections become of it.

use crate::{
    Running, context, fresh, fresh_key, result, run, settings,
    upstream::{Upstream, upstream},
};
use bytes::Bytes;
use mortar_companion::{Settings, UpstreamAddress};
use mortar_model::{ActionCache, ActionKey, BlobStoreExt, Codec, Digest, InstanceName};
use mortar_remote::Endpoint;
use mortar_testkit::{
    apache::{Apache, Terms},
    http::bazel,
    network::{Link, Relay},
};
use mortar_wire::Protobuf;
use std::{
    path::Path,
    sync::{Arc, Barrier},
    time::Duration,
};

const REQUESTS: usize = 200;

struct Entry {
    key: ActionKey,
    blob: (Digest, Bytes),
}

fn entries() -> Vec<Entry> {
    (0..REQUESTS).map(|_| Entry { key: fresh_key(), blob: fresh(2_000) }).collect()
}

impl Entry {
    fn paths(&self) -> [String; 2] {
        let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        [format!("/ac/{}", hex(&self.key.hash)), format!("/cas/{}", hex(self.blob.0.hash()))]
    }

    fn result(&self) -> Bytes {
        Protobuf.encode_result(&result(&[self.blob.0]))
    }
}

/// Makes what Bazel asks of all of them, at the same time.
async fn all_at_once(
    running: &Running,
    entries: &Arc<Vec<Entry>>,
    act: impl Fn(&str, &Entry) + Copy + Send + 'static,
) {
    let address = running.client.endpoint().to_string().trim_start_matches("grpc://").to_owned();
    let barrier = Arc::new(Barrier::new(REQUESTS));
    let threads: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let (entries, address, barrier) = (entries.clone(), address.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                act(&address, &entries[number]);
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| thread.join().unwrap()))
        .await
        .unwrap();
}

fn put(address: &str, entry: &Entry) {
    let [result, blob] = entry.paths();
    assert_eq!(bazel(address, "PUT", &blob, &entry.blob.1).unwrap().status, 200);
    assert_eq!(bazel(address, "PUT", &result, &entry.result()).unwrap().status, 200);
}

fn get(address: &str, entry: &Entry) {
    let [result, blob] = entry.paths();
    let found = bazel(address, "GET", &result, &[]).unwrap();
    assert_eq!((found.status, found.body), (200, entry.result().to_vec()));
    let found = bazel(address, "GET", &blob, &[]).unwrap();
    assert_eq!((found.status, found.body), (200, entry.blob.1.to_vec()));
}

/// What one companion is given by as many requests as Bazel makes at once, another one finds upstream; how many connections
/// each of them made. Everything takes so long on the way that all requests are under way at the same time.
async fn connections(directory: &Path, upstream: &str, scheme: &str) -> [u64; 2] {
    let entries = Arc::new(entries());
    let mut made = [0; 2];
    for (number, made) in made.iter_mut().enumerate() {
        let relay = Relay::start(upstream, Link::with_latency(Duration::from_millis(50))).unwrap();
        let uri = format!("{scheme}://{}", relay.address());
        let upstreams = vec![UpstreamAddress { name: InstanceName::default(), uri }];
        let place = directory.join(number.to_string());
        let running = run(Settings { upstreams, ..settings(&place, "grpc://unused:1") }).await;
        all_at_once(&running, &entries, if number == 0 { put } else { get }).await;
        running.flush().await;
        running.end().await;
        *made = relay.counts().connections;
    }
    made
}

fn address(upstream: &Upstream) -> String {
    upstream.url.trim_start_matches("grpc://").replace("localhost", "127.0.0.1")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_of_http_1_are_two_connections_to_a_server_of_grpc() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    let made = connections(directory.path(), &address(&upstream), "grpc").await;
    assert!(made.iter().all(|made| (1..=2).contains(made)), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_of_http_1_are_two_connections_to_a_cache_of_http_2() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    let made = connections(directory.path(), &address(&upstream), "http").await;
    assert!(made.iter().all(|made| (1..=2).contains(made)), "{made:?}");
}

/// It falls back by itself: one trial, then as many as are allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_knows_no_http_2_is_spoken_to_in_http_1() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("apache");
    std::fs::create_dir(&place).unwrap();
    let apache = Apache::cache(&place, Terms::default(), &[]).unwrap();
    let allowed = mortar_remote::HttpOptions::default().connections as u64;
    let [put, get] = connections(directory.path(), apache.address(), "http").await;
    assert!((3..=allowed + 1).contains(&put) && (3..=allowed + 1).contains(&get), "{put} and {get}");
}

/// Bazel tells no size of a blob: what a result named is found upstream all the same, and what nobody named is not.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_results_named_are_found_upstream_by_their_hash() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    let direct = Endpoint::connect(&upstream.url, crate::options()).unwrap();
    let [named, other] = [0, 1].map(|_| Entry { key: fresh_key(), blob: fresh(2_000) });
    for entry in [&named, &other] {
        direct.write_bytes(&context(), entry.blob.0, entry.blob.1.clone()).await.unwrap();
        direct.put(&context(), entry.key, result(&[entry.blob.0])).await.unwrap();
    }
    let running = run(settings(directory.path(), &upstream.url)).await;
    let address = running.client.endpoint().to_string().trim_start_matches("grpc://").to_owned();
    tokio::task::spawn_blocking(move || {
        let before = bazel(&address, "GET", &named.paths()[1], &[]).unwrap();
        assert_eq!(before.status, 404, "its size is not known");
        get(&address, &named);
        assert_eq!(bazel(&address, "GET", &other.paths()[1], &[]).unwrap().status, 404);
    })
    .await
    .unwrap();
    running.end().await;
}
