//! Stores that count what they are asked, or wait until they are told.

use async_trait::async_trait;
use mortar_model::{
    ActionKey, Blob, BlobStore, Context, Digest, DigestSet, InstanceName, KeptResult, Range, Result,
    ResultStore,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;

/// A store that counts the calls that reach it.
pub struct Counting {
    inner: Arc<dyn BlobStore>,
    reads: AtomicUsize,
    writes: AtomicUsize,
    asked: Mutex<Vec<Vec<Digest>>>,
}

impl Counting {
    /// Over `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Arc<Self> {
        let (reads, writes) = Default::default();
        Arc::new(Self { inner, reads, writes, asked: Mutex::default() })
    }

    /// How many reads there were.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// How many writes there were.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// What each call of `find_missing` since the last look asked for.
    pub fn asked(&self) -> Vec<Vec<Digest>> {
        std::mem::take(&mut self.asked.lock().expect("no test panics within"))
    }
}

#[async_trait]
impl BlobStore for Counting {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.asked.lock().expect("no test panics within").push(digests.iter().collect());
        self.inner.find_missing(context, digests).await
    }
}

/// A store as slow as a test wants: every call waits at a gate until that is opened.
pub struct Gated {
    inner: Arc<dyn BlobStore>,
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gated {
    /// Over `inner`, closed.
    pub fn new(inner: Arc<dyn BlobStore>) -> Arc<Self> {
        Arc::new(Self { inner, open: watch::Sender::new(false), arrived: watch::Sender::new(0) })
    }

    /// Lets all calls pass, those that wait and those that come.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Has calls wait again.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Waits until so many calls have come since the beginning.
    pub async fn arrived(&self, calls: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|seen| *seen >= calls).await.expect("the sender lives as long as this");
    }

    async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the sender lives as long as this");
    }
}

#[async_trait]
impl BlobStore for Gated {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.pass().await;
        self.inner.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.pass().await;
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.pass().await;
        self.inner.find_missing(context, digests).await
    }
}

/// Keeps results in a table and counts how often it is asked for one.
#[derive(Default)]
pub struct CountingResults {
    kept: Mutex<HashMap<(InstanceName, ActionKey), KeptResult>>,
    gets: AtomicUsize,
}

impl CountingResults {
    /// How often a result was asked for.
    pub fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<(InstanceName, ActionKey), KeptResult>> {
        self.kept.lock().expect("no test panics within")
    }
}

#[async_trait]
impl ResultStore for CountingResults {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<KeptResult>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        Ok(self.kept().get(&(context.instance.clone(), key)).cloned())
    }

    async fn put(&self, context: &Context, key: ActionKey, kept: KeptResult) -> Result<()> {
        self.kept().insert((context.instance.clone(), key), kept);
        Ok(())
    }

    async fn remove(&self, context: &Context, key: ActionKey) -> Result<bool> {
        Ok(self.kept().remove(&(context.instance.clone(), key)).is_some())
    }

    async fn producers(&self, digest: Digest) -> Result<Vec<(InstanceName, ActionKey)>> {
        let kept = self.kept();
        let made = kept.iter().filter(|(_, kept)| kept.result.named_blobs().contains(&digest));
        Ok(made.map(|(name, _)| name.clone()).collect())
    }
}
