//! Who may open a directory, and what a restart brings back.

use crate::fixture::{PLENTY, config, fetch, on_disk, open, put, until, walked};
use mortar_model::{Context, Range};
use mortar_store::{DiskStore, Record, RecordKind, Records};
use std::{fs, path::Path};

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
    assert!(message.contains("`mortar-store 99`") && message.contains("`mortar-store 2`"), "{message}");
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
    let store = open(directory.path());
    let (small, large) = (put(&*store, 100).await, put(&*store, 1_000_000).await);
    store_value(&store, "value").await;
    let record = Record { kind: RecordKind::Result, name: [3; 32], content: "result".into() };
    store.put_records(&Context::internal(), vec![record]).await.unwrap();
    let before = store.stats();
    drop(store);

    let store = open(directory.path());
    for (digest, bytes) in [small, large] {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    assert_eq!(crate::fixture::value(&store, [7; 32]).await.unwrap(), "value");
    let result = store.record(&Context::internal(), RecordKind::Result, [3; 32]).await.unwrap();
    assert_eq!(result, Some("result".into()));
    walked(&store).await;
    let after = store.stats();
    assert_eq!((after.blobs, after.results, after.values), (2, 1, 1));
    assert_eq!((after.segment_bytes, after.file_bytes), (before.segment_bytes, before.file_bytes));
    assert_eq!(after.bytes, on_disk(directory.path()));
}

async fn store_value(store: &DiskStore, value: &'static str) {
    crate::fixture::put_value(store, [7; 32], value).await;
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

/// As the first version of the store kept it.
fn first_format(directory: &Path, blobs: &[(mortar_model::Digest, bytes::Bytes)]) {
    fs::write(directory.join("FORMAT"), "mortar-store 1\n").unwrap();
    fs::write(directory.join("lock"), "1\n").unwrap();
    for part in ["results/ab", "values/cd", "tmp/1-1", "quarantine"] {
        fs::create_dir_all(directory.join(part)).unwrap();
    }
    fs::write(directory.join("values/cd/cdef"), "a value").unwrap();
    for (digest, bytes) in blobs {
        let hex = digest.hex();
        let path = directory.join("blobs").join(digest.function().name()).join(&hex[..2]);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(hex), bytes).unwrap();
    }
}

#[tokio::test]
async fn blobs_of_the_first_format_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = [100, 5000, 300_000, 2_000_000].map(crate::fixture::fresh);
    let (damaged, mut bytes) = (crate::fixture::fresh(10_000).0, vec![0; 10_000]);
    bytes[0] = 1;
    first_format(directory.path(), &blobs);
    first_format(directory.path(), &[(damaged, bytes.into())]);
    // A start that was cut short just after it had moved the blobs.
    fs::create_dir(directory.path().join("old")).unwrap();
    fs::rename(directory.path().join("blobs"), directory.path().join("old/blobs")).unwrap();
    fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    let store = open(directory.path());
    until("the old store is gone", || !directory.path().join("old").exists()).await;
    for (digest, bytes) in blobs {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    assert!(!crate::fixture::is_present(&*store, damaged).await);
    drop(store);
    assert_eq!(open(directory.path()).stats().blobs, 4);
}
