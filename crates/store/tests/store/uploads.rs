//! Uploads that nobody continues, and uploads of what is here already.

use crate::fixture::{
    HeldClock, MIB, PLENTY, config, context, fresh, held, is_present, open_with, put, unfinished, until,
};
use bytes::Bytes;
use mortar_model::{Digest, Encoding, Kind, Upload, UploadId, UploadSessions};
use mortar_store::{DiskStore, LeaseTerms, Policy};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Of a small store: some five MiB, and what index and compaction need.
const SIZE: u64 = 6 * MIB;
const MINUTE: u64 = 60;
const LEASE: Duration = Duration::from_secs(10 * MINUTE);

fn id(name: impl ToString) -> UploadId {
    UploadId(name.to_string().as_str().into())
}

async fn small(directory: &Path) -> (Arc<DiskStore>, Arc<HeldClock>) {
    let clock = HeldClock::new();
    let policy = Policy { leases: LeaseTerms { lease: LEASE, ..LeaseTerms::default() }, ..held(&clock) };
    (open_with(directory, SIZE, policy).await, clock)
}

/// An upload of which so many bytes were sent.
async fn begun(
    store: &DiskStore,
    name: &str,
    (digest, bytes): &(Digest, Bytes),
    sent: usize,
) -> Box<dyn Upload> {
    let mut upload = store.open(&context(), &id(name), *digest, Encoding::Identity).await.unwrap();
    upload.write(bytes.slice(..sent)).await.unwrap();
    upload
}

async fn committed(store: &DiskStore, name: &str) -> Option<u64> {
    store.committed(&context(), &id(name)).await.unwrap()
}

#[tokio::test]
async fn an_upload_that_was_left_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = small(directory.path()).await;
    drop(begun(&store, "left", &fresh(4_500_000), 4_000_000).await);
    let written = [put(&*store, 2_000_000).await, put(&*store, 2_000_000).await];
    for (digest, _) in written {
        assert!(is_present(&*store, digest).await);
    }
    assert_eq!(committed(&store, "left").await, None);
    until("its file is gone", || unfinished(directory.path()).is_empty()).await;
    let stats = store.stats();
    let on_disk = 2 * 2_000_000_u64.div_ceil(4096) * 4096;
    assert_eq!((stats.file_bytes, stats.uploads, stats.evictions), (on_disk, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn an_upload_that_is_held_makes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let (store, clock) = small(directory.path()).await;
    let blob = fresh(4_500_000);
    let mut held = begun(&store, "held", &blob, 4_000_000).await;
    clock.advance(2 * 60 * MINUTE);
    let (digest, bytes) = fresh(2_000_000);
    let mut other = store.open(&context(), &id("other"), digest, Encoding::Identity).await.unwrap();
    let error = other.write(bytes).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
    held.write(blob.1.slice(4_000_000..)).await.unwrap();
    held.finish().await.unwrap();
    assert!(is_present(&*store, blob.0).await);
}

#[tokio::test]
async fn uploads_that_were_left_go_in_their_turn_and_before_what_was_promised() {
    // Minutes before a write needs room: the last use of the upload, and of the blob. Which of them goes.
    for (upload, blob, goes) in [
        (1, 15, "blob"),
        (9, 20, "blob"),
        // Nobody is likely to continue it.
        (15, 20, "upload"),
        (20, 15, "upload"),
        (15, 15, "upload"),
        (20, 5, "upload"),
        (5, 1, "upload"),
        // Were it the blob, a promise would be broken.
        (1, 5, "upload"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (store, clock) = small(directory.path()).await;
        let mut kept = None;
        for minutes in (0..=20).rev() {
            if minutes == upload {
                drop(begun(&store, "left", &fresh(3_000_000), 2_500_000).await);
            }
            if minutes == blob {
                kept = Some(put(&*store, 2_500_000).await.0);
            }
            clock.advance(if minutes > 0 { MINUTE } else { 0 });
        }
        put(&*store, 1_000_000).await;
        let gone = match (committed(&store, "left").await, is_present(&*store, kept.unwrap()).await) {
            (Some(2_500_000), false) => "blob",
            (None, true) => "upload",
            other => panic!("{other:?}"),
        };
        assert_eq!(gone, goes, "upload {upload}, blob {blob} minutes ago");
    }
}

#[tokio::test]
async fn the_upload_that_was_left_first_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let (store, clock) = small(directory.path()).await;
    for name in ["first", "second", "third"] {
        clock.advance(MINUTE);
        drop(begun(&store, name, &fresh(2_000_000), 1_500_000).await);
    }
    put(&*store, 1_000_000).await;
    assert_eq!(committed(&store, "first").await, None);
    assert_eq!(committed(&store, "second").await, Some(1_500_000));
    assert_eq!(committed(&store, "third").await, Some(1_500_000));
}

#[tokio::test]
async fn uploads_expire_though_nobody_opens_another() {
    for how in ["stats", "committed", "write"] {
        let directory = tempfile::tempdir().unwrap();
        let (store, clock) = small(directory.path()).await;
        drop(begun(&store, "left", &fresh(1_000_000), 500_000).await);
        clock.advance(59 * MINUTE);
        assert_eq!(store.stats().uploads, 1);
        clock.advance(2 * MINUTE);
        match how {
            "stats" => {
                assert_eq!(store.stats().uploads, 0);
                until("its room is given back", || store.stats().bytes < MIB).await;
            }
            "committed" => assert_eq!(committed(&store, "left").await, None),
            _ => drop(put(&*store, 10).await),
        }
        until("its file is gone", || unfinished(directory.path()).is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_written_again_is_never_missing() {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(config(directory.path(), PLENTY)).unwrap();
    let (digest, bytes) = put(&*store, 1000).await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                assert!(is_present(&*store, digest).await);
            }
        }
    });
    for number in 0..300 {
        let writers = (0..2).map(|writer| {
            let (store, bytes) = (store.clone(), bytes.clone());
            async move {
                let name = id(format!("{number}-{writer}"));
                let mut upload = store.open(&context(), &name, digest, Encoding::Identity).await.unwrap();
                upload.write(bytes).await.unwrap();
                upload.finish().await.unwrap();
            }
        });
        futures::future::join_all(writers).await;
    }
    done.store(true, Ordering::Relaxed);
    reader.await.unwrap();
}

