//! Files that are changed behind the store's back: never served, put aside, missing from then on, and welcome again.

use crate::fixture::{
    blob_path, context, damage, fetch, files, flip, is_present, open, put, record_place, tamper, until,
};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, Error, HashIndex, Kind, LocalFiles, Range};
use mortar_store::{DiskStore, Record, RecordKind, Records};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// In a segment, a file of one piece, and one of many.
const LENGTHS: [usize; 3] = [1000, 200_000, 2_000_000];
/// Those that are files.
const LARGE: [usize; 2] = [200_000, 2_000_000];

fn expect_data_loss(directory: &Path, digest: Digest, error: &Error) {
    assert!(matches!(error.kind(), Kind::DataLoss { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&digest.hex()), "{message}");
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
                damage(directory.path(), digest, &bytes, place);
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
async fn what_is_read_of_a_damaged_blob_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for length in LENGTHS {
        let (digest, bytes) = put(&*store, length).await;
        let range = Range { offset: 10, limit: Some(100) };
        assert_eq!(fetch(&*store, digest, range).await.unwrap(), bytes.slice(10..110));
        damage(directory.path(), digest, &bytes, 120);
        let error = fetch(&*store, digest, range).await.unwrap_err();
        expect_data_loss(directory.path(), digest, &error);
        expect_quarantined(directory.path(), &store, digest, bytes).await;
    }
}

#[tokio::test]
async fn whole_pieces_of_a_damaged_file_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, bytes) = put(&*store, 2_000_000).await;
    damage(directory.path(), digest, &bytes, 1_999_999);
    let range = Range { offset: 10, limit: Some(100) };
    assert_eq!(fetch(&*store, digest, range).await.unwrap(), bytes.slice(10..110));
    let last = Range { offset: 1_999_000, limit: Some(100) };
    let error = fetch(&*store, digest, last).await.unwrap_err();
    expect_data_loss(directory.path(), digest, &error);
    expect_quarantined(directory.path(), &store, digest, bytes).await;
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
        damage(directory.path(), digest, &bytes, 0);
        let error = store.local_file(&context(), digest).await.err().expect("it is damaged");
        expect_data_loss(directory.path(), digest, &error);
        assert!(store.local_file(&context(), digest).await.unwrap().is_none());
        assert!(!is_present(&*store, digest).await);
        // It was in the hands of the one who asked for it, so it goes when that one has gone.
        until("the damaged file is gone", || !blob_path(directory.path(), digest).exists()).await;
        store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_file_that_is_too_short_is_missing_from_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for length in LARGE {
        for new_length in [0, 1, length - 1] {
            let (digest, bytes) = put(&*store, length).await;
            tamper(&blob_path(directory.path(), digest), |bytes| bytes.truncate(new_length));
            let error = read_to_error(&store, digest).await;
            expect_data_loss(directory.path(), digest, &error);
            expect_quarantined(directory.path(), &store, digest, bytes).await;
        }
    }
}

#[tokio::test]
async fn what_is_added_to_a_file_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, bytes) = put(&*store, 200_000).await;
    tamper(&blob_path(directory.path(), digest), |bytes| bytes.push(1));
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_segment_that_was_cut_costs_what_lay_behind() {
    let directory = tempfile::tempdir().unwrap();
    for restart in [false, true] {
        let mut store = open(directory.path());
        let (before, behind) = (put(&*store, 5000).await, put(&*store, 5000).await);
        let (path, at) = record_place(directory.path(), &behind.1).unwrap();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(at + 100).unwrap();
        if restart {
            drop(store);
            store = open(directory.path());
        }
        let error = fetch(&*store, behind.0, Range::ALL).await.unwrap_err();
        expect_data_loss(directory.path(), behind.0, &error);
        assert!(!is_present(&*store, behind.0).await);
        assert_eq!(fetch(&*store, before.0, Range::ALL).await.unwrap(), before.1);
        store.write_bytes(&context(), behind.0, behind.1.clone()).await.unwrap();
        assert_eq!(fetch(&*store, behind.0, Range::ALL).await.unwrap(), behind.1);
    }
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
async fn a_file_that_was_removed_is_missing_from_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (number, length) in LARGE.into_iter().enumerate() {
        let (digest, bytes) = put(&*store, length).await;
        let counted = store.stats().file_bytes;
        fs::remove_file(blob_path(directory.path(), digest)).unwrap();
        assert!(fetch(&*store, digest, Range::ALL).await.unwrap_err().is_not_found());
        assert!(!is_present(&*store, digest).await);
        assert_eq!(store.lookup(&context(), digest.function(), digest.hash()).await.unwrap(), None);
        let (gone, stats) = (length.next_multiple_of(4096) as u64, store.stats());
        assert_eq!((stats.file_bytes, stats.lost), (counted - gone, number as u64 + 1), "{stats:?}");
        store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    // Even a whole directory.
    let (digest, bytes) = put(&*store, 200_000).await;
    fs::remove_dir_all(blob_path(directory.path(), digest).parent().unwrap()).unwrap();
    assert!(fetch(&*store, digest, Range::ALL).await.unwrap_err().is_not_found());
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
    let value = Bytes::from_static(b"a value that can be found again");
    let result = Bytes::from_static(b"a result that can be found again");
    let record = Record { kind: RecordKind::Result, name: [3; 32], content: result.clone() };
    // In the header, which lies before the content, and in the content.
    for from_content in [-60_i64, -30, 0, 7] {
        crate::fixture::put_value(&store, [7; 32], value.clone()).await;
        store.put_records(&Context::internal(), vec![record.clone()]).await.unwrap();
        for content in [&value, &result] {
            let (path, at) = record_place(directory.path(), content).unwrap();
            flip(&path, (at as i64 + from_content) as u64, 1);
        }
        assert_eq!(crate::fixture::value(&store, [7; 32]).await, None);
        assert_eq!(store.record(&Context::internal(), RecordKind::Result, [3; 32]).await.unwrap(), None);
    }
    assert_eq!(store.stats().quarantined, 8);
}

#[tokio::test]
async fn the_quarantine_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut last = None;
    for _ in 0..104 {
        let (digest, bytes) = put(&*store, 100).await;
        damage(directory.path(), digest, &bytes, 0);
        fetch(&*store, digest, Range::ALL).await.unwrap_err();
        last = Some(digest.hex());
    }
    let aside = files(&directory.path().join("quarantine"));
    assert_eq!(aside.len(), 100);
    assert!(aside.iter().any(|path| path.to_str().unwrap().contains(last.as_ref().unwrap())));
}

#[tokio::test]
async fn a_file_that_was_made_of_a_blob_and_changed_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (digest, bytes) = put(&*store, 1000).await;
    for _ in 0..3 {
        let file = store.local_file(&context(), digest).await.unwrap().unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), bytes);
        tamper(file.path(), |bytes| bytes[0] ^= 1);
        drop(file);
    }
}
