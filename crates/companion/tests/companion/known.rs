//! What the upstream is known to have is not asked again; what it turns out to have lost is.

use crate::{
    LEASE, Running, context, fresh, has, is_upstream_free, run, settings,
    upstream::{Asked, Upstream, upstream},
};
use mortar_companion::Settings;
use mortar_model::{ActionCache, BlobStore, BlobStoreExt, Digest, DigestSet, Forget};
use mortar_remote::Endpoint;
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
