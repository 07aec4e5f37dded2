//! The conformance suite over every store and decorator of this crate.

use crate::fixture::{PLENTY, open};
use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Context, Digest, DigestSet, KeptResult, Range,
    Result, ResultStore, SystemClock,
};
use mortar_store::{
    Completeness, ExistenceCache, MemoryStore, MemoryTier, Meter, Metered, NamedValues, ReadOnly,
    ReadThrough, ResultTier, Results, SingleFlight, SizeLimit, SizesSeen,
};
use mortar_testkit::{
    codec::TableCodec,
    conformance::{Subject, assert_conforms},
    faults::{CountingResults, FailsAfter},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

#[tokio::test(flavor = "multi_thread")]
async fn disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let codec = Arc::new(TableCodec::default());
    let results = Arc::new(Results::new(store.clone(), codec.clone()));
    let subject = Subject {
        encoded: Some(store.clone()),
        uploads: Some(store.clone()),
        actions: Some(Arc::new(Completeness::new(results, store.clone(), codec))),
        hashes: Some(store.clone()),
        values: Some(Arc::new(NamedValues::new(store.clone(), Arc::new(SystemClock)))),
        files: Some(store.clone()),
        ..Subject::new(store)
    };
    assert_conforms(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let store = MemoryStore::new(1 << 30);
    let subject = Subject {
        uploads: Some(store.clone()),
        hashes: Some(store.clone()),
        values: Some(store.clone()),
        ..Subject::new(store)
    };
    assert_conforms(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_values() {
    let store = MemoryStore::new(1 << 30);
    let values = NamedValues::new(store.clone(), Arc::new(SystemClock));
    assert_conforms(&Subject { values: Some(Arc::new(values)), ..Subject::new(store) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn size_limit() {
    let store = SizeLimit::new(MemoryStore::new(1 << 30), PLENTY);
    assert_conforms(&Subject::new(Arc::new(store))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completeness() {
    let blobs = MemoryStore::new(1 << 30);
    let codec = Arc::new(TableCodec::default());
    let results = Arc::new(Results::new(MemoryStore::new(1 << 30), codec.clone()));
    let actions = Completeness::new(results, blobs.clone(), codec).with_remakes();
    assert_conforms(&Subject { actions: Some(Arc::new(actions)), ..Subject::new(blobs) }).await;
}

fn memory_store() -> Arc<dyn BlobStore> {
    MemoryStore::new(1 << 30)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn existence_cache() {
    // So small that it forgets, and one that remembers all.
    for max_blobs in [0, 3, 100_000] {
        let store = ExistenceCache::new(memory_store(), max_blobs, MINUTE, Arc::new(SystemClock));
        assert_conforms(&Subject::new(Arc::new(store))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_seen() {
    let seen = SizesSeen::new(100_000, Arc::new(mortar_testkit::codec::TableCodec::default()));
    let blobs = seen.blobs(memory_store());
    let actions: Arc<dyn ActionCache> = crate::fixture::memory_actions();
    assert_conforms(&Subject {
        actions: Some(seen.actions(actions)),
        hashes: Some(seen.index(blobs.clone())),
        ..Subject::new(blobs)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_tier() {
    for budget in [0, 100_000, MemoryTier::DEFAULT_BUDGET] {
        let store = MemoryTier::new(memory_store(), budget);
        assert_conforms(&Subject::new(Arc::new(store))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_tier_over_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryTier::new(open(directory.path()), MemoryTier::DEFAULT_BUDGET);
    assert_conforms(&Subject::new(Arc::new(store))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_through() {
    let broken = Arc::new(FailsAfter::new(memory_store(), 0));
    // A near store with room, one that is always full, one that does not work.
    for fast in [memory_store(), MemoryStore::new(100_000), broken] {
        assert_conforms(&Subject::new(Arc::new(ReadThrough::new(fast, memory_store())))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_flight() {
    let store = SingleFlight::new(memory_store(), 1 << 20);
    assert_conforms(&Subject::new(Arc::new(store))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered() {
    let (meter, clock) = (Arc::new(Meter::default()), Arc::new(SystemClock));
    let actions: Arc<dyn ActionCache> = crate::fixture::memory_actions();
    let blobs = Arc::new(Metered::new(memory_store(), meter.clone(), clock.clone()));
    let actions: Arc<dyn ActionCache> = Arc::new(Metered::new(actions, meter, clock));
    assert_conforms(&Subject { actions: Some(actions), ..Subject::new(blobs) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_of_a_near_and_a_far_store() {
    let far = SingleFlight::new(memory_store(), 1 << 20);
    let far = ExistenceCache::new(Arc::new(far), 1000, MINUTE, Arc::new(SystemClock));
    let both = ReadThrough::new(memory_store(), Arc::new(far));
    let store = MemoryTier::new(Arc::new(both), 1 << 20);
    assert_conforms(&Subject::new(Arc::new(store))).await;
}

/// Reads through one store, writes into another.
struct Apart<P: ?Sized> {
    reads: ReadOnly<P>,
    writes: Arc<P>,
}

#[async_trait]
impl BlobStore for Apart<dyn BlobStore> {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.reads.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.writes.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.reads.find_missing(context, digests).await
    }
}

#[async_trait]
impl ActionCache for Apart<dyn ActionCache> {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.reads.get(context, key).await
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.writes.put(context, key, result).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_beside_a_writer() {
    let (blobs, actions) = (memory_store(), crate::fixture::memory_actions());
    let blobs = Apart { reads: ReadOnly::new(blobs.clone()), writes: blobs };
    let actions = Apart { reads: ReadOnly::new(actions.clone()), writes: actions };
    assert_conforms(&Subject { actions: Some(Arc::new(actions)), ..Subject::new(Arc::new(blobs)) }).await;
}

/// An action cache over a store of results, as the suite wants one.
struct Plain(ResultTier);

#[async_trait]
impl ActionCache for Plain {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        Ok(self.0.get(context, key).await?.map(|kept| kept.result))
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        let closure = Arc::new(result.named_blobs());
        let kept = KeptResult { result, closure, invocation: String::new(), stored: SystemTime::now() };
        self.0.put(context, key, kept).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn result_tier() {
    for budget in [0, ResultTier::DEFAULT_BUDGET] {
        let inner = Arc::new(CountingResults::default());
        let actions = Plain(ResultTier::new(inner, budget, MINUTE, Arc::new(SystemClock)));
        assert_conforms(&Subject { actions: Some(Arc::new(actions)), ..Subject::new(memory_store()) }).await;
    }
}
