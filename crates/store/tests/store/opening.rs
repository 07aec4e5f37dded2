//! Who may open a directory, and what a restart brings back.

use crate::fixture::{PLENTY, config, context, fetch, fresh, open, put, until, walked};
use mortar_model::{ActionCache, ActionResult, Range, Values};
use mortar_store::{Completeness, DiskStore, Results};
use mortar_testkit::codec::TableCodec;
use std::{fs, path::Path, sync::Arc};

fn refusal(directory: &Path) -> String {
    DiskStore::open(config(directory, PLENTY)).err().expect("the directory is refused").to_string()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_second_owner_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let message = refusal(directory.path());
    assert!(message.contains("in use by another process"), "{message}");
    assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    drop(store);
    open(directory.path());
}

#[tokio::test]
async fn a_directory_of_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    let message = refusal(directory.path());
    assert!(message.contains("thesis.txt") && message.contains("not empty"), "{message}");
    assert_eq!(names(directory.path()), ["thesis.txt"]);
}

#[tokio::test]
async fn another_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("FORMAT"), "mortar-store 99\n").unwrap();
    let message = refusal(directory.path());
    assert!(message.contains("`mortar-store 99`") && message.contains("`mortar-store 1`"), "{message}");
    assert_eq!(names(directory.path()), ["FORMAT"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for below in [file.clone(), file.join("below")] {
        let message = refusal(&below);
        assert!(message.contains(below.to_str().unwrap()), "{message}");
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    let store = open(directory.path());
    put(&*store, 10).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let codec = Arc::new(TableCodec::default());
    let key = fresh(1).0.into();
    let result = ActionResult { stdout_raw: "hello".into(), ..Default::default() };
    let store = open(directory.path());
    let (small, large) = (put(&*store, 100).await, put(&*store, 1_000_000).await);
    store_value(&store, "value").await;
    let actions = |store: &Arc<DiskStore>| {
        let results = Arc::new(Results::new(store.clone(), codec.clone()));
        Completeness::new(results, store.clone(), codec.clone())
    };
    actions(&store).put(&context(), key, result.clone()).await.unwrap();
    let before = store.stats();
    drop(store);

    let store = open(directory.path());
    for (digest, bytes) in [small, large] {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    assert_eq!(Values::get(&*store, &context(), &[7; 32]).await.unwrap().unwrap(), "value");
    assert_eq!(actions(&store).get(&context(), key).await.unwrap(), Some(result));
    walked(&store).await;
    let after = store.stats();
    assert_eq!((after.bytes, after.blobs, after.results, after.values), (before.bytes, 2, 1, 1));
}

async fn store_value(store: &DiskStore, value: &'static str) {
    Values::put(store, &context(), &[7; 32], value.into()).await.unwrap();
}

#[tokio::test]
async fn what_a_dead_process_left_unfinished_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let dead = directory.path().join("tmp/1-1");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("0"), "half a blob").unwrap();
    let store = open(directory.path());
    until("the unfinished file is gone", || !dead.exists()).await;
    put(&*store, 10).await;
}
