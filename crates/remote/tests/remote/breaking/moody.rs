//! An upstream without a network, which behaves as it is told.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Context, Digest, DigestSet, Error, ExecuteRequest,
    Executor, Kind, Outcome, Progress, Range, Result,
};
use mortar_remote::breaker::Probe;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// Well, and executions take for ever.
    Executes,
    Hangs,
    Fails,
    Denies,
    /// Reads give a byte and no more.
    Stalls,
    /// Reads give a byte every three seconds.
    Trickles,
    /// Answers after this time.
    Slow(Duration),
}

pub struct Moody {
    mood: Mutex<Mood>,
    calls: AtomicUsize,
    probes: AtomicUsize,
}

impl Moody {
    pub fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self { mood: Mutex::new(mood), calls: AtomicUsize::new(0), probes: AtomicUsize::new(0) })
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Calls that reached it, without probes.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    fn mood(&self) -> Mood {
        *self.mood.lock()
    }

    async fn call(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.behave().await
    }

    async fn behave(&self) -> Result<()> {
        match self.mood() {
            Mood::Hangs => futures::future::pending().await,
            Mood::Fails => {
                Err(Error::new(Kind::Unavailable { message: "out of order".into(), retry_after: None }))
            }
            Mood::Denies => Err(Error::new(Kind::PermissionDenied { message: "not for you".into() })),
            Mood::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Mood::Well | Mood::Executes | Mood::Stalls | Mood::Trickles => Ok(()),
        }
    }
}

#[async_trait]
impl Probe for Moody {
    async fn probe(&self) -> Result<()> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        self.behave().await
    }
}

#[async_trait]
impl BlobStore for Moody {
    async fn read(&self, _: &Context, digest: Digest, _: Range) -> Result<Blob> {
        self.call().await?;
        let bytes = futures::stream::iter((0..digest.size()).map(|_| Ok(Bytes::from_static(b"x"))));
        Ok(match self.mood() {
            Mood::Stalls => Blob::stream(digest.size(), bytes.take(1).chain(futures::stream::pending())),
            Mood::Trickles => Blob::stream(
                digest.size(),
                bytes.then(|byte| async {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    byte
                }),
            ),
            _ => Blob::stream(digest.size(), bytes),
        })
    }

    async fn write(&self, _: &Context, _: Digest, _: Blob) -> Result<()> {
        self.call().await
    }

    async fn find_missing(&self, _: &Context, _: &DigestSet) -> Result<DigestSet> {
        self.call().await.map(|()| DigestSet::new())
    }
}

#[async_trait]
impl ActionCache for Moody {
    async fn get(&self, _: &Context, _: ActionKey) -> Result<Option<ActionResult>> {
        self.call().await.map(|()| Some(ActionResult::default()))
    }

    async fn put(&self, _: &Context, _: ActionKey, _: ActionResult) -> Result<()> {
        self.call().await
    }
}

#[async_trait]
impl Executor for Moody {
    async fn execute(&self, _: &Context, _: ExecuteRequest, _: &dyn Progress) -> Result<Outcome> {
        self.call().await?;
        futures::future::pending().await
    }
}
