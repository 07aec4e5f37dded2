//! Action results as records: each with the blobs that it needs, and with the way back from a blob to the actions that
//! made it.
//!
//! Stands between `Completeness`, which decides what may be served, and whatever keeps records. Two kinds are written:
//! `RecordKind::Result` by instance and action, `RecordKind::Producer` by blob; their formats are in [`record`].
//! Removing results in bulk is in [`purge`].

pub mod purge;
pub mod record;

use crate::records::{Record, RecordKind, Records};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    ActionKey, Codec, Context, Digest, DigestFunction, HashIndex, InstanceName, KeptResult, Result,
    ResultStore,
};
use record::{Head, Makers, Named};
use std::sync::Arc;

/// Records of makers that are read at the same time.
const READS: usize = 16;

/// Action results in records, each instance's own. Keeps whatever it is given.
///
/// An action counts as the producer of a blob for as long as its newest result names it: who drops or replaces the
/// result takes that back.
pub struct Results {
    records: Arc<dyn Records>,
    codec: Arc<dyn Codec>,
}

impl Results {
    /// Results kept in `records`, turned into bytes by `codec`.
    pub fn new(records: Arc<dyn Records>, codec: Arc<dyn Codec>) -> Self {
        Self { records, codec }
    }

    /// The head of a result, and the bytes of the result itself. One that cannot be understood is dropped.
    async fn read(&self, context: &Context, name: [u8; 32]) -> Result<Option<(Head, Bytes)>> {
        let Some(content) = self.records.record(context, RecordKind::Result, name).await? else {
            return Ok(None);
        };
        match Head::decode(content) {
            Ok(found) => Ok(Some(found)),
            Err(why) => {
                tracing::warn!("a kept action result is dropped: {why}");
                self.records.remove_record(RecordKind::Result, name).await?;
                Ok(None)
            }
        }
    }

    /// Who is noted as having made a blob; whether that still holds is not asked. A note that cannot be understood is
    /// dropped.
    async fn noted(&self, name: [u8; 32]) -> Result<Option<Makers>> {
        let Some(content) = self.records.record(&Context::glance(), RecordKind::Producer, name).await? else {
            return Ok(None);
        };
        match Makers::decode(content) {
            Ok(makers) => Ok(Some(makers)),
            Err(why) => {
                tracing::warn!("what is known of the producers of a blob is dropped: {why}");
                self.records.remove_record(RecordKind::Producer, name).await?;
                Ok(None)
            }
        }
    }

    /// The record that names `maker` first among those who made a blob. Two results that name the same blob and are put
    /// at the same time may forget one of them; the other one makes the blob as well.
    async fn note(&self, digest: Digest, maker: Named) -> Result<Record> {
        let name = record::producer_name(digest.function(), digest.hash());
        let known = self.noted(name).await?.filter(|makers| makers.size == digest.size());
        let makers = known.unwrap_or_else(|| Makers::of_blob(digest.size())).with(maker);
        Ok(Record { kind: RecordKind::Producer, name, content: makers.encode() })
    }
}

#[async_trait]
impl ResultStore for Results {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<KeptResult>> {
        let name = record::result_name(&context.instance, key);
        let Some((head, bytes)) = self.read(context, name).await? else { return Ok(None) };
        // What could make a blob again stays for as long as the blob.
        let name_of = |made: Digest| record::producer_name(made.function(), made.hash());
        self.records.promise_records(context, RecordKind::Producer, &mut head.closure.iter().map(name_of));
        match self.codec.decode_result(key.function, bytes) {
            Ok(result) => Ok(Some(KeptResult {
                result,
                closure: Arc::new(head.closure),
                invocation: head.invocation,
                stored: head.stored,
            })),
            Err(error) => {
                tracing::warn!(?key, %error, "a kept action result is dropped: it cannot be decoded");
                self.records.remove_record(RecordKind::Result, name).await?;
                Ok(None)
            }
        }
    }

    async fn put(&self, context: &Context, key: ActionKey, kept: KeptResult) -> Result<()> {
        let maker = Named { instance: context.instance.clone(), key };
        let made = kept.closure.iter().filter(|digest| !digest.is_empty());
        let notes = made.map(|digest| self.note(digest, maker.clone()));
        let mut records: Vec<Record> =
            stream::iter(notes.collect::<Vec<_>>()).buffer_unordered(READS).try_collect().await?;
        let worker = kept.result.metadata.worker.clone();
        let KeptResult { result, closure, invocation, stored } = kept;
        let head = Head { named: maker, stored, invocation, worker, closure: Arc::unwrap_or_clone(closure) };
        let name = record::result_name(&context.instance, key);
        let content = head.encode(&self.codec.encode_result(&result));
        records.push(Record { kind: RecordKind::Result, name, content });
        self.records.put_records(context, records).await
    }

    async fn remove(&self, context: &Context, key: ActionKey) -> Result<bool> {
        let name = record::result_name(&context.instance, key);
        self.records.remove_record(RecordKind::Result, name).await
    }

    async fn producers(&self, digest: Digest) -> Result<Vec<(InstanceName, ActionKey)>> {
        let name = record::producer_name(digest.function(), digest.hash());
        let Some(makers) = self.noted(name).await?.filter(|makers| makers.size == digest.size()) else {
            return Ok(Vec::new());
        };
        let mut still = Vec::new();
        for maker in makers.newest_first {
            let result =
                self.read(&Context::glance(), record::result_name(&maker.instance, maker.key)).await?;
            if result.is_some_and(|(head, _)| head.closure.contains(&digest)) {
                still.push((maker.instance, maker.key));
            }
        }
        Ok(still)
    }
}

/// The digest of a blob as results name it, whether or not the blob is there.
#[async_trait]
impl HashIndex for Results {
    async fn lookup(&self, _: &Context, function: DigestFunction, hash: &[u8; 32]) -> Result<Option<Digest>> {
        let noted = self.noted(record::producer_name(function, hash)).await?;
        Ok(noted.map(|makers| Digest::new(function, *hash, makers.size)))
    }
}
