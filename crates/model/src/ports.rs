//! The three ports of the house. Server, companion, worker and client differ only in what they stack behind them.

use crate::{
    ActionKey, ActionResult, Blob, Context, Digest, DigestSet, Error, ExecutionMetadata, Kind, LogFile,
    Result,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;

/// Blobs by digest.
///
/// The contract, held by one conformance suite: `write` is all or nothing, idempotent and durable when it returns;
/// what does not match its digest is refused and leaves nothing behind; what `find_missing` calls present can be
/// read; the empty blob always exists; a read past the end is an error that tells both numbers; dropping a future or
/// a stream releases all that it held.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// The bytes of a blob within a range. Corrupt content is never returned: the stream fails before its end.
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob>;

    /// Keeps a blob, having checked it.
    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()>;

    /// Those of `digests` that are not here.
    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet>;
}

/// Results by action. A store of its own, since its keys do not hash its values.
#[async_trait]
pub trait ActionCache: Send + Sync {
    /// The result of an action, if it is known.
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>>;

    /// Keeps the result of an action, in place of an older one.
    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()>;
}

/// Runs actions, or has them run. Dropping the future means that the caller no longer wants the outcome.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs one action to its end. `progress` is told each stage as it is entered.
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome>;
}

/// A part of a blob, in bytes of its uncompressed content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// How long it is at most; to the end where absent.
    pub limit: Option<u64>,
}

impl Range {
    /// All of it.
    pub const ALL: Self = Self { offset: 0, limit: None };

    /// Offset and length within this blob. An offset at the very end is an empty range, one past it an error.
    pub fn within(self, digest: Digest) -> Result<(u64, u64)> {
        let left =
            digest.size().checked_sub(self.offset).ok_or_else(|| Error::past_end(digest, self.offset))?;
        Ok((self.offset, self.limit.map_or(left, |limit| limit.min(left))))
    }

    /// Whether this takes in the whole blob.
    pub fn is_all_of(self, digest: Digest) -> bool {
        self.offset == 0 && self.limit.is_none_or(|limit| limit >= digest.size())
    }
}

/// What is to be executed, and how.
#[derive(Clone, Debug)]
pub struct ExecuteRequest {
    /// The Action message.
    pub action_digest: Digest,
    /// Run it even if its result is known.
    pub skip_cache_lookup: bool,
    /// Lower runs first; 0 is the default.
    pub priority: i32,
}

/// How an execution ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The result, or as much of it as there is.
    pub result: ActionResult,
    /// It came from the cache.
    pub cached: bool,
    /// How the command came to its end.
    pub termination: Termination,
    /// For the person who reads the build's output.
    pub message: String,
    /// Logs of the server about this execution, by name.
    pub server_logs: Vec<(String, LogFile)>,
}

/// How a command came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Termination {
    /// By itself; the exit code is in the result.
    Exited,
    /// It was stopped at its time limit; its logs are in the result.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
}

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The cache is looked at.
    CacheCheck,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Executing,
    /// It is over.
    Completed,
}

/// Hears of the stages of an execution.
pub trait Progress: Send + Sync {
    /// A stage was entered. `metadata` holds the timestamps that are known by now.
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata);
}

impl Progress for () {
    fn report(&self, _: Stage, _: &ExecutionMetadata) {}
}

/// Conveniences over any [`BlobStore`].
#[async_trait]
pub trait BlobStoreExt: BlobStore {
    /// A whole blob as one piece, refused if it is larger than `limit` bytes.
    async fn read_all(&self, context: &Context, digest: Digest, limit: u64) -> Result<Bytes> {
        if digest.size() > limit {
            let message = format!("blob `{digest}` is read as one piece, which at most {limit} bytes may be");
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        self.read(context, digest, Range::ALL).await?.into_bytes().await
    }

    /// Keeps bytes that are at hand.
    async fn write_bytes(&self, context: &Context, digest: Digest, bytes: Bytes) -> Result<()> {
        self.write(context, digest, Blob::bytes(bytes)).await
    }
}

impl<T: BlobStore + ?Sized> BlobStoreExt for T {}
