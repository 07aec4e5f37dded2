//! Which calls are merged, and who hears of what.

use super::memory;
use crate::fixture::{context, fetch, fresh, is_present, put};
use futures::future::join_all;
use mortar_model::{Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Error, Range};
use mortar_store::{MemoryStore, SingleFlight};
use mortar_testkit::faults::{self, Counting, Gated};
use std::sync::Arc;

#[tokio::test]
async fn reads_of_one_blob_at_the_same_time_are_one() {
    let below = memory();
    let (digest, bytes) = put(&*below, 1000).await;
    let counting = Counting::new(below);
    let gate = Gated::new(counting.clone());
    let store = Arc::new(SingleFlight::new(gate.clone(), 1000));
    let read = || {
        let store = store.clone();
        tokio::spawn(async move { fetch(&*store, digest, Range::ALL).await })
    };
    let leader = read();
    gate.arrived(1).await;
    let followers: Vec<_> = (0..10).map(|_| read()).collect();
    // The followers are on the same call by the time the leader is gone.
    tokio::task::yield_now().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.open();
    for follower in join_all(followers).await {
        assert_eq!(follower.unwrap().unwrap(), bytes);
    }
    assert_eq!(counting.reads(), 1);
    // Nothing is kept: the next read is a new call. So is each one of a part.
    fetch(&*store, digest, Range::ALL).await.unwrap();
    fetch(&*store, digest, Range { offset: 1, limit: None }).await.unwrap();
    assert_eq!(counting.reads(), 3);
}

#[tokio::test]
async fn who_came_after_a_write_does_not_hear_of_a_read_before_it() {
    let below = memory();
    let gate = Gated::new(below.clone());
    // The answer is held back, not the question.
    let late = LateAnswers { inner: below.clone(), gate: gate.clone() };
    let store = Arc::new(SingleFlight::new(Arc::new(late), 1000));
    let (digest, bytes) = fresh(1000);
    let read = || {
        let store = store.clone();
        tokio::spawn(async move { fetch(&*store, digest, Range::ALL).await })
    };
    let early = read();
    gate.arrived(1).await;
    below.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    let later = read();
    tokio::task::yield_now().await;
    gate.open();
    assert!(early.await.unwrap().unwrap_err().is_not_found());
    assert_eq!(later.await.unwrap().unwrap(), bytes);
}

/// Looks at once, and answers when the gate opens.
struct LateAnswers {
    inner: Arc<MemoryStore>,
    gate: Arc<Gated>,
}

#[async_trait::async_trait]
impl BlobStore for LateAnswers {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob, Error> {
        let answer = self.inner.read(context, digest, range).await;
        self.gate.find_missing(context, &DigestSet::new()).await?;
        answer
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<(), Error> {
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet, Error> {
        self.inner.find_missing(context, digests).await
    }
}

#[tokio::test]
async fn writes_of_one_blob_at_the_same_time_are_one() {
    let below = memory();
    let counting = Counting::new(below.clone());
    let gate = Gated::new(counting.clone());
    let store = Arc::new(SingleFlight::new(gate.clone(), 1000));
    let (digest, bytes) = fresh(1000);
    let write = |blob: Blob| {
        let store = store.clone();
        tokio::spawn(async move { store.write(&context(), digest, blob).await })
    };
    let leader = write(Blob::bytes(bytes.clone()));
    gate.arrived(1).await;
    let followers: Vec<_> = (0..10).map(|_| write(Blob::bytes(bytes.clone()))).collect();
    tokio::task::yield_now().await;
    leader.abort();
    gate.open();
    for follower in join_all(followers).await {
        follower.unwrap().unwrap();
    }
    assert_eq!(counting.writes(), 1);
    assert_eq!(fetch(&*below, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_writer_with_bad_content_fails_alone() {
    let below = memory();
    let store = SingleFlight::new(below.clone(), 1000);
    let (digest, bytes) = fresh(1_000_000);
    let context = context();
    let bad = store.write(&context, digest, faults::breaking(digest.size(), bytes.slice(..10)));
    let good = (0..5).map(|_| store.write(&context, digest, Blob::bytes(bytes.clone())));
    let (bad, good) = futures::join!(bad, join_all(good));
    assert!(bad.is_err() && good.iter().all(Result::is_ok), "{bad:?}, {good:?}");
    assert_eq!(fetch(&*below, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test(start_paused = true)]
async fn a_writer_does_not_wait_forever_for_a_slow_one() {
    let below = memory();
    let store = SingleFlight::new(below.clone(), 1000);
    let (digest, bytes) = fresh(100_000);
    let (stuck, stalled) = faults::stalling(digest.size(), bytes.slice(..10));
    let context = context();
    tokio::select! {
        done = store.write(&context, digest, stuck) => panic!("a write whose content had stalled ended: {done:?}"),
        written = async {
            stalled.await.unwrap();
            store.write(&context, digest, Blob::bytes(bytes.clone())).await
        } => written.unwrap(),
    }
    assert!(is_present(&*below, digest).await);
}
