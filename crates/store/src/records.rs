//! Small values by name beside the blobs: what action results, opaque values and the knowledge about blobs are kept in.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mortar_model::Result;

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
    /// The content of a record. With `keep`, that counts as a use.
    async fn record(&self, kind: RecordKind, name: [u8; 32], keep: bool) -> Result<Option<Bytes>>;

    /// Keeps records; all of them are durable when this returns.
    async fn put_records(&self, records: Vec<Record>) -> Result<()>;

    /// Drops a record, durably. Whether there was one.
    async fn remove_record(&self, kind: RecordKind, name: [u8; 32]) -> Result<bool>;

    /// All records of a kind, in no order. What is put meanwhile may be among them or not.
    fn all_records(&self, kind: RecordKind) -> BoxStream<'_, Result<Record>>;
}
