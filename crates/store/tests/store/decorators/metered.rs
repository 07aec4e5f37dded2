//! What is counted.

use super::{Losing, Streaming, memory, missing};
use crate::fixture::{HeldClock, context, fetch, fresh, put};
use mortar_model::{ActionCache, ActionKey, ActionResult, Blob, BlobStore, Range};
use mortar_store::{Meter, Metered, Operation};
use mortar_testkit::faults::Gated;
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn a_meter_counts_what_passes() {
    let (meter, clock) = (Arc::new(Meter::default()), HeldClock::new());
    let inner: Arc<dyn BlobStore> = Arc::new(Streaming(memory()));
    let store = Metered::new(inner, meter.clone(), clock.clone());
    let (digest, _) = put(&store, 100_000).await;
    let (gone, bytes) = fresh(500);
    store.write(&context(), gone, Blob::bytes(bytes.slice(1..))).await.unwrap_err();
    fetch(&store, digest, Range { offset: 10, limit: Some(60_000) }).await.unwrap();
    fetch(&store, gone, Range::ALL).await.unwrap_err();
    missing(&store, &context(), &[digest, gone]).await;

    let read = meter.snapshot(Operation::Read);
    assert_eq!((read.calls, read.bytes, read.errors), (2, 60_000, vec![("not_found", 1)]));
    let write = meter.snapshot(Operation::Write);
    assert_eq!((write.calls, write.bytes, write.errors), (2, 100_499, vec![("mismatch", 1)]));
    let find = meter.snapshot(Operation::FindMissing);
    assert_eq!((find.calls, find.asked, find.found, find.errors), (1, 2, 1, vec![]));
    assert_eq!((read.latencies[0], write.latencies[0], find.time), (1, 1, Duration::ZERO));
}

#[tokio::test]
async fn a_meter_counts_time_results_and_what_breaks_midway() {
    let (meter, clock) = (Arc::new(Meter::default()), HeldClock::new());
    let gate = Gated::new(Arc::new(Losing { at_once: false }));
    let store = Metered::new(gate.clone() as Arc<dyn BlobStore>, meter.clone(), clock.clone());
    let reading = async {
        let blob = store.read(&context(), fresh(10).0, Range::ALL).await.unwrap();
        blob.into_bytes().await.unwrap_err()
    };
    let passing = async {
        gate.arrived(1).await;
        clock.advance(3);
        gate.open();
    };
    futures::join!(reading, passing);
    let read = meter.snapshot(Operation::Read);
    assert_eq!((read.time, read.errors.as_slice()), (Duration::from_secs(3), &[("not_found", 1)][..]));

    let actions: Arc<dyn ActionCache> = crate::fixture::memory_actions();
    let actions = Metered::new(actions, meter.clone(), clock);
    let key: ActionKey = fresh(10).0.into();
    assert_eq!(actions.get(&context(), key).await.unwrap(), None);
    actions.put(&context(), key, ActionResult::default()).await.unwrap();
    actions.get(&context(), key).await.unwrap().unwrap();
    let get = meter.snapshot(Operation::Get);
    assert_eq!((get.calls, get.asked, get.found), (2, 2, 1));
    assert_eq!(meter.snapshot(Operation::Put).calls, 1);
}
