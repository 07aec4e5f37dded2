//! Pins outlive leases, within a quota.

use crate::fixture::{HeldClock, config, context, fetch, fresh, is_present, put};
use mortar_model::{BlobStoreExt, Digest, DigestSet, Holds, Kind, Pins, Range};
use mortar_store::{DiskStore, LeaseTerms, Policy};
use std::{path::Path, sync::Arc, time::Duration};

const SIZE: u64 = 16 << 20;

/// Nothing is leased, so all goes that is not pinned.
fn open(directory: &Path, clock: &Arc<HeldClock>) -> Arc<DiskStore> {
    let leases = LeaseTerms { lease: Duration::ZERO, grace: Duration::ZERO };
    let policy = Policy { leases, clock: clock.clone(), ..Policy::default() };
    DiskStore::open_with(config(directory, SIZE), policy).unwrap()
}

async fn fill(store: &DiskStore, clock: &HeldClock) {
    for _ in 0..40 {
        clock.advance(60);
        put(store, 1_000_000).await;
        put(store, 100_000).await;
    }
}

fn set(digests: &[Digest]) -> DigestSet {
    digests.iter().copied().collect()
}

#[tokio::test]
async fn pinned_blobs_stay_also_after_a_restart_until_they_are_unpinned() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HeldClock::new());
    let mut store = open(directory.path(), &clock);
    let (small, large) = (put(&*store, 10_000).await, put(&*store, 1_000_000).await);
    let other = put(&*store, 10_000).await.0;
    store.pin(&context(), "workspace", &set(&[small.0, large.0])).await.unwrap();
    for _ in 0..2 {
        fill(&store, &clock).await;
        assert!(store.stats().evictions > 0);
        for (digest, bytes) in [&small, &large] {
            assert_eq!(fetch(&*store, *digest, Range::ALL).await.unwrap(), bytes);
        }
        drop(store);
        store = open(directory.path(), &clock);
    }
    assert!(!is_present(&*store, other).await);
    assert_eq!(store.pinned().await.unwrap(), [("workspace".into(), set(&[small.0, large.0]))]);
    assert!(store.unpin("workspace").await.unwrap());
    assert!(!store.unpin("workspace").await.unwrap());
    fill(&store, &clock).await;
    assert!(!is_present(&*store, large.0).await && !is_present(&*store, small.0).await);
}

#[tokio::test]
async fn held_blobs_stay_until_they_are_released_as_often_as_they_were_held() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HeldClock::new());
    let store = open(directory.path(), &clock);
    let [once, twice, pinned] =
        [put(&*store, 300_000).await.0, put(&*store, 10_000).await.0, put(&*store, 10_000).await.0];
    for digest in [once, twice, twice, pinned] {
        assert!(store.hold(digest));
    }
    assert!(!store.hold(fresh(10_000).0), "what is not here cannot be held here");
    // Pins that come and go change nothing about it.
    store.pin(&context(), "workspace", &set(&[pinned])).await.unwrap();
    store.release(twice);
    let present = async || {
        fill(&store, &clock).await;
        [is_present(&*store, once).await, is_present(&*store, twice).await, is_present(&*store, pinned).await]
    };
    assert_eq!(present().await, [true, true, true]);
    store.release(once);
    store.release(pinned);
    assert_eq!(present().await, [false, true, true]);
    store.unpin("workspace").await.unwrap();
    store.release(twice);
    assert_eq!(present().await, [false, false, false]);
}

#[tokio::test]
async fn what_an_earlier_process_held_goes() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HeldClock::new());
    let store = open(directory.path(), &clock);
    // Files of their own: what lies in one segment goes together.
    let (held, again) = (put(&*store, 300_000).await.0, put(&*store, 300_000).await.0);
    assert!(store.hold(held) && store.hold(again));
    drop(store);
    let store = open(directory.path(), &clock);
    assert!(store.hold(again));
    fill(&store, &clock).await;
    assert!(is_present(&*store, again).await, "what is held went");
    assert!(!is_present(&*store, held).await, "what nobody holds any more stayed");
}

#[tokio::test]
async fn a_pin_replaces_what_it_kept_and_pins_may_share_blobs() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HeldClock::new());
    let store = open(directory.path(), &clock);
    let [a, b, c] =
        [put(&*store, 300_000).await.0, put(&*store, 300_000).await.0, put(&*store, 300_000).await.0];
    store.pin(&context(), "one", &set(&[a, b])).await.unwrap();
    store.pin(&context(), "two", &set(&[b, c])).await.unwrap();
    store.pin(&context(), "one", &set(&[a])).await.unwrap();
    assert!(store.unpin("two").await.unwrap());
    fill(&store, &clock).await;
    let present = [is_present(&*store, a).await, is_present(&*store, b).await, is_present(&*store, c).await];
    assert_eq!(present, [true, false, false]);
}

#[tokio::test]
async fn beyond_the_quota_and_without_its_blobs_a_pin_is_refused() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HeldClock::new());
    let store = open(directory.path(), &clock);
    let missing = fresh(10).0;
    let error = store.pin(&context(), "x", &set(&[missing])).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains(&missing.hex()), "{error}");
    let mut blobs = Vec::new();
    for _ in 0..5 {
        let (digest, bytes) = fresh(1_000_000);
        store.write_bytes(&context(), digest, bytes).await.unwrap();
        blobs.push(digest);
    }
    let error = store.pin(&context(), "x", &set(&blobs)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: None, .. }), "{error}");
    assert!(error.to_string().contains(&(SIZE / 4).to_string()), "{error}");
    store.pin(&context(), "x", &set(&blobs[..3])).await.unwrap();
    assert!(store.pin(&context(), "y", &set(&blobs[2..])).await.is_err());
    store.pin(&context(), "y", &set(&blobs[2..3])).await.unwrap();
    assert!(store.pin(&context(), "", &DigestSet::new()).await.is_err());
}
