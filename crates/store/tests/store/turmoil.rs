//! Everything at once in a store that is too small: nothing wrong is served, and the accounts agree with the disk.

use crate::fixture::{
    MIB, balanced, blob_path, config, context, flip, record_place, unfinished, until, walked,
};
use bytes::Bytes;
use mortar_model::{BlobStore, BlobStoreExt, Digest, DigestFunction, DigestSet, Kind, LocalFiles, Range};
use mortar_store::DiskStore;
use mortar_testkit::conformance::Random;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const MAX_SIZE: u64 = 8 * MIB;
const TASKS: u64 = 6;
const STEPS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_accounts_agree_with_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(config(directory.path(), MAX_SIZE)).unwrap();
    walked(&store).await;
    let tasks = (0..TASKS).map(|task| tokio::spawn(disturb(store.clone(), directory.path().into(), task)));
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    until("unfinished files are gone", || unfinished(directory.path()).is_empty()).await;
    balanced(&store, directory.path()).await;
    let stats = store.stats();
    assert!(stats.bytes <= MAX_SIZE && stats.evictions > 0 && stats.quarantined > 0, "{stats:?}");
    drop(store);
    let store = DiskStore::open(config(directory.path(), MAX_SIZE)).unwrap();
    walked(&store).await;
    let again = store.stats();
    assert_eq!(again.blobs, stats.blobs);
    balanced(&store, directory.path()).await;
}

/// Does this and that with blobs that all tasks have in common.
async fn disturb(store: Arc<DiskStore>, directory: PathBuf, task: u64) {
    let mut random = Random::seeded(task);
    for _ in 0..STEPS {
        let seed = random.number() % 100;
        let length = [1000, 100_000, 400_000][seed as usize % 3];
        let (digest, bytes) = Random::seeded(1_000_000 + seed).blob(DigestFunction::Sha256, length);
        let outcome = match random.number() % 8 {
            0..3 => store.write_bytes(&context(), digest, bytes.clone()).await,
            3..5 => match store.read_all(&context(), digest, MAX_SIZE).await {
                Ok(read) => {
                    assert_eq!(read, bytes);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            5 => store.find_missing(&context(), &DigestSet::from_iter([digest])).await.map(drop),
            6 => store.local_file(&context(), digest).await.map(drop),
            _ => break_or_drop(&store, &directory, digest, &bytes, random.number()).await,
        };
        if let Err(error) = outcome {
            let expected = matches!(
                error.kind(),
                Kind::NotFound { .. }
                    | Kind::DataLoss { .. }
                    | Kind::ResourceExhausted { retry_after: Some(_), .. }
            );
            assert!(expected, "{error}");
        }
    }
}

/// Damages a blob, or begins to read it and leaves.
async fn break_or_drop(
    store: &DiskStore,
    directory: &Path,
    digest: Digest,
    content: &Bytes,
    dice: u64,
) -> mortar_model::Result<()> {
    if dice.is_multiple_of(2) {
        return store.read(&context(), digest, Range { offset: 3, limit: None }).await.map(drop);
    }
    // As it is evicted and written all the time, a file is damaged through a name of the test's own.
    let own = directory.join("quarantine").join(format!("test-{dice}"));
    if std::fs::hard_link(blob_path(directory, digest), &own).is_ok() {
        flip(&own, 0, 1);
        let read = store.read(&context(), digest, Range::ALL).await;
        let _ = std::fs::remove_file(&own);
        return read?.into_bytes().await.map(drop);
    }
    if let Some((segment, at)) = record_place(directory, content)
        && let Ok(file) = std::fs::OpenOptions::new().write(true).open(segment)
    {
        std::os::unix::fs::FileExt::write_all_at(&file, &[content[0] ^ 1], at).unwrap();
        return store.read(&context(), digest, Range::ALL).await?.into_bytes().await.map(drop);
    }
    Ok(())
}
