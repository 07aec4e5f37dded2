//! Uploads that are continued after a restart of the process.

use crate::fixture::{PLENTY, config, context, fetch, files, fresh, open, until};
use bytes::Bytes;
use mortar_model::{Digest, Encoding, Forget, Range, Upload, UploadId, UploadSessions};
use mortar_store::{DiskStore, Policy, frames};
use std::{path::Path, sync::Arc, time::Duration};

const ENCODINGS: [Encoding; 2] = [Encoding::Identity, Encoding::Zstd];

/// These bytes as they are sent: a part of an upload, whole frames of it.
fn sent(encoding: Encoding, content: &[u8]) -> Bytes {
    match encoding {
        Encoding::Identity => Bytes::copy_from_slice(content),
        Encoding::Zstd => content.chunks(200_000).flat_map(|part| frames::deflate(part).unwrap()).collect(),
    }
}

fn id() -> UploadId {
    UploadId("an upload".into())
}

async fn begin(store: &DiskStore, digest: Digest, encoding: Encoding) -> Box<dyn Upload> {
    store.open(&context(), &id(), digest, encoding).await.unwrap()
}

/// Sends a part and forgets the upload.
async fn send(directory: &Path, digest: Digest, encoding: Encoding, part: Bytes) -> Arc<DiskStore> {
    let store = open(directory);
    let mut upload = begin(&store, digest, encoding).await;
    upload.write(part).await.unwrap();
    store
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    for encoding in ENCODINGS {
        let (digest, content) = fresh(1_500_000);
        let directory = tempfile::tempdir().unwrap();
        drop(send(directory.path(), digest, encoding, sent(encoding, &content[..1_000_000])).await);
        let store = open(directory.path());
        let committed = store.committed(&context(), &id()).await.unwrap();
        assert_eq!(committed, Some(1_000_000));
        assert!(store.stats().bytes >= 1_000_000, "what is left of uploads is counted");
        let mut upload = begin(&store, digest, encoding).await;
        assert_eq!(upload.committed(), 1_000_000);
        upload.write(sent(encoding, &content[1_000_000..])).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), content);
        assert!(files(&directory.path().join("uploads")).is_empty());
    }
}

#[tokio::test]
async fn what_was_damaged_meanwhile_is_refused_and_begun_anew() {
    for encoding in ENCODINGS {
        let (digest, content) = fresh(1_500_000);
        let directory = tempfile::tempdir().unwrap();
        drop(send(directory.path(), digest, encoding, sent(encoding, &content[..1_000_000])).await);
        let [left] = &files(&directory.path().join("uploads"))[..] else { panic!("one file is left") };
        crate::fixture::tamper(left, |bytes| bytes[500_000] ^= 1);
        let store = open(directory.path());
        let mut upload = begin(&store, digest, encoding).await;
        upload.write(sent(encoding, &content[1_000_000..])).await.unwrap();
        let error = upload.finish().await.unwrap_err();
        assert!(matches!(error.kind(), mortar_model::Kind::Mismatch { .. }), "{error}");
        let mut upload = begin(&store, digest, encoding).await;
        assert_eq!(upload.committed(), 0);
        upload.write(sent(encoding, &content)).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), content);
    }
}

#[tokio::test]
async fn another_blob_or_encoding_under_the_same_id_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, bytes) = fresh(1_000_000);
    drop(send(directory.path(), digest, Encoding::Identity, bytes.slice(..500_000)).await);
    let store = open(directory.path());
    assert_eq!(begin(&store, fresh(1_000_000).0, Encoding::Identity).await.committed(), 0);
    assert_eq!(begin(&store, digest, Encoding::Zstd).await.committed(), 0);
}

#[tokio::test]
async fn nobody_comes_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, bytes) = fresh(1_000_000);
    drop(send(directory.path(), digest, Encoding::Identity, bytes.slice(..500_000)).await);
    let policy = Policy { keep_uploads: Duration::ZERO, ..Policy::default() };
    let store = DiskStore::open_with(config(directory.path(), PLENTY), policy).unwrap();
    let uploads = directory.path().join("uploads");
    until("the file is gone", || files(&uploads).is_empty()).await;
    assert_eq!(store.committed(&context(), &id()).await.unwrap(), None);
}

/// As where an upload was given up this moment, and is begun anew before its file is gone.
#[tokio::test]
async fn a_file_that_still_goes_is_in_nobodys_way() {
    let (digest, content) = fresh(1_500_000);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut upload = begin(&store, digest, Encoding::Identity).await;
    let [file] = &files(&directory.path().join("uploads"))[..] else { panic!("one file is begun") };
    upload.write(content.clone()).await.unwrap();
    upload.finish().await.unwrap();
    assert!(store.forget(&context(), digest).await.unwrap());
    std::fs::write(file, "of the one before").unwrap();
    let mut again = begin(&store, digest, Encoding::Identity).await;
    again.write(content.clone()).await.unwrap();
    again.finish().await.unwrap();
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), content);
    assert_eq!(std::fs::read(file).unwrap(), b"of the one before");
}
