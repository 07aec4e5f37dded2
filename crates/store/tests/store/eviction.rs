//! A store that is full: bounded, and what was used last stays.

use crate::fixture::{HeldClock, config, context, fetch, files, fresh, is_present, put, until, walked};
use bytes::Bytes;
use futures::stream;
use mortar_model::{
    Blob, BlobStore, BlobStoreExt, Digest, Encoding, Kind, LocalFiles, Range, UploadId, UploadSessions,
    Values,
};
use mortar_store::{DiskStore, Policy};
use std::{path::Path, sync::Arc, time::Duration};

const MIB: u64 = 1024 * 1024;

async fn open(directory: &Path, max_size: u64, policy: Policy) -> Arc<DiskStore> {
    let store = DiskStore::open_with(config(directory, max_size), policy).unwrap();
    walked(&store).await;
    store
}

fn held(clock: &Arc<HeldClock>) -> Policy {
    Policy { clock: clock.clone(), ..Policy::default() }
}

fn on_disk(directory: &Path) -> u64 {
    ["blobs", "results", "values", "tmp"]
        .iter()
        .flat_map(|kind| files(&directory.join(kind)))
        // Some may vanish in the meantime.
        .map(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

#[tokio::test]
async fn a_full_store_stays_bounded_and_keeps_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open(directory.path(), MIB, held(&clock)).await;
    let mut written = Vec::new();
    for _ in 0..300 {
        written.push(put(&*store, 10_000).await.0);
        clock.advance(1);
        assert!(store.stats().bytes <= MIB, "{:?}", store.stats());
        assert!(on_disk(directory.path()) <= MIB);
        assert!(is_present(&*store, written[written.len() - 1]).await);
    }
    assert!(store.stats().evictions >= 200, "{:?}", store.stats());
    assert!(!is_present(&*store, written[0]).await);
    // 12 KiB each on disk; 95 % of a MiB is kept at the least.
    for digest in &written[written.len() - 70..] {
        assert!(is_present(&*store, *digest).await);
    }
}

#[tokio::test]
async fn writers_at_once_do_not_exceed_the_size() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), MIB, Policy::default()).await;
    for _ in 0..10 {
        let writes = (0..6).map(|_| put(&*store, 100_000));
        futures::future::join_all(writes).await;
        assert!(on_disk(directory.path()) <= MIB);
    }
    assert!(store.stats().evictions > 0);
}

#[tokio::test]
async fn what_is_used_stays() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open(directory.path(), MIB, held(&clock)).await;
    let [read, asked, lent, glanced] = [(); 4].map(|()| fresh(10_000));
    for (digest, bytes) in [&read, &asked, &lent, &glanced] {
        store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
    }
    for _ in 0..200 {
        clock.advance(1);
        put(&*store, 10_000).await;
        fetch(&*store, read.0, Range { offset: 5, limit: Some(1) }).await.unwrap();
        assert!(store.find_missing(&context(), &[asked.0].into_iter().collect()).await.unwrap().is_empty());
        store.local_file(&context(), lent.0).await.unwrap().unwrap();
        is_present(&*store, glanced.0).await;
    }
    assert!(!is_present(&*store, glanced.0).await, "a glance kept a blob");
    assert_eq!(fetch(&*store, read.0, Range::ALL).await.unwrap(), read.1);
}

#[tokio::test]
async fn results_and_values_count_and_go_too() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open(directory.path(), MIB, held(&clock)).await;
    Values::put(&*store, &context(), &[7; 32], "value".into()).await.unwrap();
    assert_eq!(store.stats().bytes, 4096);
    for _ in 0..100 {
        clock.advance(1);
        put(&*store, 10_000).await;
    }
    assert_eq!(Values::get(&*store, &context(), &[7; 32]).await.unwrap(), None);
    for index in 0..=255 {
        clock.advance(1);
        Values::put(&*store, &context(), &[index; 32], Bytes::from(vec![index; 10_000])).await.unwrap();
        assert!(store.stats().bytes <= MIB);
    }
    assert_eq!(store.stats().blobs, 0);
}

