//! A store that is full: bounded, and what was used last stays.

use crate::fixture::{
    HeldClock, MIB, context, fetch, fresh, held, is_present, on_disk, open_with, put, put_value, until, value,
};
use futures::stream;
use mortar_model::{
    Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Encoding, Kind, LocalFiles, Range, UploadId,
    UploadSessions, context::Promise,
};
use mortar_store::{DiskStore, Policy};

const SIZE: u64 = 16 * MIB;
const MINUTE: u64 = 60;
/// A record in a segment, and a file.
const LENGTHS: [usize; 2] = [100_000, 200_000];

#[tokio::test]
async fn a_full_store_stays_bounded_and_keeps_the_newest() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        let mut written = Vec::new();
        for _ in 0..3 * SIZE as usize / length {
            written.push(put(&*store, length).await.0);
            clock.advance(MINUTE);
            assert!(store.stats().bytes <= SIZE, "{:?}", store.stats());
            assert!(on_disk(directory.path()) <= SIZE);
            assert!(is_present(&*store, written[written.len() - 1]).await);
        }
        let stats = store.stats();
        let evicted = written.len() as u64 - stats.blobs;
        assert!(stats.evictions == evicted && evicted > written.len() as u64 / 2, "{stats:?}");
        assert!(!is_present(&*store, written[0]).await);
        // Index and what is kept free for compaction take a MiB; some room is made ahead.
        let kept = 13 * MIB as usize / length;
        for (age, digest) in written.iter().rev().take(kept).enumerate() {
            assert!(is_present(&*store, *digest).await, "{age} of {kept} blobs of {length} bytes: {stats:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_once_do_not_exceed_the_size() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let store = open_with(directory.path(), SIZE, Policy::default()).await;
        for _ in 0..2 * SIZE as usize / length / 8 {
            let writes = (0..8).map(|_| put(&*store, length));
            futures::future::join_all(writes).await;
            assert!(on_disk(directory.path()) <= SIZE);
        }
        assert!(store.stats().evictions > 0);
    }
}

#[tokio::test]
async fn what_is_used_stays() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let [read, asked, lent, glanced] = [(); 4].map(|()| fresh(100_000));
    for (digest, bytes) in [&read, &asked, &lent, &glanced] {
        store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
    }
    for _ in 0..400 {
        clock.advance(MINUTE);
        put(&*store, 100_000).await;
        fetch(&*store, read.0, Range { offset: 5, limit: Some(1) }).await.unwrap();
        assert!(store.find_missing(&context(), &[asked.0].into_iter().collect()).await.unwrap().is_empty());
        store.local_file(&context(), lent.0).await.unwrap().unwrap();
        is_present(&*store, glanced.0).await;
    }
    assert!(!is_present(&*store, glanced.0).await, "a glance kept a blob");
    assert_eq!(fetch(&*store, read.0, Range::ALL).await.unwrap(), read.1);
}

#[tokio::test]
async fn values_count_and_go_too() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let empty = store.stats().bytes;
    put_value(&store, [7; 32], "value").await;
    assert_eq!((store.stats().values, store.stats().bytes), (1, empty + 4096));
    for _ in 0..200 {
        clock.advance(MINUTE);
        put(&*store, 100_000).await;
    }
    assert_eq!(value(&store, [7; 32]).await, None);
    for index in 0..=255 {
        clock.advance(MINUTE);
        put_value(&store, [index; 32], fresh(100_000).1).await;
        assert!(store.stats().bytes <= SIZE);
    }
    assert_eq!(store.stats().blobs, 0);
}

#[tokio::test]
async fn what_is_replaced_takes_no_room_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let (kept, bytes) = put(&*store, 100_000).await;
    for _ in 0..400 {
        put_value(&store, [7; 32], fresh(100_000).1).await;
        assert!(on_disk(directory.path()) <= SIZE);
    }
    assert_eq!(fetch(&*store, kept, Range::ALL).await.unwrap(), bytes);
    let stats = store.stats();
    assert_eq!((stats.blobs, stats.values, stats.evictions), (1, 1, 0), "{stats:?}");
    assert!(stats.reclaimed > 0, "{stats:?}");
}

