//! Transfers over connections that end again and again: what arrived is not sent once more, either way.

use crate::{LEASE, context, fresh, has, options, run, settings, until, upstream::upstream};
use mortar_companion::Settings;
use mortar_model::{BlobStoreExt, Digest};
use mortar_remote::{Options, Retry};
use mortar_testkit::network::{Change, Counts, Link, Plan, Relay, Script, Trigger};
use std::time::Duration;

/// How much is moved, over how many disconnects: `MORTAR_TRANSFER=1GiB/20` for the figure of the product.
fn amount() -> (u64, u64) {
    let Ok(asked) = std::env::var("MORTAR_TRANSFER") else { return (64 << 20, 8) };
    let (size, disconnects) = asked.split_once('/').expect("`MORTAR_TRANSFER` is such as 1GiB/20");
    (mortar_testkit::network::size(size).unwrap(), disconnects.parse().unwrap())
}

/// How much goes beyond what must: a twentieth, and where little is moved, what may be under way at each disconnect.
fn most(size: u64, disconnects: u64) -> u64 {
    size + (size / 20).max(disconnects * (3 << 20))
}

/// A network that breaks all connections after each so many bytes.
fn breaking(upstream: &str, size: u64, disconnects: u64) -> Relay {
    let step = size / (disconnects + 1);
    let script = (1..=disconnects)
        .fold(Script::default(), |script, number| script.then(Trigger::After(number * step), Change::Reset));
    let address = upstream.trim_start_matches("grpc://").replace("localhost", "127.0.0.1");
    Relay::start_with(&address, Link::default(), Plan { script, ..Plan::default() }).unwrap()
}

/// As `mortar companion` has it.
fn usual(mut settings: Settings) -> Settings {
    let retry = Retry { attempts: 2, ..Retry::default() };
    settings.remote = Options { compression: true, retry, ..options() };
    (settings.max_size, settings.owed.bytes) = (8 << 30, 4 << 30);
    settings
}

fn assert_frugal(counts: Counts, size: u64, disconnects: u64) {
    let moved = counts.bytes_up + counts.bytes_down;
    println!("{size} bytes over {disconnects} disconnects: {moved} moved ({counts})");
    assert!(counts.connections > disconnects, "the network did not break: {counts}");
    assert!(moved <= most(size, disconnects), "{moved} bytes moved for {size}: {counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_was_broken_off() {
    let ((size, disconnects), directory) = (amount(), tempfile::tempdir().unwrap());
    let upstream = upstream(Some(LEASE)).await;
    let relay = breaking(&upstream.url, size, disconnects);
    let url = format!("grpc://{}", relay.address());
    let running = run(usual(settings(directory.path(), &url))).await;
    let (digest, _) = running.put(size as usize).await;
    running.flush().await;
    assert!(has(&*upstream.store, digest).await);
    assert_frugal(relay.counts(), size, disconnects);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_was_broken_off() {
    let ((size, disconnects), directory) = (amount(), tempfile::tempdir().unwrap());
    let upstream = upstream(Some(LEASE)).await;
    let (digest, bytes) = fresh(size as usize);
    upstream.store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    let relay = breaking(&upstream.url, size, disconnects);
    let url = format!("grpc://{}", relay.address());
    let running = run(usual(settings(directory.path(), &url))).await;
    let read = running.client.read_all(&context(), digest, 8 << 30).await.unwrap();
    assert_eq!(Digest::of(digest.function(), &read), digest);
    assert_frugal(relay.counts(), size, disconnects);
    until("it is kept", async || running.companion.store_stats().blobs == 1).await;
    running.end().await;
}

/// The upload goes on in another try, long after the one that failed was given up.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_the_network_was_away() {
    let (size, directory) = (16 << 20, tempfile::tempdir().unwrap());
    let upstream = upstream(Some(LEASE)).await;
    let script = "after 8MiB down".parse().unwrap();
    let address = upstream.url.trim_start_matches("grpc://").replace("localhost", "127.0.0.1");
    let relay = Relay::start_with(&address, Link::default(), Plan { script, ..Plan::default() }).unwrap();
    let settings = usual(settings(directory.path(), &format!("grpc://{}", relay.address())));
    let running = run(Settings { breaker: crate::away::terms(), ..settings }).await;
    let (digest, _) = running.put(size).await;
    until("it was tried in vain", async || {
        running.companion.flush(Some(Duration::ZERO)).await.trouble.is_some()
    })
    .await;
    assert!(relay.counts().bytes_up >= 8 << 20);
    relay.set(Link::default());
    running.flush().await;
    assert!(has(&*upstream.store, digest).await);
    assert_frugal(relay.counts(), size as u64, 1);
    running.end().await;
}
