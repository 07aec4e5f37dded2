//! What is remembered to be there, and for how long.

use super::{Losing, memory, missing};
use crate::fixture::{HeldClock, context, fetch, fresh, put};
use mortar_model::{BlobStore, Context, Digest, Range, context::Promise};
use mortar_store::{ExistenceCache, MemoryStore};
use mortar_testkit::faults::{self, Counting};
use std::{sync::Arc, time::Duration};

struct Remembering {
    inner: Arc<Counting>,
    below: Arc<MemoryStore>,
    clock: Arc<HeldClock>,
    store: ExistenceCache,
}

impl Remembering {
    fn new(max_blobs: u64) -> Self {
        let (below, clock) = (memory(), HeldClock::new());
        let inner = Counting::new(below.clone());
        let store = ExistenceCache::new(inner.clone(), max_blobs, Duration::from_secs(60), clock.clone());
        Self { inner, below, clock, store }
    }

    /// Asks, and tells what the store below was asked for it.
    async fn asks(&self, context: &Context, digests: &[Digest]) -> Vec<Vec<Digest>> {
        missing(&self.store, context, digests).await;
        self.inner.asked()
    }
}

#[tokio::test]
async fn what_is_there_is_asked_for_once_in_a_while() {
    let house = Remembering::new(1000);
    let (here, gone) = (put(&*house.below, 10).await.0, fresh(10).0);
    assert_eq!(house.asks(&context(), &[here, gone]).await, [vec![here, gone]]);
    // What was absent is asked for again, what was there is not; nothing is asked if all was there.
    assert_eq!(house.asks(&context(), &[here, gone]).await, [vec![gone]]);
    assert!(house.asks(&context(), &[here]).await.is_empty());
    let elsewhere = context().with_instance(mortar_model::InstanceName::parse("elsewhere").unwrap());
    assert_eq!(house.asks(&elsewhere, &[here]).await, [[here]]);
    house.clock.advance(59);
    assert!(house.asks(&context(), &[here]).await.is_empty());
    house.clock.advance(1);
    assert_eq!(house.asks(&context(), &[here]).await, [[here]]);
}

#[tokio::test]
async fn what_was_written_is_known_to_be_there() {
    let house = Remembering::new(1000);
    let (digest, _) = put(&house.store, 10).await;
    assert!(house.asks(&context(), &[digest]).await.is_empty());
    let (broken, bytes) = fresh(10);
    house.store.write(&context(), broken, faults::breaking(10, bytes)).await.unwrap_err();
    assert_eq!(house.asks(&context(), &[broken]).await, [[broken]]);
}

#[tokio::test]
async fn a_glance_is_not_relied_on() {
    let house = Remembering::new(1000);
    let (here, _) = put(&*house.below, 10).await;
    let glance = Context { promise: Promise::Glance, ..context() };
    assert_eq!(house.asks(&glance, &[here]).await, [[here]]);
    assert_eq!(house.asks(&context(), &[here]).await, [[here]]);
}

#[tokio::test]
async fn existence_is_remembered_within_bounds() {
    let house = Remembering::new(16);
    let mut digests = Vec::new();
    for _ in 0..100 {
        digests.push(put(&house.store, 10).await.0);
    }
    let asked = house.asks(&context(), &digests).await.concat();
    assert!((84..100).contains(&asked.len()), "of 100, {} were asked for", asked.len());
}

#[tokio::test]
async fn what_is_lost_is_forgotten() {
    for at_once in [true, false] {
        let inner = Counting::new(Arc::new(Losing { at_once }));
        let store = ExistenceCache::new(inner.clone(), 10, Duration::from_secs(60), HeldClock::new());
        let (digest, _) = put(&store, 10).await;
        missing(&store, &context(), &[digest]).await;
        assert!(inner.asked().is_empty());
        assert!(fetch(&store, digest, Range::ALL).await.unwrap_err().is_not_found());
        missing(&store, &context(), &[digest]).await;
        assert_eq!(inner.asked(), [[digest]], "lost at once: {at_once}");
    }
}
