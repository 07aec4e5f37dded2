//! What the upstream is known to have is not asked again; what it turns out to have lost is.

use crate::{
    LEASE, Running, context, fresh, fresh_key, has, is_upstream_free, run, settings,
    upstream::{Asked, Upstream, upstream},
};
use mortar_companion::Settings;
use mortar_model::{ActionCache, ActionKey, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Forget};
use mortar_remote::{Endpoint, Options};
use mortar_testkit::network::Link;
use std::time::Duration;

async fn is_missing(running: &Running, digest: Digest) -> bool {
    !running.client.find_missing(&context(), &DigestSet::from_iter([digest])).await.unwrap().is_empty()
}

/// How often the upstream was asked what it has. That it looks itself before it takes a stream does not count.
fn questions(upstream: &Upstream) -> usize {
    let asked = upstream.watch.asked();
    let own = asked.windows(2).filter(|pair| match pair {
        [Asked::Missing(of), Asked::Wrote(digest)] => of.len() == 1 && of.contains(digest),
        _ => false,
    });
    asked.iter().filter(|asked| matches!(asked, Asked::Missing(_))).count() - own.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_asked_for_once_also_over_restarts_and_a_small_one_never() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (large, small, absent) = (fresh(1_000_000), fresh(1_000), fresh(1_000_000));
    for (digest, bytes) in [&large, &small] {
        upstream.store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
    }
    let running = run(settings(directory.path(), &upstream.url)).await;
    running.client.capabilities(&context()).await.unwrap();
    upstream.watch.asked();
    assert!(!is_missing(&running, large.0).await && is_missing(&running, small.0).await);
    assert!(is_missing(&running, absent.0).await);
    assert_eq!(questions(&upstream), 2);
    // The write of an absent blob does not ask once more.
    running.client.write_bytes(&context(), absent.0, absent.1.clone()).await.unwrap();
    running.flush().await;
    assert_eq!(questions(&upstream), 0);
    running.end().await;
    let running = run(settings(directory.path(), &upstream.url)).await;
    assert!(!is_missing(&running, large.0).await && !is_missing(&running, absent.0).await);
    assert!(is_upstream_free(&upstream));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_look_at_what_was_built_asks_nobody() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (digest, _) = running.put(1_000).await;
    let key = running.put_result(&[digest]).await;
    running.flush().await;
    upstream.watch.asked();
    let mut running = running;
    for _ in 0..2 {
        assert!(running.client.get(&context(), key).await.unwrap().is_some());
        assert!(!is_missing(&running, digest).await);
        running.client.read_all(&context(), digest, 1 << 20).await.unwrap();
        running.put_result(&[digest]).await;
        running.flush().await;
        let asked = upstream.watch.asked();
        assert!(matches!(asked[..], [Asked::Put(_)]), "{asked:?}");
        running.end().await;
        running = run(settings(directory.path(), &upstream.url)).await;
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_upstream_is_known_to_be_lost_and_sent_again() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (digest, bytes) = fresh(1_000_000);
    upstream.store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert!(!is_missing(&running, digest).await);
    assert!(upstream.store.forget(&context(), digest).await.unwrap());
    let error = running.client.read_all(&context(), digest, 1 << 30).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(is_missing(&running, digest).await);
    running.client.write_bytes(&context(), digest, bytes).await.unwrap();
    running.flush().await;
    assert!(has(&*upstream.store, digest).await);
    running.end().await;
}

/// Of what an upstream once had, a client may have nothing but the name: it is not called missing without a question.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_once_is_asked_for() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(None).await);
    let (digest, bytes) = fresh(1_000);
    upstream.store.write_bytes(&context(), digest, bytes).await.unwrap();
    let short = |lease| Settings {
        foreign_lease: Duration::from_secs(lease),
        ..settings(directory.path(), &upstream.url)
    };
    let key = crate::fresh_key();
    let direct = Endpoint::connect(&upstream.url, crate::options()).unwrap();
    direct.put(&context(), key, crate::result(&[digest])).await.unwrap();
    let running = run(short(3)).await;
    assert!(is_missing(&running, digest).await, "nothing was known of it");
    assert!(running.client.get(&context(), key).await.unwrap().is_some());
    assert!(!is_missing(&running, digest).await);
    running.end().await;
    upstream.watch.asked();
    // Two of the three seconds are trusted.
    let running = run(short(3)).await;
    crate::until("its time is over", async || {
        assert!(!is_missing(&running, digest).await);
        questions(&upstream) > 0
    })
    .await;
    running.end().await;
}