#[tokio::test]
async fn idle_uploads_expire_and_held_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let policy = Policy { clock: clock.clone(), ..Policy::default() };
    let store = DiskStore::open_with(config(directory.path(), PLENTY), policy).unwrap();
    let (digest, bytes) = fresh(1_000_000);
    let mut left = store.open(&context(), &id("left"), digest, Encoding::Identity).await.unwrap();
    left.write(bytes.slice(..500_000)).await.unwrap();
    drop(left);
    let mut held = store.open(&context(), &id("held"), digest, Encoding::Identity).await.unwrap();
    held.write(bytes.slice(..500_000)).await.unwrap();

    clock.advance(30 * 60);
    drop(store.open(&context(), &id("new"), digest, Encoding::Identity).await.unwrap());
    assert_eq!(store.committed(&context(), &id("left")).await.unwrap(), Some(500_000));
    clock.advance(40 * 60);
    drop(store.open(&context(), &id("newer"), digest, Encoding::Identity).await.unwrap());
    assert_eq!(store.committed(&context(), &id("left")).await.unwrap(), None);
    assert_eq!(store.stats().uploads, 3);
    let temps = || unfinished(directory.path()).len();
    until("the file of the expired upload is gone", || temps() == 3).await;
    held.write(bytes.slice(500_000..)).await.unwrap();
    held.finish().await.unwrap();
}

#[tokio::test]
async fn only_so_many_idle_uploads_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let policy = Policy { clock: clock.clone(), max_idle_uploads: 5, ..Policy::default() };
    let store = DiskStore::open_with(config(directory.path(), PLENTY), policy).unwrap();
    for index in 0..20 {
        clock.advance(MINUTE);
        drop(store.open(&context(), &id(index), fresh(10).0, Encoding::Identity).await.unwrap());
    }
    assert_eq!(store.stats().uploads, 5);
    assert_eq!(committed(&store, "14").await, None);
    assert_eq!(committed(&store, "15").await, Some(0));
}
