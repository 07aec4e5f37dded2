//! What is held in memory, and when it is served.

use super::{memory, missing};
use crate::fixture::{context, fetch, fresh, put};
use bytes::Bytes;
use futures::future::join_all;
use mortar_model::{Blame, Blob, BlobStore, Context, Digest, DigestSet, Error, Range};
use mortar_store::{MemoryStore, MemoryTier};
use mortar_testkit::faults::Counting;
use std::sync::Arc;

#[tokio::test]
async fn a_held_blob_is_asked_for_and_not_read() {
    let inner = Counting::new(memory());
    let store = MemoryTier::new(inner.clone(), MemoryTier::DEFAULT_BUDGET);
    let limit = MemoryTier::MAX_BLOB as usize;
    for (length, reads) in [(1, 1), (limit, 1), (limit + 1, 4)] {
        let (digest, bytes) = put(&store, length).await;
        let before = inner.reads();
        inner.asked();
        for _ in 0..3 {
            assert_eq!(fetch(&store, digest, Range::ALL).await.unwrap(), bytes);
        }
        let part = Range { offset: 1, limit: Some(5) };
        assert_eq!(fetch(&store, digest, part).await.unwrap(), bytes.slice(1..length.min(6)));
        assert_eq!(inner.reads() - before, reads, "{length}");
        // Each hit renews the promise.
        assert_eq!(inner.asked(), vec![vec![digest]; 4 - reads], "{length}");
    }
}

#[tokio::test]
async fn what_is_gone_below_is_not_served_from_memory() {
    // Room for one blob of this size below.
    let below = MemoryStore::new(1500);
    let store = MemoryTier::new(below.clone(), MemoryTier::DEFAULT_BUDGET);
    for finds in [false, true] {
        let (digest, bytes) = put(&store, 1000).await;
        assert_eq!(fetch(&store, digest, Range::ALL).await.unwrap(), bytes);
        assert_eq!(store.blobs(), 1);
        put(&*below, 1000).await;
        if finds {
            assert_eq!(missing(&store, &context(), &[digest]).await, [digest]);
            assert_eq!(store.blobs(), 0, "what was found missing is still held");
        }
        assert!(fetch(&store, digest, Range::ALL).await.unwrap_err().is_not_found());
        assert_eq!(store.blobs(), 0);
    }
}

#[tokio::test]
async fn what_does_not_match_does_not_enter() {
    struct Lying;
    #[async_trait::async_trait]
    impl BlobStore for Lying {
        async fn read(&self, _: &Context, digest: Digest, _: Range) -> Result<Blob, Error> {
            Ok(Blob::bytes(vec![0; digest.size() as usize]))
        }
        async fn write(&self, _: &Context, _: Digest, _: Blob) -> Result<(), Error> {
            Ok(())
        }
        async fn find_missing(&self, _: &Context, _: &DigestSet) -> Result<DigestSet, Error> {
            Ok(DigestSet::new())
        }
    }
    let store = MemoryTier::new(Arc::new(Lying), MemoryTier::DEFAULT_BUDGET);
    let error = fetch(&store, fresh(100).0, Range::ALL).await.unwrap_err();
    assert_eq!(error.blame(), Blame::Server);
    assert_eq!((store.blobs(), store.bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_the_budget() {
    let below = memory();
    for budget in [0, 20_000, 1 << 20, (1 << 20) + 7] {
        let store = Arc::new(MemoryTier::new(below.clone(), budget));
        let tasks = (0..8).map(|seed| {
            let (store, below) = (store.clone(), below.clone());
            tokio::spawn(async move {
                for number in 0..200 {
                    let (digest, bytes) = put(&*below, 1 + (seed * 7919 + number * 977) % 16_384).await;
                    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
                    assert!(store.bytes() <= budget, "{} of {budget} bytes", store.bytes());
                }
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        assert!(budget < 1 << 20 || store.bytes() > budget / 2, "{} of {budget} bytes", store.bytes());
    }
}

/// `Bytes` of a part must not hold the whole: the tier keeps copies of its own.
#[tokio::test]
async fn a_held_blob_does_not_hold_the_buffer_it_came_in() {
    struct Slices(Bytes);
    #[async_trait::async_trait]
    impl BlobStore for Slices {
        async fn read(&self, _: &Context, digest: Digest, _: Range) -> Result<Blob, Error> {
            Ok(Blob::bytes(self.0.slice(..digest.size() as usize)))
        }
        async fn write(&self, _: &Context, _: Digest, _: Blob) -> Result<(), Error> {
            Ok(())
        }
        async fn find_missing(&self, _: &Context, _: &DigestSet) -> Result<DigestSet, Error> {
            Ok(DigestSet::new())
        }
    }
    let (_, buffer) = fresh(1_000_000);
    let digest = Digest::of(mortar_model::DigestFunction::Sha256, &buffer[..1000]);
    let inner = Arc::new(Slices(buffer));
    let store = MemoryTier::new(inner.clone(), MemoryTier::DEFAULT_BUDGET);
    let held = fetch(&store, digest, Range::ALL).await.unwrap();
    let again = fetch(&store, digest, Range::ALL).await.unwrap();
    assert_eq!(held.as_ptr(), again.as_ptr(), "the second came from elsewhere");
    assert!(!inner.0.as_ptr_range().contains(&held.as_ptr()), "the buffer is held");
}
