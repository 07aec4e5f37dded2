//! A companion between a client of ours and a server of ours, all in one process, over real sockets: what it answers
//! from where, what it owes, and what becomes of that when upstreams fail.
#![allow(clippy::unwrap_used)]

mod access;
mod away;
mod executions;
mod expiries;
mod front;
mod http;
mod known;
mod lives;
mod many;
mod owed;
mod resumed;
mod upstream;

use bytes::Bytes;
use mortar_companion::{Bounds, Companion, Settings, UpstreamAddress};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    DigestSet, InstanceName, OutputFile,
};
use mortar_remote::{Endpoint, Options, Remote, Retry, breaker::Terms};
use mortar_services::listener::{self, Listener};
use mortar_store::LeaseTerms;
use mortar_testkit::conformance::{Random, Subject, assert_conforms};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use upstream::{Asked, Upstream, upstream};

const LEASE: Duration = Duration::from_secs(3 * 3600);
const LIMIT: Duration = Duration::from_secs(60);

/// Nothing is tried twice: what fails does so at once.
fn options() -> Options {
    Options { retry: Retry::NEVER, ..Options::default() }
}

fn settings(directory: &Path, upstream: &str) -> Settings {
    Settings {
        directory: directory.to_owned(),
        max_size: 1 << 30,
        leases: LeaseTerms::default(),
        upstreams: vec![UpstreamAddress { name: InstanceName::default(), uri: upstream.to_owned() }],
        remote: options(),
        breaker: Terms::default(),
        foreign_lease: Duration::from_secs(600),
        owed: Bounds { entries: 100_000, bytes: 256 << 20 },
        write_through: false,
    }
}

/// A companion that is served, and a client of it.
struct Running {
    companion: Arc<Companion>,
    client: Remote,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn run(settings: Settings) -> Running {
    let companion = Arc::new(Companion::assemble(settings).unwrap());
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = Endpoint::connect(&listener.url(), options()).unwrap();
    let (stop, router) = (CancellationToken::new(), companion.router(Default::default()));
    let serving = tokio::spawn(listener::serve(listener, router, stop.clone().cancelled_owned()));
    Running { companion, client, stop, serving }
}

impl Running {
    async fn end(self) {
        let Self { companion, client, stop, serving } = self;
        drop(client);
        stop.cancel();
        serving.await.unwrap();
        companion.close().await;
    }

    /// Waits until nothing is owed any more.
    async fn flush(&self) {
        let flushed = self.companion.flush(Some(LIMIT)).await;
        assert_eq!((flushed.left.blobs, flushed.left.results), (0, 0), "{flushed:?}");
        assert!(flushed.refused.is_empty(), "{flushed:?}");
    }

    async fn put(&self, length: usize) -> (Digest, Bytes) {
        let (digest, bytes) = fresh(length);
        self.client.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        (digest, bytes)
    }

    async fn put_result(&self, outputs: &[Digest]) -> ActionKey {
        let key = fresh_key();
        self.client.put(&context(), key, result(outputs)).await.unwrap();
        key
    }
}

fn context() -> Context {
    Context::internal()
}

fn fresh(length: usize) -> (Digest, Bytes) {
    Random::new().blob(DigestFunction::Sha256, length)
}

fn fresh_key() -> ActionKey {
    ActionKey::from(fresh(32).0)
}

fn result(outputs: &[Digest]) -> ActionResult {
    let file = |(at, digest): (usize, &Digest)| OutputFile {
        path: format!("out{at}"),
        digest: *digest,
        is_executable: false,
        contents: Bytes::new(),
        properties: None,
    };
    ActionResult { files: outputs.iter().enumerate().map(file).collect(), ..ActionResult::default() }
}

async fn has(store: &dyn BlobStore, digest: Digest) -> bool {
    store.find_missing(&Context::glance(), &DigestSet::from_iter([digest])).await.unwrap().is_empty()
}

/// Waits until something holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn wrote(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| matches!(asked, Asked::Wrote(_))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_conforms() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    for (write_through, compression) in [(false, true), (true, false)] {
        let directory = directory.path().join(write_through.to_string());
        let running = run(Settings { write_through, ..settings(&directory, &upstream.url) }).await;
        let options = Options { compression, ..options() };
        let remote = Endpoint::connect(&running.client.endpoint().to_string(), options).unwrap();
        let mut subject = Subject::new(Arc::new(remote.clone()));
        subject.actions = Some(Arc::new(remote.clone()));
        subject.uploads = Some(Arc::new(remote.uploads()));
        assert_conforms(&subject).await;
        running.flush().await;
        running.end().await;
    }
}

