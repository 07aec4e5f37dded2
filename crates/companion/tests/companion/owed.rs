//! What is written is acknowledged here and paid there, in order, whatever happens in between.

use crate::{
    LEASE, context, fresh, fresh_key, has, result, run, settings, until,
    upstream::{Asked, Mood, upstream},
    wrote,
};
use mortar_companion::{Bounds, Mode, Settings};
use mortar_model::{ActionCache, ActionKey, BlobStoreExt, Kind};
use mortar_remote::Endpoint;
use mortar_testkit::faults;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_before_the_results_that_name_them() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let mut keys = HashSet::new();
    for _ in 0..50 {
        let outputs = [running.put(500).await.0, running.put(100_000).await.0];
        keys.insert(running.put_result(&outputs).await);
    }
    running.flush().await;
    // That each result found its blobs there, the upstream itself has looked.
    let asked = upstream.watch.asked();
    assert!(!asked.iter().any(|asked| matches!(asked, Asked::PutTooEarly(_))), "{asked:?}");
    let put: HashSet<ActionKey> = asked
        .iter()
        .filter_map(|asked| if let Asked::Put(key) = asked { Some(*key) } else { None })
        .collect();
    assert_eq!(put, keys);
    assert_eq!(wrote(&asked), 100, "each blob once");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_while_the_upstream_is_away_is_paid_when_it_is_back_also_by_the_next_run() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let mut running = run(settings(directory.path(), &upstream.url)).await;
    upstream.watch.set_mood(Mood::Away);
    let mut owed = Vec::new();
    for _ in 0..3 {
        let (digest, bytes) = running.put(2_000).await;
        let key = running.put_result(&[digest]).await;
        owed.push((digest, key));
        // What was written is here, and served.
        assert_eq!(running.client.read_all(&context(), digest, 1 << 20).await.unwrap(), bytes);
        assert!(running.client.get(&context(), key).await.unwrap().is_some());
        running.end().await;
        running = run(settings(directory.path(), &upstream.url)).await;
    }
    let left = running.companion.left();
    assert_eq!((left.blobs, left.results), (3, 3));
    let flushed = running.companion.flush(Some(Duration::from_millis(300))).await;
    assert_eq!((flushed.left.blobs, flushed.left.results), (3, 3));
    assert!(flushed.trouble.is_some_and(|trouble| trouble.contains("away")));
    upstream.watch.set_mood(Mood::Well);
    running.flush().await;
    let direct = Endpoint::connect(&upstream.url, crate::options()).unwrap();
    for (digest, key) in owed {
        assert!(has(&*upstream.store, digest).await);
        assert!(direct.get(&context(), key).await.unwrap().is_some());
    }
    running.end().await;
}

/// A server may let go what no invocation counts on, even a blob whose result is still to come.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_is_paid_as_an_invocation_of_the_companion() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let outputs = [running.put(500).await.0, running.put(5_000_000).await.0];
    running.put_result(&outputs).await;
    running.flush().await;
    let writers = upstream.watch.writers();
    assert!(writers.len() == 1 && !writers.contains(""), "{writers:?}");
    running.end().await;
}

/// Many writes at a time mean that a client waits for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_let_a_crowd_of_writes_go_first_but_not_for_ever() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let blobs = running.companion.worker_ports(Mode::Race).blobs;
    let mut crowd = JoinSet::new();
    for _ in 0..65 {
        let (digest, bytes) = fresh(1_000);
        let (blob, stalled) = faults::stalling(digest.size(), bytes);
        let blobs = blobs.clone();
        crowd.spawn(async move { blobs.write(&context(), digest, blob).await });
        stalled.await.unwrap();
    }
    let begun = Instant::now();
    let (digest, _) = running.put(500).await;
    until("the small blob is upstream", async || upstream.watch.has(&Asked::Wrote(digest))).await;
    // However slow this machine is, it took no less.
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(crowd.try_join_next().is_none(), "none has ended");
    crowd.shutdown().await;
    let (digest, _) = running.put(500).await;
    until("the next one is, too", async || upstream.watch.has(&Asked::Wrote(digest))).await;
    running.end().await;
}