#[tokio::test]
async fn lent_files_stay_until_they_are_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let (digest, bytes) = put(&*store, 9_000_000).await;
    let file = store.local_file(&context(), digest).await.unwrap().unwrap();
    let (other, content) = fresh(9_000_000);
    let error = store.write_bytes(&context(), other, content.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    drop(file);
    store.write_bytes(&context(), other, content).await.unwrap();
    assert!(!is_present(&*store, digest).await);
    assert!(on_disk(directory.path()) <= SIZE);
}

#[tokio::test]
async fn files_made_of_small_blobs_go_first_and_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let mut made = Vec::new();
    for _ in 0..60 {
        let (digest, bytes) = put(&*store, 100_000).await;
        let file = store.local_file(&context(), digest).await.unwrap().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        made.push((digest, bytes));
    }
    for _ in 0..70 {
        put(&*store, 100_000).await;
        assert!(on_disk(directory.path()) <= SIZE);
    }
    let stats = store.stats();
    assert!(stats.evictions == 0 && stats.made_bytes < 60 * 100_000, "{stats:?}");
    for (digest, bytes) in made {
        let file = store.local_file(&context(), digest).await.unwrap().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_blob_that_is_evicted_while_it_is_read_comes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let (digest, bytes) = put(&*store, 9_000_000).await;
    let blob = store.read(&context(), digest, Range::ALL).await.unwrap();
    put(&*store, 9_000_000).await;
    assert!(!is_present(&*store, digest).await);
    assert_eq!(blob.into_bytes().await.unwrap(), bytes);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_before_it_flows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let (digest, _) = fresh(17 * MIB as usize);
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
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    let (kept, _) = put(&*store, 7_000_000).await;
    let mut uploads = Vec::new();
    for index in 0..20 {
        let digest = Digest::new(kept.function(), [index; 32], 9_000_000);
        let id = UploadId(index.to_string().into());
        uploads.push(store.open(&context(), &id, digest, Encoding::Identity).await.unwrap());
    }
    assert!(is_present(&*store, kept).await);
    put(&*store, 7_000_000).await;
    assert!(is_present(&*store, kept).await);
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    for (length, count) in [(7_000_000, 1), (100_000, 50)] {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        let first = put_many(&store, length, count).await;
        clock.advance(60 * MINUTE);
        let second = put_many(&store, length, count).await;
        clock.advance(60 * MINUTE);
        assert!(store.find_missing(&context(), &first).await.unwrap().is_empty());
        clock.advance(60 * MINUTE);
        drop(store);
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        put(&*store, 7_000_000).await;
        let glance = Context { promise: Promise::Glance, ..context() };
        assert!(store.find_missing(&glance, &first).await.unwrap().is_empty());
        assert!(!store.find_missing(&glance, &second).await.unwrap().is_empty());
    }
}

async fn put_many(store: &DiskStore, length: usize, count: usize) -> DigestSet {
    let mut digests = Vec::new();
    for _ in 0..count {
        digests.push(put(store, length).await.0);
    }
    digests.into_iter().collect()
}

#[tokio::test]
async fn a_store_that_became_too_large_shrinks_after_its_start() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let store = open_with(directory.path(), 2 * SIZE, Policy::default()).await;
        for _ in 0..24_000_000 / length {
            put(&*store, length).await;
        }
        drop(store);
        let store = open_with(directory.path(), SIZE, Policy::default()).await;
        until("it has shrunk", || store.stats().bytes <= SIZE && on_disk(directory.path()) <= SIZE).await;
        assert!(store.stats().shed > 0 && store.stats().blobs > 0);
    }
}
