//! Refusing writes.

use super::memory;
use crate::fixture::{context, fetch, fresh, is_present, put};
use mortar_model::{ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Error, Kind, Range};
use mortar_store::ReadOnly;
use std::sync::Arc;

#[track_caller]
fn expect_denied(error: &Error, name: &str) {
    assert!(matches!(error.kind(), Kind::PermissionDenied { .. }), "{error}");
    assert!(error.to_string().contains(name), "{error}");
}

#[tokio::test]
async fn read_only_refuses_every_write() {
    let inner = memory();
    let (here, bytes) = put(&*inner, 100).await;
    let store = ReadOnly::new(inner.clone() as Arc<dyn BlobStore>);
    let (new, content) = fresh(100);
    for (digest, content) in [(new, content), (here, bytes.clone())] {
        let error = store.write_bytes(&context(), digest, content).await.unwrap_err();
        expect_denied(&error, &digest.to_string());
    }
    assert!(!is_present(&*inner, new).await);
    assert_eq!(fetch(&store, here, Range::ALL).await.unwrap(), bytes);

    let inner = crate::fixture::memory_actions();
    let store = ReadOnly::new(inner.clone() as Arc<dyn ActionCache>);
    let key: ActionKey = new.into();
    let error = store.put(&context(), key, ActionResult::default()).await.unwrap_err();
    expect_denied(&error, &key.hex());
    assert_eq!(inner.get(&context(), key).await.unwrap(), None);
}