/// As in a race: who sees it takes it for done, and whoever puts it is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_can_be_seen_is_owed_though_its_writer_is_gone() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    upstream.watch.set_mood(Mood::Away);
    let actions = running.companion.worker_ports(Mode::Race).actions;
    for number in 1..=30 {
        let (key, output) = (fresh_key(), running.put(2_000).await.0);
        let context = context();
        let seen = async {
            while actions.get(&context, key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = seen => {}
            put = actions.put(&context, key, result(&[output])) => put.unwrap(),
        }
        assert_eq!(running.companion.left().results, number);
    }
    upstream.watch.set_mood(Mood::Well);
    running.flush().await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_dropped_and_told() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    upstream.watch.set_mood(Mood::NoResults);
    let (digest, _) = running.put(2_000).await;
    let key = running.put_result(&[digest]).await;
    let flushed = running.companion.flush(Some(crate::LIMIT)).await;
    assert_eq!((flushed.left.blobs, flushed.left.results, flushed.refused.len()), (0, 0, 1));
    assert!(flushed.refused[0].what.contains(&key.hex()) && flushed.refused[0].why.contains("not for you"));
    assert!(has(&*upstream.store, digest).await);
    // It is told once, and stays to be seen.
    assert!(running.companion.flush(Some(crate::LIMIT)).await.refused.is_empty());
    assert_eq!(running.companion.refused().len(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_upstream_is_waited_for_and_a_full_journal_makes_writers_wait() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let owed = Bounds { entries: 3, bytes: 1 << 20 };
    let running = run(Settings { owed, ..settings(directory.path(), &upstream.url) }).await;
    upstream.watch.set_mood(Mood::Full);
    let mut digests = Vec::new();
    for _ in 0..3 {
        digests.push(running.put(1_000).await.0);
    }
    let (digest, bytes) = fresh(1_000);
    let (client, sent) = (running.client.clone(), bytes.clone());
    let writing = tokio::spawn(async move { client.write_bytes(&context(), digest, sent).await });
    let refused = writing.await.unwrap().unwrap_err();
    assert!(matches!(refused.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{refused}");
    assert_eq!(running.companion.left().blobs, 3);
    // Who waits when there is room again goes on.
    let client = running.client.clone();
    let writing = tokio::spawn(async move { client.write_bytes(&context(), digest, bytes).await });
    upstream.watch.set_mood(Mood::Well);
    writing.await.unwrap().unwrap();
    running.flush().await;
    for digest in digests.into_iter().chain([digest]) {
        assert!(has(&*upstream.store, digest).await);
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_through_waits_for_the_upstream_and_tells_what_it_says() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(Settings { write_through: true, ..settings(directory.path(), &upstream.url) }).await;
    let (digest, _) = running.put(2_000).await;
    assert!(has(&*upstream.store, digest).await);
    upstream.watch.set_mood(Mood::NoResults);
    let refused = running.client.put(&context(), crate::fresh_key(), result(&[digest])).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::PermissionDenied { .. }), "{refused}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_not_sent() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (small, large) = (fresh(20_000), fresh(1_000_000));
    for (digest, bytes) in [&small, &large] {
        upstream.store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
        running.client.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
    }
    running.put_result(&[small.0, large.0]).await;
    running.flush().await;
    let asked = upstream.watch.asked();
    assert_eq!(wrote(&asked), 0, "{asked:?}");
    assert!(asked.iter().any(|asked| matches!(asked, Asked::Put(_))));
    running.end().await;
}

/// To ask about a few bytes would take a round trip, and hardly fewer of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_bytes_that_nobody_has_heard_of_are_sent_without_a_question() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (digest, _) = running.put(2_000).await;
    let key = running.put_result(&[digest]).await;
    running.flush().await;
    assert_eq!(upstream.watch.asked(), [Asked::Wrote(digest), Asked::Put(key)]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_blobs_travel_in_few_calls() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    upstream.watch.set_mood(Mood::Away);
    let writes = (0..500).map(|_| running.put(2_000));
    futures::future::join_all(writes).await;
    assert_eq!(running.companion.left().blobs, 500);
    upstream.watch.set_mood(Mood::Well);
    running.flush().await;
    let asked = upstream.watch.asked();
    let questions = asked.iter().filter(|asked| matches!(asked, Asked::Missing(_))).count();
    assert_eq!(wrote(&asked), 500);
    assert!(questions <= 3, "{questions}");
    until("it is idle", async || running.companion.left().blobs == 0).await;
    running.end().await;
}
