//! The conformance suite over every store and decorator of this crate.

use crate::fixture::{PLENTY, open};
use mortar_model::SystemClock;
use mortar_store::{Completeness, MemoryStore, NamedValues, Results, SizeLimit};
use mortar_testkit::{
    codec::TableCodec,
    conformance::{Subject, assert_conforms},
};
use std::sync::Arc;

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
        values: Some(store.clone()),
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
