//! Files that are changed behind the store's back: never served, put aside, missing from then on, and welcome again.

use crate::fixture::{blob_path, context, fetch, files, fresh, is_present, open, put, tamper};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{
    ActionCache, ActionResult, BlobStore, BlobStoreExt, Digest, Error, HashIndex, Kind, LocalFiles, Range,
    Values,
};
use mortar_store::{Completeness, DiskStore, Results};
use mortar_testkit::codec::TableCodec;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

/// One piece, and many.
const LENGTHS: [usize; 2] = [1000, 2_000_000];

fn expect_data_loss(directory: &Path, digest: Digest, error: &Error) {
    assert!(matches!(error.kind(), Kind::DataLoss { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&digest.to_string()), "{message}");
    assert!(!message.contains(directory.to_str().unwrap()), "a path was told: {message}");
}

async fn expect_quarantined(directory: &Path, store: &DiskStore, digest: Digest, bytes: Bytes) {
    assert!(!is_present(store, digest).await);
    assert!(fetch(store, digest, Range::ALL).await.unwrap_err().is_not_found());
    assert!(!blob_path(directory, digest).exists());
    let aside = files(&directory.join("quarantine"));
    assert!(aside.iter().any(|path| path.to_str().unwrap().contains(&digest.hex())), "{aside:?}");
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert_eq!(fetch(store, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    for restart in [false, true] {
        for length in LENGTHS {
            for place in [0, length / 2, length - 1] {
                let mut store = open(directory.path());
                let (digest, bytes) = put(&*store, length).await;
                if restart {
                    drop(store);
                    store = open(directory.path());
                }
                tamper(&blob_path(directory.path(), digest), |bytes| bytes[place] ^= 4);
                let error = read_to_error(&store, digest).await;
                expect_data_loss(directory.path(), digest, &error);
                expect_quarantined(directory.path(), &store, digest, bytes).await;
                assert_eq!(store.stats().quarantined, 1);
            }
        }
    }
}

/// Reads until it fails; the whole must not have come by then.
async fn read_to_error(store: &DiskStore, digest: Digest) -> Error {
    let blob = match store.read(&context(), digest, Range::ALL).await {
        Ok(blob) => blob,
        Err(error) => return error,
    };
    let (mut stream, mut seen) = (blob.into_stream(), 0);
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => seen += piece.len() as u64,
            Err(error) => {
                assert!(seen < digest.size(), "all bytes of a damaged blob were served");
                return error;
            }
        }
    }
    panic!("a damaged blob was served");
}

#[tokio::test]
async fn a_part_of_a_damaged_blob_is_not_served_either() {
    let directory = tempfile::tempdir().unwrap();
    for restart in [false, true] {
        for length in LENGTHS {
            let mut store = open(directory.path());
            let (digest, bytes) = put(&*store, length).await;
            // A part that is good in itself.
            let range = Range { offset: 10, limit: Some(100) };
            assert_eq!(fetch(&*store, digest, range).await.unwrap(), bytes.slice(10..110));
            if restart {
                drop(store);
                store = open(directory.path());
            }
            tamper(&blob_path(directory.path(), digest), |bytes| bytes[length - 1] ^= 4);
            let error = fetch(&*store, digest, range).await.unwrap_err();
            expect_data_loss(directory.path(), digest, &error);
            expect_quarantined(directory.path(), &store, digest, bytes).await;
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_not_lent() {
    let directory = tempfile::tempdir().unwrap();
    for restart in [false, true] {
        let mut store = open(directory.path());
        let (digest, bytes) = put(&*store, 1_000_000).await;
        assert!(store.local_file(&context(), digest).await.unwrap().is_some());
        if restart {
            drop(store);
            store = open(directory.path());
        }
        tamper(&blob_path(directory.path(), digest), |bytes| bytes[0] ^= 4);
        let error = store.local_file(&context(), digest).await.err().expect("it is damaged");
        expect_data_loss(directory.path(), digest, &error);
        assert!(store.local_file(&context(), digest).await.unwrap().is_none());
        expect_quarantined(directory.path(), &store, digest, bytes).await;
    }
}

#[tokio::test]
async fn a_file_of_another_length_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for length in LENGTHS {
        for new_length in [0, 1, length - 1, length + 1] {
            let (digest, bytes) = put(&*store, length).await;
            tamper(&blob_path(directory.path(), digest), |bytes| bytes.resize(new_length, 0));
            assert!(!is_present(&*store, digest).await, "{length} cut to {new_length}");
            let error = fetch(&*store, digest, Range::ALL).await.unwrap_err();
            expect_data_loss(directory.path(), digest, &error);
            expect_quarantined(directory.path(), &store, digest, bytes).await;
        }
    }
}

#[tokio::test]
async fn a_short_file_is_replaced_by_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, bytes) = put(&*store, 1000).await;
    tamper(&blob_path(directory.path(), digest), |bytes| bytes.truncate(10));
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_in_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, _) = put(&*store, 5_000_000).await;
    let mut stream = store.read(&context(), digest, Range::ALL).await.unwrap().into_stream();
    stream.next().await.unwrap().unwrap();
    let path = blob_path(directory.path(), digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3_000_000).unwrap();
    let mut last = Ok(Bytes::new());
    while let Some(piece) = stream.next().await {
        last = piece;
    }
    expect_data_loss(directory.path(), digest, &last.unwrap_err());
}

