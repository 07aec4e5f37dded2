//! Uploads that nobody continues.

use crate::fixture::{HeldClock, PLENTY, config, context, files, fresh, until};
use mortar_model::{UploadId, UploadSessions};
use mortar_store::{DiskStore, Policy};

fn id(name: impl ToString) -> UploadId {
    UploadId(name.to_string().as_str().into())
}

#[tokio::test]
async fn idle_uploads_expire_and_held_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let policy = Policy { clock: clock.clone(), ..Policy::default() };
    let store = DiskStore::open_with(config(directory.path(), PLENTY), policy).unwrap();
    let (digest, bytes) = fresh(1_000_000);
    let mut left = store.open(&context(), &id("left"), digest).await.unwrap();
    left.write(bytes.slice(..500_000)).await.unwrap();
    drop(left);
    let mut held = store.open(&context(), &id("held"), digest).await.unwrap();
    held.write(bytes.slice(..500_000)).await.unwrap();

    clock.advance(30 * 60);
    drop(store.open(&context(), &id("new"), digest).await.unwrap());
    assert_eq!(store.committed(&context(), &id("left")).await.unwrap(), Some(500_000));
    clock.advance(40 * 60);
    drop(store.open(&context(), &id("newer"), digest).await.unwrap());
    assert_eq!(store.committed(&context(), &id("left")).await.unwrap(), None);
    assert_eq!(store.stats().uploads, 3);
    let temps = || files(&directory.path().join("tmp")).len();
    until("the file of the expired upload is gone", || temps() == 3).await;
    held.write(bytes.slice(500_000..)).await.unwrap();
    held.finish().await.unwrap();
}

#[tokio::test]
async fn only_so_many_idle_uploads_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let policy = Policy { clock: clock.clone(), max_idle_uploads: 5, ..Policy::default() };
    let store = DiskStore::open_with(config(directory.path(), PLENTY), policy).unwrap();
    for index in 0..20 {
        clock.advance(1);
        drop(store.open(&context(), &id(index), fresh(10).0).await.unwrap());
    }
    assert_eq!(store.stats().uploads, 6);
    assert_eq!(store.committed(&context(), &id(13)).await.unwrap(), None);
    assert_eq!(store.committed(&context(), &id(14)).await.unwrap(), Some(0));
}

#[tokio::test]
async fn uploads_end_with_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(config(directory.path(), PLENTY)).unwrap();
    let (digest, bytes) = fresh(1_000_000);
    let mut upload = store.open(&context(), &id("left"), digest).await.unwrap();
    upload.write(bytes.slice(..500_000)).await.unwrap();
    drop(upload);
    drop(store);
    let store = DiskStore::open(config(directory.path(), PLENTY)).unwrap();
    assert_eq!(store.committed(&context(), &id("left")).await.unwrap(), None);
    until("its file is gone", || files(&directory.path().join("tmp")).is_empty()).await;
}
