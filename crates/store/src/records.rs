//! Small values by name beside the blobs: what action results, opaque values and the knowledge about blobs are kept in.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{TryStreamExt, stream::BoxStream};
use mortar_model::{Context, Result};

/// What a record is, and how its name comes about. Names are 32 bytes, spread evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// An action result, by a hash of instance, function and action.
    Result,
    /// An opaque value of an HTTP client, by a hash of instance and key.
    Value,
    /// Which actions made a blob, by a hash of its digest.
    Producer,
    /// Of which chunks a blob consists, by a hash of its digest.
    Recipe,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// Its name.
    pub name: [u8; 32],
    /// Its content.
    pub content: Bytes,
}

/// Keeps records. A newer one replaces an older one of its name; a damaged one counts as unknown.
#[async_trait]
pub trait Records: Send + Sync {
    /// The content of a record, and what the caller wants to be promised of it.
    async fn record(&self, context: &Context, kind: RecordKind, name: [u8; 32]) -> Result<Option<Bytes>>;

    /// Promises those of these records that are there, without reading them.
    fn promise_records(&self, context: &Context, kind: RecordKind, names: &mut dyn Iterator<Item = [u8; 32]>);

    /// Keeps records; all of them are durable when this returns.
    async fn put_records(&self, context: &Context, records: Vec<Record>) -> Result<()>;

    /// Drops a record, durably. Whether there was one.
    async fn remove_record(&self, kind: RecordKind, name: [u8; 32]) -> Result<bool>;

    /// All records of a kind, in no order. What is put meanwhile may be among them or not.
    fn all_records(&self, kind: RecordKind) -> BoxStream<'_, Result<Record>>;
}

/// Removals that are on their way together: what is durable at once costs little more than one.
const REMOVALS: usize = 64;

/// Removes the records of a kind whose content is selected, durably, or only counts them; how many there were. What is
/// put meanwhile may stay.
pub(crate) async fn purge(
    records: &dyn Records,
    kind: RecordKind,
    only_count: bool,
    takes: impl Fn(Bytes) -> bool + Send + Sync,
) -> Result<u64> {
    let selected = records.all_records(kind).try_filter_map(|record| {
        let name = takes(record.content).then_some(record.name);
        async move { Ok(name) }
    });
    let removals = selected.map_ok(|name| async move {
        match only_count {
            true => Ok(true),
            false => records.remove_record(kind, name).await,
        }
    });
    let removed = removals.try_buffer_unordered(REMOVALS);
    removed.try_fold(0, |count, removed| async move { Ok(count + u64::from(removed)) }).await
}
