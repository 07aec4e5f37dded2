//! Which results are served from memory.

use super::memory;
use crate::fixture::{HeldClock, context, fresh};
use mortar_model::{
    ActionKey, ActionResult, BlobStore, Context, Digest, DigestSet, Error, InstanceName, KeptResult,
    OutputFile, ResultStore,
};
use mortar_store::ResultTier;
use mortar_testkit::faults::{CountingResults, Gated};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

struct House {
    inner: Arc<CountingResults>,
    clock: Arc<HeldClock>,
    tier: ResultTier,
}

impl House {
    fn new(budget: u64) -> Self {
        let (inner, clock) = (Arc::new(CountingResults::default()), HeldClock::new());
        let tier = ResultTier::new(inner.clone(), budget, Duration::from_secs(60), clock.clone());
        Self { inner, clock, tier }
    }

    /// The result, and how often the store below was asked for it.
    async fn get(&self, key: ActionKey) -> (Option<KeptResult>, usize) {
        let before = self.inner.gets();
        let kept = self.tier.get(&context(), key).await.unwrap();
        (kept, self.inner.gets() - before)
    }
}

fn key() -> ActionKey {
    fresh(10).0.into()
}

fn kept(path: &str) -> KeptResult {
    let (digest, contents) = fresh(100);
    let file = OutputFile { path: path.into(), digest, is_executable: false, contents, properties: None };
    let result = ActionResult { files: vec![file], ..Default::default() };
    let closure = Arc::new(result.named_blobs());
    KeptResult { result, closure, invocation: "i".into(), stored: SystemTime::UNIX_EPOCH }
}

#[tokio::test]
async fn results_are_served_from_memory_for_a_while() {
    let (house, key, kept) = (House::new(1 << 20), key(), kept("a"));
    assert_eq!(house.get(key).await, (None, 1));
    // That there is none is not remembered.
    assert_eq!(house.get(key).await, (None, 1));
    house.tier.put(&context(), key, kept.clone()).await.unwrap();
    assert_eq!(house.get(key).await, (Some(kept.clone()), 1));
    house.clock.advance(59);
    assert_eq!(house.get(key).await, (Some(kept.clone()), 0));
    house.clock.advance(1);
    assert_eq!(house.get(key).await, (Some(kept.clone()), 1));
    let elsewhere = context().with_instance(InstanceName::parse("elsewhere").unwrap());
    assert_eq!(house.tier.get(&elsewhere, key).await.unwrap(), None);
    // What is gone below behind its back is noticed in time, and then at once.
    house.inner.remove(&context(), key).await.unwrap();
    house.clock.advance(60);
    assert_eq!(house.get(key).await, (None, 1));
    assert_eq!(house.tier.bytes(), 0);
}

#[tokio::test]
async fn what_is_replaced_or_removed_is_not_served() {
    let (house, key) = (House::new(1 << 20), key());
    for path in ["a", "b"] {
        let kept = kept(path);
        house.tier.put(&context(), key, kept.clone()).await.unwrap();
        assert_eq!(house.get(key).await, (Some(kept.clone()), 1));
        assert_eq!(house.get(key).await, (Some(kept), 0));
    }
    house.tier.forget_all();
    assert_eq!(house.get(key).await.1, 1);
    let named = house.get(key).await.0.unwrap().result.files[0].digest;
    assert_eq!(house.tier.producers(named).await.unwrap(), [(context().instance, key)]);
    assert!(house.tier.remove(&context(), key).await.unwrap());
    assert_eq!(house.get(key).await, (None, 1));
    assert!(!house.tier.remove(&context(), key).await.unwrap());
}

/// Reads at once and answers when it is let.
struct Late {
    inner: Arc<CountingResults>,
    gate: Arc<Gated>,
}

#[async_trait::async_trait]
impl ResultStore for Late {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<KeptResult>, Error> {
        let answer = self.inner.get(context, key).await;
        self.gate.find_missing(context, &DigestSet::new()).await?;
        answer
    }

    async fn put(&self, context: &Context, key: ActionKey, kept: KeptResult) -> Result<(), Error> {
        self.inner.put(context, key, kept).await
    }

    async fn remove(&self, context: &Context, key: ActionKey) -> Result<bool, Error> {
        self.inner.remove(context, key).await
    }

    async fn producers(&self, digest: Digest) -> Result<Vec<(InstanceName, ActionKey)>, Error> {
        self.inner.producers(digest).await
    }
}

#[tokio::test]
async fn a_result_that_was_read_before_it_was_replaced_does_not_enter() {
    let (inner, gate) = (Arc::new(CountingResults::default()), Gated::new(memory()));
    let late = Arc::new(Late { inner, gate: gate.clone() });
    let tier = ResultTier::new(late, 1 << 20, Duration::from_secs(60), HeldClock::new());
    let (key, old, new) = (key(), kept("old"), kept("new"));
    tier.put(&context(), key, old.clone()).await.unwrap();
    let place = context();
    let reading = tier.get(&place, key);
    let replacing = async {
        gate.arrived(1).await;
        tier.put(&context(), key, new.clone()).await.unwrap();
        gate.open();
    };
    let (read, ()) = futures::join!(reading, replacing);
    assert_eq!(read.unwrap(), Some(old));
    assert_eq!(tier.get(&context(), key).await.unwrap(), Some(new));
}

#[tokio::test]
async fn results_stay_within_the_budget() {
    let house = House::new(300_000);
    for number in 0..1000 {
        let (key, kept) = (key(), kept(&"p".repeat(number)));
        house.tier.put(&context(), key, kept).await.unwrap();
        house.get(key).await;
        assert!(house.tier.bytes() <= 300_000);
    }
    assert!(house.tier.bytes() > 150_000);
}