#[tokio::test]
async fn what_was_promised_lately_goes_only_where_it_must() {
    for (passed, kept_at_least) in [(0, MIB * 98 / 100), (3600, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open(directory.path(), MIB, held(&clock)).await;
        for _ in 0..128 {
            put(&*store, 8000).await;
        }
        clock.advance(passed);
        put(&*store, 8000).await;
        let bytes = store.stats().bytes;
        assert!(bytes >= kept_at_least && bytes <= MIB, "{bytes} bytes after {passed} s");
        assert!(passed == 0 || bytes <= MIB * 95 / 100, "{bytes} bytes after {passed} s");
    }
}

#[tokio::test]
async fn lent_files_stay_until_they_are_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), MIB, Policy::default()).await;
    let (digest, bytes) = put(&*store, 600_000).await;
    let file = store.local_file(&context(), digest).await.unwrap().unwrap();
    let (other, content) = fresh(600_000);
    let error = store.write_bytes(&context(), other, content.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    drop(file);
    store.write_bytes(&context(), other, content).await.unwrap();
    assert!(!is_present(&*store, digest).await);
    assert!(on_disk(directory.path()) <= MIB);
}

#[tokio::test]
async fn a_blob_that_is_evicted_while_it_is_read_comes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 4 * MIB, Policy::default()).await;
    let (digest, bytes) = put(&*store, 3_000_000).await;
    let blob = store.read(&context(), digest, Range::ALL).await.unwrap();
    put(&*store, 3_000_000).await;
    assert!(!is_present(&*store, digest).await);
    assert_eq!(blob.into_bytes().await.unwrap(), bytes);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_before_it_flows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), MIB, Policy::default()).await;
    let (digest, _) = fresh(2 * MIB as usize);
    let untouched = stream::poll_fn(|_| panic!("the content was asked for"));
    let written = store.write(&context(), digest, Blob::stream(digest.size(), untouched)).await;
    let opened = store.open(&context(), &UploadId("1".into()), digest, Encoding::Identity).await.map(drop);
    for refused in [written, opened] {
        let error = refused.unwrap_err();
        assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: None, .. }), "{error}");
    }
}

#[tokio::test]
async fn sizes_that_are_only_claimed_take_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), MIB, Policy::default()).await;
    let (kept, _) = put(&*store, 500_000).await;
    let mut uploads = Vec::new();
    for index in 0..20 {
        let digest = Digest::new(kept.function(), [index; 32], 900_000);
        uploads.push(
            store
                .open(&context(), &UploadId(index.to_string().into()), digest, Encoding::Identity)
                .await
                .unwrap(),
        );
    }
    assert!(is_present(&*store, kept).await);
    put(&*store, 400_000).await;
    assert!(is_present(&*store, kept).await);
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open(directory.path(), MIB, held(&clock)).await;
    let (first, _) = put(&*store, 200_000).await;
    clock.advance(3600);
    let (second, _) = put(&*store, 200_000).await;
    clock.advance(3600);
    // The last use that the file knows of is old enough, and the file system itself does not see this one.
    assert!(store.find_missing(&context(), &[first].into_iter().collect()).await.unwrap().is_empty());
    clock.advance(3600);
    drop(store);
    let store = open(directory.path(), MIB, held(&clock)).await;
    put(&*store, 700_000).await;
    assert!(is_present(&*store, first).await);
    assert!(!is_present(&*store, second).await);
}

#[tokio::test]
async fn a_store_that_became_too_large_shrinks_after_its_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 4 * MIB, Policy::default()).await;
    for _ in 0..30 {
        put(&*store, 100_000).await;
    }
    drop(store);
    let store = open(directory.path(), MIB, Policy { grace: Duration::ZERO, ..Policy::default() }).await;
    until("it has shrunk", || store.stats().bytes <= MIB && on_disk(directory.path()) <= MIB).await;
    assert!(store.stats().evictions > 15);
}
