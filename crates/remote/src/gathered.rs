//! A decorator of a server's blobs: reads of small ones that come at the same time are one BatchReadBlobs.

use crate::Remote;
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Blob, BlobStore, Context, Digest, DigestFunction, DigestSet, Error, InstanceName, Kind, Range, Result,
    context::Promise,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Content in one call, beyond which the next one begins: many that are not too long come sooner than few.
const BATCH: u64 = 256 << 10;
/// What comes within this part of the time that a call takes lately goes along with it.
const WAIT_PART: u32 = 16;
/// The shortest wait that a timer keeps, and the longest that is worth it.
const WAITS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// Reads small blobs together. Nobody waits for others to come where a call takes less than some milliseconds: there,
/// only what is asked for in the same moment goes together.
///
/// Stands directly before a server, behind what merges equal reads and bounds how long a caller waits: a call under way
/// goes on when those who wait for it leave. Everything else is passed on. Cheap to clone; clones gather together.
#[derive(Clone)]
pub struct GatheredReads {
    remote: Remote,
    gathering: Arc<Mutex<Gathering>>,
}

#[derive(Default)]
struct Gathering {
    waiting: HashMap<Key, Vec<Waiter>>,
    /// What a call took lately.
    took: Duration,
}

/// What may be in one call.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    instance: InstanceName,
    invocation: String,
    function: DigestFunction,
    lease: bool,
}

struct Waiter {
    digest: Digest,
    answer: oneshot::Sender<Result<Bytes>>,
}

impl GatheredReads {
    /// Before this server.
    pub fn new(remote: Remote) -> Self {
        Self { remote, gathering: Arc::default() }
    }

    /// Joins those who wait; the first of them has the call made.
    async fn read_small(&self, context: &Context, digest: Digest) -> Result<Bytes> {
        let key = Key {
            instance: context.instance.clone(),
            invocation: context.request.tool_invocation_id.clone(),
            function: digest.function(),
            lease: context.promise == Promise::Lease,
        };
        let (answer, answered) = oneshot::channel();
        let wait = {
            let mut gathering = self.gathering.lock();
            let waiting = gathering.waiting.entry(key.clone()).or_default();
            waiting.push(Waiter { digest, answer });
            (waiting.len() == 1).then(|| gathering.took / WAIT_PART)
        };
        if let Some(wait) = wait {
            let (this, context) = (self.clone(), Context { deadline: None, ..context.clone() });
            tokio::spawn(async move {
                match wait >= WAITS.0 {
                    true => tokio::time::sleep(wait.min(WAITS.1)).await,
                    false => tokio::task::yield_now().await,
                }
                let gathered = this.gathering.lock().waiting.remove(&key).unwrap_or_default();
                let calls = batches(gathered).into_iter().map(|batch| this.call(&context, batch));
                futures::future::join_all(calls).await;
            });
        }
        answered.await.unwrap_or_else(|_| Err(Error::internal("a call for small blobs was given up")))
    }

    async fn call(&self, context: &Context, batch: Vec<Waiter>) {
        let digests: Vec<Digest> = batch.iter().map(|waiter| waiter.digest).collect();
        let begun = Instant::now();
        let read = self.remote.read_batch(context, &digests).await;
        if read.is_ok() {
            let mut gathering = self.gathering.lock();
            gathering.took = (3 * gathering.took + begun.elapsed()) / 4;
        }
        let answers = read.unwrap_or_else(|error| {
            let error = Arc::new(error);
            digests.iter().map(|_| Err(Error::new(error.kind().clone()).with_source(error.clone()))).collect()
        });
        for (waiter, answer) in batch.into_iter().zip(answers) {
            // Who does not wait any more needs none.
            let _ = waiter.answer.send(answer);
        }
    }
}

#[async_trait]
impl BlobStore for GatheredReads {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        if range.is_all_of(digest) && !digest.is_empty() && self.remote.0.is_small(context, digest).await? {
            match self.read_small(context, digest).await {
                // A server without batches is read one by one.
                Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => {}
                read => return read.map(Blob::bytes),
            }
        }
        self.remote.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.remote.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.remote.find_missing(context, digests).await
    }
}

fn batches(waiting: Vec<Waiter>) -> Vec<Vec<Waiter>> {
    let mut batches: Vec<Vec<Waiter>> = Vec::new();
    let mut bytes = 0;
    for waiter in waiting {
        if bytes >= BATCH || batches.is_empty() {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += waiter.digest.size();
        batches.last_mut().expect("one was just begun").push(waiter);
    }
    batches
}
