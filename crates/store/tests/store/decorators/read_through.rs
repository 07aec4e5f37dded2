//! What comes near, and what counts.

use super::{Streaming, memory, missing};
use crate::fixture::{context, fetch, fresh, is_present, put};
use futures::StreamExt;
use mortar_model::{BlobStore, BlobStoreExt, Range};
use mortar_store::ReadThrough;
use mortar_testkit::faults::{self, Counting, FailsAfter};
use std::sync::Arc;

#[tokio::test]
async fn a_whole_read_brings_a_blob_near() {
    for length in [100, 3_000_000] {
        let (fast, slow) = (memory(), Counting::new(memory()));
        let (digest, bytes) = put(&*slow, length).await;
        let store = ReadThrough::new(fast.clone(), slow.clone());
        let part = Range { offset: 10, limit: Some(20) };
        assert_eq!(fetch(&store, digest, part).await.unwrap(), bytes.slice(10..30));
        store.settle().await;
        assert!(!is_present(&*fast, digest).await, "a part was kept");
        for _ in 0..3 {
            assert_eq!(fetch(&store, digest, Range::ALL).await.unwrap(), bytes);
            store.settle().await;
        }
        assert_eq!(fetch(&store, digest, part).await.unwrap(), bytes.slice(10..30));
        assert_eq!(slow.reads(), 2, "{length}");
    }
}

#[tokio::test]
async fn a_stream_is_kept_as_it_flows_if_it_is_read_to_its_end() {
    let (fast, below) = (memory(), memory());
    let (digest, bytes) = put(&*below, 3_000_000).await;
    let store = ReadThrough::new(fast.clone(), Arc::new(Streaming(below)));
    let mut left = store.read(&context(), digest, Range::ALL).await.unwrap().into_stream();
    left.next().await.unwrap().unwrap();
    drop(left);
    store.settle().await;
    assert!(!is_present(&*fast, digest).await, "a blob was kept that was not read to its end");
    assert_eq!(fetch(&store, digest, Range::ALL).await.unwrap(), bytes);
    store.settle().await;
    assert_eq!(fetch(&*fast, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn writes_go_to_both_and_the_far_store_counts() {
    let (fast, slow) = (memory(), memory());
    let store = ReadThrough::new(fast.clone(), slow.clone());
    let (small, _) = put(&store, 100).await;
    let (large, bytes) = fresh(1_000_000);
    store.write(&context(), large, faults::claiming(large.size(), bytes)).await.unwrap();
    store.settle().await;
    for digest in [small, large] {
        assert!(is_present(&*fast, digest).await && is_present(&*slow, digest).await);
    }
    let (only_near, _) = put(&*fast, 100).await;
    assert_eq!(missing(&store, &context(), &[small, only_near]).await, [only_near]);

    // A near store that does not work is in nobody's way; a far one that does not is an error.
    let store = ReadThrough::new(Arc::new(FailsAfter::new(memory(), 0)), slow.clone());
    let (digest, bytes) = put(&store, 1_000_000).await;
    assert_eq!(fetch(&store, digest, Range::ALL).await.unwrap(), bytes);
    let store = ReadThrough::new(fast.clone(), Arc::new(FailsAfter::new(slow, 0)));
    let (digest, bytes) = fresh(100);
    store.write_bytes(&context(), digest, bytes).await.unwrap_err();
}