/// What one client wrote, another one reads from the upstream; and through another companion, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_kept() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let first = run(settings(&directory.path().join("first"), &upstream.url)).await;
    let (small, large) = (first.put(1_000).await, first.put(3_000_000).await);
    let key = first.put_result(&[small.0, large.0]).await;
    first.flush().await;
    let direct = Endpoint::connect(&upstream.url, options()).unwrap();
    assert!(direct.get(&context(), key).await.unwrap().is_some());

    let second = run(settings(&directory.path().join("second"), &upstream.url)).await;
    upstream.watch.asked();
    for _ in 0..3 {
        let found = second.client.get(&context(), key).await.unwrap().unwrap();
        assert_eq!(found.files.len(), 2);
        for (digest, bytes) in [&small, &large] {
            let context = context();
            let reads = (0..8).map(|_| second.client.read_all(&context, *digest, 1 << 30));
            for read in futures::future::join_all(reads).await {
                assert_eq!(read.unwrap(), bytes);
            }
            until("the blob is kept", async || second.companion.store_stats().blobs > 0).await;
        }
        until("both are kept", async || second.companion.store_stats().blobs == 2).await;
        until("the result is kept", async || second.companion.store_stats().results == 1).await;
    }
    let asked = upstream.watch.asked();
    let reads = asked.iter().filter(|asked| **asked == Asked::Read(small.0)).count();
    // A read that begins when another has ended, and before that one's copy is here, is one more.
    assert!((1..=3).contains(&reads), "concurrent misses are merged: {asked:?}");
    assert_eq!(asked.iter().filter(|asked| **asked == Asked::Got(key)).count(), 1);
    second.end().await;
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_names_lead_to_upstreams() {
    let directory = tempfile::tempdir().unwrap();
    let (main, other) = (upstream(Some(LEASE)).await, upstream(Some(LEASE)).await);
    let mut settings = settings(directory.path(), &main.url);
    settings
        .upstreams
        .push(UpstreamAddress { name: InstanceName::parse("other").unwrap(), uri: other.url.clone() });
    let running = run(settings).await;
    for (instance, there, elsewhere) in [
        ("", &main, &other),
        ("other", &other, &main),
        ("other/deep", &other, &main),
        ("otherwise", &main, &other),
    ] {
        let context = context().with_instance(InstanceName::parse(instance).unwrap());
        let (digest, bytes) = fresh(100);
        running.client.write_bytes(&context, digest, bytes).await.unwrap();
        running.client.put(&context, ActionKey::from(digest), result(&[digest])).await.unwrap();
        running.flush().await;
        assert!(has(&*there.store, digest).await && !has(&*elsewhere.store, digest).await, "{instance}");
        let direct = Endpoint::connect(&there.url, options()).unwrap();
        let rest = instance.strip_prefix("other/").unwrap_or(if instance == "other" { "" } else { instance });
        let context = context.with_instance(InstanceName::parse(rest).unwrap());
        assert!(direct.get(&context, ActionKey::from(digest)).await.unwrap().is_some(), "{instance}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_does_not_offer_is_not_offered() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    upstream.watch.forbid_updates();
    let running = run(settings(directory.path(), &upstream.url)).await;
    let told = running.client.capabilities(&context()).await.unwrap();
    assert!(told.execution && !told.action_cache_updates && told.lease.is_none());
    let error = running.client.put(&context(), fresh_key(), result(&[])).await.unwrap_err();
    assert!(matches!(error.kind(), mortar_model::Kind::PermissionDenied { .. }), "{error}");
    running.end().await;
    // It is known from now on, also while the upstream is away.
    let url = upstream.url.clone();
    drop(upstream);
    let running = run(settings(directory.path(), &url)).await;
    assert!(!running.client.capabilities(&context()).await.unwrap().action_cache_updates);
    running.end().await;
}

fn is_upstream_free(upstream: &Upstream) -> bool {
    upstream.watch.asked().is_empty()
}
