//! Upstreams that vanish, break connections or crawl in the midst of calls, and come back: clients notice nothing but
//! misses, people are told once, and what is owed is paid.

use crate::{
    LEASE, LIMIT, Running, context, fresh, fresh_key, has, result, run, settings, until,
    upstream::{Asked, Upstream, upstream},
};
use mortar_companion::Settings;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Digest, DigestSet, ExecutionMetadata, Kind,
};
use mortar_remote::breaker::{Call, Cause, Standing, Terms};
use mortar_testkit::network::{Link, Relay, State};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Soon impatient, and soon there again.
pub fn terms() -> Terms {
    let (limits, pauses) = [(200, 500), (50, 200)]
        .map(|(least, most)| (Duration::from_millis(least), Duration::from_millis(most)))
        .into();
    Terms { limits, pauses, ..Terms::default() }
}

pub fn relayed(upstream: &Upstream) -> (Relay, String) {
    let address = upstream.url.trim_start_matches("grpc://").replace("localhost", "127.0.0.1");
    let relay = Relay::start(&address, Link::default()).unwrap();
    let url = format!("grpc://{}", relay.address());
    (relay, url)
}

fn standing(running: &Running) -> Standing {
    running.companion.standings().remove(0).1
}

fn is_left_alone(running: &Running, call: Call) -> bool {
    standing(running).open[call as usize].is_some()
}

/// What a client does all the time. None of it may fail. What was written.
async fn build(running: &Running) -> (Digest, ActionKey) {
    let unknown = fresh(300_000).0;
    let client = &running.client;
    assert_eq!(client.get(&context(), fresh_key()).await.unwrap(), None);
    let missing = client.find_missing(&context(), &DigestSet::from_iter([unknown])).await.unwrap();
    assert!(missing.contains(&unknown));
    let (digest, bytes) = running.put(2_000).await;
    let key = running.put_result(&[digest]).await;
    assert_eq!(client.read_all(&context(), digest, 1 << 20).await.unwrap(), bytes);
    assert!(client.get(&context(), key).await.unwrap().is_some());
    (digest, key)
}