/// Many who ask the same at the same time are one to the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_at_the_same_time_are_one() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (relay, url) = crate::away::relayed(&upstream);
    let running = run(settings(directory.path(), &url)).await;
    running.client.capabilities(&context()).await.unwrap();
    is_missing(&running, fresh(1_000_000).0).await;
    relay.set(Link::with_latency(Duration::from_millis(500)));
    let (key, absent, other) = (fresh_key(), fresh(1_000_000).0, fresh(1_000_000).0);
    upstream.watch.asked();
    let gets = (0..8).map(|_| async { running.client.get(&context(), key).await.unwrap() });
    // Each of them asks about one that others ask about, too.
    let sets = [vec![absent, other], vec![absent], vec![other]].map(DigestSet::from_iter);
    let finds = (0..9).map(|at| {
        let digests = &sets[at % sets.len()];
        let running = &running;
        async move { running.client.find_missing(&context(), digests).await.unwrap() == *digests }
    });
    let (got, found) = tokio::join!(futures::future::join_all(gets), futures::future::join_all(finds));
    assert!(got.iter().all(Option::is_none) && found.iter().all(|all_missing| *all_missing));
    let asked = upstream.watch.asked();
    assert_eq!(asked.iter().filter(|asked| **asked == Asked::Got(key)).count(), 1, "{asked:?}");
    let about = |digest| {
        let is_about = |asked: &&Asked| matches!(asked, Asked::Missing(of) if of.contains(digest));
        asked.iter().filter(is_about).count()
    };
    assert_eq!((about(&absent), about(&other)), (1, 1), "{asked:?}");
    running.end().await;
}

/// What Bazel reads next is here by then.
#[tokio::test(flavor = "multi_thread")]
async fn small_outputs_come_with_the_result_that_is_looked_up() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (small, larger) = (fresh(1_000), fresh(5_000));
    for (digest, bytes) in [&small, &larger] {
        upstream.store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
    }
    let key = fresh_key();
    let direct = Endpoint::connect(&upstream.url, crate::options()).unwrap();
    direct.put(&context(), key, crate::result(&[small.0, larger.0])).await.unwrap();
    let remote = Options { small_outputs: Some(4_096), ..crate::options() };
    let running = run(Settings { remote, ..settings(directory.path(), &upstream.url) }).await;
    let found = running.client.get(&context(), key).await.unwrap().unwrap();
    assert!(found.files.iter().all(|file| file.contents.is_empty()), "nobody asked the companion for them");
    upstream.watch.asked();
    for (digest, bytes) in [&small, &larger] {
        assert_eq!(running.client.read_all(&context(), *digest, 1 << 20).await.unwrap(), *bytes);
    }
    let asked = upstream.watch.asked();
    assert_eq!(asked, [Asked::Read(larger.0)]);
    running.end().await;
}

/// Strict servers look at the size of an action's digest.
#[tokio::test(flavor = "multi_thread")]
async fn actions_are_told_with_their_sizes() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (action, _) = running.put(123).await;
    let key = ActionKey::from(action);
    let context = Context { action: Some(action), ..context() };
    assert!(running.client.get(&context, key).await.unwrap().is_none());
    running.client.put(&context, key, crate::result(&[action])).await.unwrap();
    running.flush().await;
    assert_eq!(upstream.watch.sizes(), [(key, 123), (key, 123)]);
    running.end().await;
}
