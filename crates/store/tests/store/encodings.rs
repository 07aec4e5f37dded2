//! Blobs and uploads as zstd frames, over stores that keep blobs as they are.

use crate::fixture::{context, fresh};
use mortar_model::{BlobStoreExt, Encoding, UploadId, UploadSessions};
use mortar_store::{MemoryStore, SizeLimit, Transcoding, frames::deflate};
use mortar_testkit::conformance::{Subject, assert_conforms};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let store = MemoryStore::new(1 << 30);
    let (uploads, encoded) = (Some(store.clone() as _), Some(store.clone() as _));
    assert_conforms(&Subject { uploads, encoded, ..Subject::new(store) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transcoding() {
    let store = Arc::new(SizeLimit::new(MemoryStore::new(1 << 30), u64::MAX));
    let encoded = Some(Arc::new(Transcoding::new(store.clone())) as _);
    assert_conforms(&Subject { encoded, ..Subject::new(store) }).await;
}

#[tokio::test]
async fn an_upload_begins_anew_in_another_encoding() {
    let store = MemoryStore::new(1 << 30);
    let (digest, bytes) = fresh(100_000);
    let id = UploadId("one".into());
    let mut plain = store.open(&context(), &id, digest, Encoding::Identity).await.unwrap();
    plain.write(bytes.slice(..60_000)).await.unwrap();
    let mut frames = store.open(&context(), &id, digest, Encoding::Zstd).await.unwrap();
    assert_eq!(frames.committed(), 0);
    assert!(plain.write(bytes.slice(60_000..)).await.is_err(), "the other one is over");
    frames.write(deflate(&bytes).unwrap().into()).await.unwrap();
    frames.finish().await.unwrap();
    assert_eq!(store.read_all(&context(), digest, 100_000).await.unwrap(), bytes);
}
