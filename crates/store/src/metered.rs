//! A decorator of blob stores and of action caches: counts what passes through it.

use crate::meter::{Meter, Operation};
use async_trait::async_trait;
use futures::StreamExt;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Clock, Context, Digest, DigestSet, Range, Result,
};
use std::sync::Arc;

/// Counts calls, bytes, errors and latencies in a [`Meter`], which others read.
///
/// Stands wherever the difference is of interest: at the top of a stack, for what clients see; before and after a
/// cache, for what it saves. Several may share a meter. A latency ends with the answer; the bytes of a blob that is
/// read are counted as they flow, and an error in the middle is an error of the read. A call that is dropped before
/// its answer counts as a call and nothing else. Powers go around it uncounted, but for those whose owner counts them
/// himself in the same meter.
pub struct Metered<P: ?Sized> {
    inner: Arc<P>,
    meter: Arc<Meter>,
    clock: Arc<dyn Clock>,
}

impl<P: ?Sized> Metered<P> {
    /// Over `inner`, counting in `meter`.
    pub fn new(inner: Arc<P>, meter: Arc<Meter>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, meter, clock }
    }

    async fn timed<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.meter.began(operation);
        let began = self.clock.now();
        let answer = call.await;
        let took = self.clock.now().saturating_duration_since(began);
        match &answer {
            Ok(_) => self.meter.answered(operation, took),
            Err(error) => self.meter.failed(operation, error),
        }
        answer
    }
}

/// The blob, whose bytes are counted as they flow.
fn counted(blob: Blob, operation: Operation, meter: Arc<Meter>) -> Blob {
    if let Some(bytes) = blob.as_bytes() {
        meter.carried(operation, bytes.len() as u64);
        return blob;
    }
    let count = move |item: &Result<bytes::Bytes>| match item {
        Ok(bytes) => meter.carried(operation, bytes.len() as u64),
        // Of a write, the answer will tell.
        Err(error) if operation == Operation::Read => meter.failed(operation, error),
        Err(_) => {}
    };
    Blob::stream(blob.len(), blob.into_stream().inspect(count))
}

#[async_trait]
impl BlobStore for Metered<dyn BlobStore> {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let blob = self.timed(Operation::Read, self.inner.read(context, digest, range)).await?;
        Ok(counted(blob, Operation::Read, self.meter.clone()))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let blob = counted(blob, Operation::Write, self.meter.clone());
        self.timed(Operation::Write, self.inner.write(context, digest, blob)).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.meter.asked(Operation::FindMissing, digests.len() as u64);
        let missing = self.timed(Operation::FindMissing, self.inner.find_missing(context, digests)).await?;
        self.meter.found(Operation::FindMissing, (digests.len() - missing.len()) as u64);
        Ok(missing)
    }
}

#[async_trait]
impl ActionCache for Metered<dyn ActionCache> {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.meter.asked(Operation::Get, 1);
        let result = self.timed(Operation::Get, self.inner.get(context, key)).await?;
        self.meter.found(Operation::Get, result.is_some().into());
        Ok(result)
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.timed(Operation::Put, self.inner.put(context, key, result)).await
    }
}