/// The upstream becomes bad in the midst of calls, and good again.
async fn comes_and_goes(bad: Link) {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (relay, url) = relayed(&upstream);
    let running = Arc::new(run(Settings { breaker: terms(), ..settings(directory.path(), &url) }).await);
    let builds = Arc::new(AtomicU64::new(0));
    let stop = tokio_util::sync::CancellationToken::new();
    let building: Vec<_> = (0..4)
        .map(|_| {
            let (running, builds, stop) = (running.clone(), builds.clone(), stop.clone());
            tokio::spawn(async move {
                let mut written = Vec::new();
                while !stop.is_cancelled() {
                    written.push(build(&running).await);
                    builds.fetch_add(1, Ordering::SeqCst);
                }
                written
            })
        })
        .collect();
    let go_on = async |number| {
        let goal = builds.load(Ordering::SeqCst) + number;
        until("builds go on", async || builds.load(Ordering::SeqCst) >= goal).await;
    };
    go_on(8).await;
    relay.set(bad);
    until("it is left alone", async || is_left_alone(&running, Call::LookUp)).await;
    // From here on nobody waits for it.
    go_on(40).await;
    relay.set(Link::default());
    let all = Call::ALL;
    until("it is used again", async || !all.iter().any(|call| is_left_alone(&running, *call))).await;
    go_on(8).await;
    stop.cancel();
    let mut written = Vec::new();
    for build in building {
        written.extend(build.await.unwrap());
    }
    running.flush().await;
    let Standing { opened, closed, refused, .. } = standing(&running);
    assert_eq!((opened, closed), (1, 1), "people are told once");
    assert!(refused > 0);
    for (digest, _) in &written {
        assert!(has(&*upstream.store, *digest).await);
    }
    let asked = upstream.watch.asked();
    assert!(!asked.iter().any(|asked| matches!(asked, Asked::PutTooEarly(_))));
    for (_, key) in &written {
        assert!(asked.contains(&Asked::Put(*key)));
    }
    Arc::into_inner(running).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole() {
    comes_and_goes(Link { state: State::BlackHole, ..Link::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break() {
    comes_and_goes(Link { state: State::Down, ..Link::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawling_network() {
    comes_and_goes(Link::with_latency(Duration::from_secs(2))).await;
}

/// What only the upstream has, it does not have while it is left alone; known it stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_there_is_not_found_meanwhile() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (relay, url) = relayed(&upstream);
    let running = run(Settings { breaker: terms(), ..settings(directory.path(), &url) }).await;
    let (digest, bytes) = fresh(500_000);
    upstream.store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    let is_missing = async || {
        !running.client.find_missing(&context(), &DigestSet::from_iter([digest])).await.unwrap().is_empty()
    };
    assert!(!is_missing().await);
    relay.set(Link { state: State::BlackHole, ..Link::default() });
    until("it is left alone", async || {
        assert_eq!(running.client.get(&context(), fresh_key()).await.unwrap(), None);
        is_left_alone(&running, Call::Read)
    })
    .await;
    let error = running.client.read_all(&context(), digest, 1 << 20).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(is_missing().await, "whoever has it may bring it");
    let flushed = running.companion.flush(Some(Duration::ZERO)).await;
    assert!(flushed.trouble.is_none(), "nothing is owed");
    running.put(10).await;
    let flushed = running.companion.flush(Some(Duration::ZERO)).await;
    assert!(flushed.trouble.is_some_and(|trouble| trouble.contains("does not answer in time")));
    relay.set(Link::default());
    until("it can be read again", async || {
        running.client.read_all(&context(), digest, 1 << 20).await.is_ok_and(|read| read == bytes)
    })
    .await;
    assert!(!is_missing().await, "what was known is still known");
    running.flush().await;
    running.end().await;
}

/// An execution that hangs, and those that come later, fail at once.
#[tokio::test(flavor = "multi_thread")]
async fn executions_fail_at_once_while_it_is_left_alone() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (relay, url) = relayed(&upstream);
    let running = run(Settings { breaker: terms(), ..settings(directory.path(), &url) }).await;
    let (action, _) = crate::executions::action(&running, running.put(1_000).await.0).await;
    running.flush().await;
    relay.set(Link { state: State::BlackHole, ..Link::default() });
    let looks = async {
        until("it is left alone", async || {
            assert_eq!(running.client.get(&context(), fresh_key()).await.unwrap(), None);
            is_left_alone(&running, Call::Execute)
        })
        .await;
    };
    let (outcome, ()) = tokio::join!(crate::executions::execute(&running, action, true), looks);
    let released = outcome.unwrap_err();
    assert!(matches!(released.kind(), Kind::Unavailable { .. }), "{released}");
    let refused = crate::executions::execute(&running, action, true).await.unwrap_err();
    assert!(refused.to_string().contains("left alone"), "{refused}");
    relay.set(Link::default());
    until("it executes", async || crate::executions::execute(&running, action, true).await.is_ok()).await;
    running.end().await;
}

/// A cache that is slower than building is not asked any more; what it gave before can still be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_no_use() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let breaker = Terms { hits: 5, ..Terms::default() };
    let running = run(Settings { breaker, ..settings(directory.path(), &upstream.url) }).await;
    let metadata = ExecutionMetadata {
        virtual_execution_duration: Some(Duration::from_nanos(1)),
        ..ExecutionMetadata::default()
    };
    let mut outputs = Vec::new();
    for _ in 0..8 {
        let (digest, bytes) = fresh(1_000);
        upstream.store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        let result = ActionResult { metadata: metadata.clone(), ..result(&[digest]) };
        let direct = mortar_remote::Endpoint::connect(&upstream.url, crate::options()).unwrap();
        let key = fresh_key();
        direct.put(&context(), key, result).await.unwrap();
        outputs.push((key, digest, bytes));
    }
    let mut found = Vec::new();
    for (key, digest, bytes) in &outputs {
        if running.client.get(&context(), *key).await.unwrap().is_some() {
            found.push((digest, bytes));
            // One of them is not read by now.
            if found.len() > 1 {
                assert_eq!(running.client.read_all(&context(), *digest, 1 << 20).await.unwrap(), bytes);
            }
        }
    }
    assert_eq!(standing(&running).open[Call::LookUp as usize], Some(Cause::NoBenefit));
    assert!(found.len() < outputs.len());
    let (digest, bytes) = found[0];
    let read = tokio::time::timeout(LIMIT, running.client.read_all(&context(), *digest, 1 << 20)).await;
    assert_eq!(read.unwrap().unwrap(), bytes);
    running.end().await;
}