#[tokio::test]
async fn a_file_that_was_removed_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for length in LENGTHS {
        let counted = store.stats().bytes;
        let (digest, bytes) = put(&*store, length).await;
        fs::remove_file(blob_path(directory.path(), digest)).unwrap();
        assert!(fetch(&*store, digest, Range::ALL).await.unwrap_err().is_not_found());
        assert!(!is_present(&*store, digest).await);
        assert_eq!(store.lookup(&context(), digest.function(), digest.hash()).await.unwrap(), None);
        assert_eq!(store.stats().bytes, counted, "what is gone is still counted");
        store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    // Even a whole directory.
    let (digest, bytes) = put(&*store, 10).await;
    fs::remove_dir_all(blob_path(directory.path(), digest).parent().unwrap()).unwrap();
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_size_that_the_caller_has_wrong_harms_no_blob() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, bytes) = put(&*store, 2_000_000).await;
    let wrong = Digest::new(digest.function(), *digest.hash(), 1);
    assert!(fetch(&*store, wrong, Range::ALL).await.unwrap_err().is_not_found());
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    assert_eq!(store.stats().quarantined, 0);
}

#[tokio::test]
async fn damaged_results_and_values_are_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let codec = Arc::new(TableCodec::default());
    let results = Arc::new(Results::new(store.clone(), codec.clone()));
    let actions = Completeness::new(results, store.clone(), codec);
    let key = fresh(1).0.into();
    let changes: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[0] ^= 1, |bytes| bytes.truncate(33), Vec::clear];
    for change in changes {
        Values::put(&*store, &context(), &[7; 32], "value".into()).await.unwrap();
        actions.put(&context(), key, ActionResult::default()).await.unwrap();
        for kind in ["results", "values"] {
            for file in files(&directory.path().join(kind)) {
                tamper(&file, change);
            }
        }
        assert_eq!(Values::get(&*store, &context(), &[7; 32]).await.unwrap(), None);
        assert_eq!(actions.get(&context(), key).await.unwrap(), None);
    }
    assert_eq!(store.stats().quarantined, 6);
}

#[tokio::test]
async fn the_quarantine_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut last = None;
    for _ in 0..104 {
        let (digest, _) = put(&*store, 10).await;
        tamper(&blob_path(directory.path(), digest), |bytes| bytes[0] ^= 1);
        fetch(&*store, digest, Range::ALL).await.unwrap_err();
        last = Some(digest.hex());
    }
    let aside = files(&directory.path().join("quarantine"));
    assert_eq!(aside.len(), 100);
    assert!(aside.iter().any(|path| path.to_str().unwrap().contains(last.as_ref().unwrap())));
}
