//! A worker far from the server's store keeps what it fetched, and fetches what it has not in few calls.

use crate::{FUNCTION, Job, Lab, config, run};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Batches, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Kind, Outcome, Range, Result,
};
use mortar_store::{DiskConfig, DiskStore, ReadThrough};
use mortar_worker::{Near, Stores, Worker};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio_util::sync::CancellationToken;

/// The far store, which counts what it is asked.
struct Far {
    inner: Arc<dyn BlobStore>,
    reads: AtomicUsize,
    batches: AtomicUsize,
    looks: AtomicUsize,
}

#[async_trait]
impl BlobStore for Far {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.reads.fetch_add(1, Relaxed);
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.looks.fetch_add(1, Relaxed);
        self.inner.find_missing(context, digests).await
    }
}

#[async_trait]
impl Batches for Far {
    async fn read_batch(&self, context: &Context, digests: &[Digest]) -> Result<Vec<Result<Bytes>>> {
        self.batches.fetch_add(1, Relaxed);
        let mut read = Vec::new();
        for digest in digests {
            read.push(self.inner.read_all(context, *digest, 1 << 20).await);
        }
        Ok(read)
    }
}

impl Far {
    /// How often it was asked since the last time: reads, batches, looks.
    fn asked(&self) -> [usize; 3] {
        [&self.reads, &self.batches, &self.looks].map(|count| count.swap(0, Relaxed))
    }
}

/// A worker with a store of its own in this directory, before a far one.
async fn worker(lab: &Lab, far: &Arc<Far>, own: &Path) -> (Worker, Arc<DiskStore>, Arc<ReadThrough>) {
    let disk = DiskStore::open(DiskConfig { directory: own.into(), max_size: 1 << 30 }).unwrap();
    let through = Arc::new(ReadThrough::new(disk.clone(), far.clone()));
    let stores = Stores {
        blobs: through.clone(),
        near: Some(Near { blobs: disk.clone(), far: far.clone() }),
        local: Some(disk.clone()),
        actions: lab.actions.clone(),
    };
    (Worker::open(config(&lab.directory), stores).await.unwrap(), disk, through)
}

async fn ran(worker: &Worker, action: Digest) -> Result<Outcome> {
    worker.run(run(action), Arc::new(()), CancellationToken::new()).await
}

fn job(script: &str) -> Job {
    let files = (0..300).fold(Job::new(script), |job, index| {
        job.file(&format!("d{}/f{index}", index % 30), &format!("{index}\n"))
    });
    files.file("big", &"0123456789abcdef".repeat(20_000)).paths(&["out"])
}

#[tokio::test]
async fn inputs_come_in_few_calls_and_stay_for_the_next_worker() {
    let lab = Lab::memory().await;
    let (reads, batches, looks) = Default::default();
    let far = Arc::new(Far { inner: lab.blobs.clone(), reads, batches, looks });
    let own = lab.directory.path().join("own");
    let script = "cat d*/* | wc -l; wc -c < big; echo made > out";
    let action = lab.action(&job(script)).await;

    let (first, disk, through) = worker(&lab, &far, &own).await;
    let outcome = ran(&first, action).await.unwrap();
    assert_eq!(lab.text(outcome.result.stdout_digest).await, "300\n320000\n");
    // Action, command, top directory and the large file; 30 directories, then 300 files; inputs, then outputs.
    assert_eq!(far.asked(), [4, 3, 2]);
    let output = outcome.result.files[0].digest;
    through.settle().await;
    let context = Context::internal();
    assert_eq!(disk.read_all(&context, output, 100).await.unwrap(), "made\n", "outputs stay too");
    assert_eq!(lab.get(output).await, "made\n");

    // As after a restart: nothing is in memory, but all is on disk.
    drop((first, disk, through));
    let (second, ..) = worker(&lab, &far, &own).await;
    let outcome = ran(&second, action).await.unwrap();
    assert_eq!(lab.text(outcome.result.stdout_digest).await, "300\n320000\n");
    assert_eq!(far.asked(), [0, 0, 1], "only whether the outputs are there");
}

#[tokio::test]
async fn what_neither_store_has_is_missing() {
    let lab = Lab::memory().await;
    let (reads, batches, looks) = Default::default();
    let far = Arc::new(Far { inner: mortar_store::MemoryStore::new(1 << 30), reads, batches, looks });
    let action = lab.action(&job("true")).await;
    let (worker, ..) = worker(&lab, &far, &lab.directory.path().join("own")).await;
    let error = ran(&worker, action).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::MissingBlobs { .. }), "{error}");
    // The messages come, and one of the files.
    let known = Digest::of(FUNCTION, b"7\n");
    let text = lab.get(known).await;
    far.inner.write_bytes(&Context::internal(), known, text).await.unwrap();
    for message in lab.messages(&job("true")).await {
        let bytes = lab.get(message).await;
        far.inner.write_bytes(&Context::internal(), message, bytes).await.unwrap();
    }
    let error = ran(&worker, action).await.unwrap_err();
    let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
    assert_eq!(missing.len(), 300, "299 small files and the large one");
    assert!(!missing.contains(&known));
}
