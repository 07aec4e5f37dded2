//! What the three ports cannot say: small traits, implemented only where the power is real, passed explicitly.

use crate::{
    ActionKey, ActionResult, ByteStream, ChunkMapping, ChunkingFunction, ChunkingParameters, Context, Digest,
    DigestFunction, DigestSet, Directory, InstanceName, Range, Result, Tree,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{
    any::Any,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// How the bytes of a blob are written down, on a stream or at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    #[default]
    Identity,
    /// As zstd frames.
    Zstd,
}

/// Stores that give and take blobs as zstd frames, as they are at rest where that is how they are.
#[async_trait]
pub trait EncodedBlobs: Send + Sync {
    /// A part of a blob (in bytes of its content) as zstd frames, which decompress to that part and to nothing more.
    /// What is corrupt is not found out before it is decompressed, but for the checks that the store keeps of the
    /// frames themselves.
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream>;

    /// Keeps a blob that comes as one piece of zstd frames, having checked what they decompress to.
    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()>;
}

/// Stores that keep large blobs as chunks, each chunk once, however many blobs it is part of.
#[async_trait]
pub trait Chunks: Send + Sync {
    /// The parameters by which blobs are cut, which clients that cut by themselves should use too.
    fn parameters(&self) -> ChunkingParameters;

    /// The chunks of a blob, all of which can be read. If none are known the blob is cut, preferably by `function`,
    /// and what it consists of is kept, durably. A blob too small to be cut is its own only chunk. Not found if the
    /// blob is not here.
    async fn split(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<ChunkMapping>;

    /// Makes a blob of chunks that are here, durably, having checked that they are it. Content that is not what the
    /// digest says is a mismatch and leaves nothing behind; a chunk that is not here is not found, by its name.
    /// What is known of a blob that is here already stays as it is.
    async fn splice(&self, context: &Context, digest: Digest, mapping: ChunkMapping) -> Result<()>;
}

/// Stores that can let a blob go at once, without waiting until it is the least used one.
#[async_trait]
pub trait Forget: Send + Sync {
    /// Drops a blob, whoever was promised it. Whether it was here. What is being read of it can be read to the end.
    async fn forget(&self, context: &Context, digest: Digest) -> Result<bool>;
}

/// An action result as it is kept, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptResult {
    /// The result as it was put.
    pub result: ActionResult,
    /// Every blob without which it is of no use: those that it names, and those that its trees and directories name.
    pub closure: Arc<DigestSet>,
    /// The invocation that put it; empty if that is not known.
    pub invocation: String,
    /// When it was put.
    pub stored: SystemTime,
}

/// Keeps action results, each instance's own, and knows which action made a blob. Does not look whether results can
/// be used; that is for the action cache before it.
#[async_trait]
pub trait ResultStore: Send + Sync {
    /// The result of an action.
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<KeptResult>>;

    /// Keeps a result in place of an older one, durably.
    async fn put(&self, context: &Context, key: ActionKey, kept: KeptResult) -> Result<()>;

    /// Drops a result. Whether there was one.
    async fn remove(&self, context: &Context, key: ActionKey) -> Result<bool>;

    /// The actions that are known to have made a blob, of all instances.
    async fn producers(&self, digest: Digest) -> Result<Vec<(InstanceName, ActionKey)>>;
}

/// Stores whose blobs are files on this machine.
#[async_trait]
pub trait LocalFiles: Send + Sync {
    /// A read-only file (mode 0555) with the blob's content, checked; none if the blob is not here. The file may be
    /// hard-linked but never written to or changed in its attributes.
    async fn local_file(&self, context: &Context, digest: Digest) -> Result<Option<LocalFile>>;

    /// A number that changes whenever a blob is found damaged. Whoever keeps links to files beyond the time that they
    /// are lent for must not use them any more once it has changed.
    fn damage(&self) -> u64;
}

/// Stores that read many small blobs at the cost of a few calls.
#[async_trait]
pub trait Batches: Send + Sync {
    /// Many small blobs, each checked and with a result of its own, in the order asked for. One that is too large to
    /// travel so is refused.
    async fn read_batch(&self, context: &Context, digests: &[Digest]) -> Result<Vec<Result<Bytes>>>;
}

/// A file that stays for as long as this value lives.
#[derive(Clone)]
pub struct LocalFile {
    path: PathBuf,
    _keep: Arc<dyn Any + Send + Sync>,
}

impl LocalFile {
    /// A file at `path`, kept by `keep`.
    pub fn new(path: PathBuf, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { path, _keep: keep }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Names one upload, so that it can be resumed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UploadId(pub Arc<str>);

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stores that take blobs in pieces over more than one call.
#[async_trait]
pub trait UploadSessions: Send + Sync {
    /// Begins an upload or takes it up where it was left. While one caller holds an upload, another that opens it
    /// takes it over: the first one's next call fails with `Aborted`. The bytes of the upload come in `encoding`. Who
    /// takes up an upload in zstd begins new frames, of the content from where it was left.
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>>;

    /// How many bytes of content of an upload are committed; none if it is not known.
    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>>;
}

/// An upload in progress. Dropping it keeps what was written, for a while, so that it can be resumed.
#[async_trait]
pub trait Upload: Send {
    /// Where the next bytes stand: bytes of content when the upload is opened; from then on, each byte that is taken
    /// counts as it comes.
    fn committed(&self) -> u64;

    /// Takes the next bytes. More content than the digest's size is a mismatch.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Checks the whole and makes it visible, durably. A mismatch discards the upload.
    async fn finish(self: Box<Self>) -> Result<()>;
}

/// Stores that find a blob without knowing its size, as Bazel's HTTP cache asks.
#[async_trait]
pub trait HashIndex: Send + Sync {
    /// The digest of the blob with this hash, if it is here.
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>>;
}

/// Opaque values by key, of clients that use the HTTP cache for their own formats. Kept per instance.
#[async_trait]
pub trait Values: Send + Sync {
    /// The value as it was put.
    async fn get(&self, context: &Context, key: &[u8; 32]) -> Result<Option<Bytes>>;

    /// Keeps a value in place of an older one.
    async fn put(&self, context: &Context, key: &[u8; 32], value: Bytes) -> Result<()>;
}

/// Stores that keep named sets of blobs until they are told otherwise: the outputs of a workspace, the files of a mount.
#[async_trait]
pub trait Pins: Send + Sync {
    /// Keeps these blobs, which are here, in place of what the pin kept before. Refused beyond the store's quota.
    async fn pin(&self, context: &Context, name: &str, blobs: &DigestSet) -> Result<()>;

    /// Takes a pin back. Whether there was one.
    async fn unpin(&self, name: &str) -> Result<bool>;

    /// All pins, by name.
    async fn pinned(&self) -> Result<Vec<(String, DigestSet)>>;
}

/// Stores that keep single blobs for as long as somebody in this process says so: those that are owed to somebody else.
/// Unlike pins they are not durable; who holds a blob holds it again after a restart.
pub trait Holds: Send + Sync {
    /// Keeps a blob from now on, here already or not yet, until it was released as often as it was held. Whether it is
    /// here.
    fn hold(&self, digest: Digest) -> bool;

    /// Takes that back.
    fn release(&self, digest: Digest);
}

/// Turns messages into bytes and back, for stores that know nothing of protobuf.
pub trait Codec: Send + Sync {
    /// An action result as bytes.
    fn encode_result(&self, result: &ActionResult) -> Bytes;

    /// The action result in these bytes; digests in it are of `function`.
    fn decode_result(&self, function: DigestFunction, bytes: Bytes) -> Result<ActionResult>;

    /// The tree in these bytes; digests in it are of `function`.
    fn decode_tree(&self, function: DigestFunction, bytes: Bytes) -> Result<Tree>;

    /// The directory in these bytes; digests in it are of `function`.
    fn decode_directory(&self, function: DigestFunction, bytes: Bytes) -> Result<Directory>;
}

/// Upstreams that remember what builds asked for, and tell what is likely to be asked for next.
#[async_trait]
pub trait Foresight: Send + Sync {
    /// What builds before asked for after an action, as the results are now, in that order; nothing if none is known to
    /// have asked for it.
    async fn follow(
        &self,
        context: &Context,
        from: Whence,
        bounds: AheadBounds,
    ) -> Result<BoxStream<'static, Result<Coming>>>;
}

/// Where to look ahead from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whence {
    /// After this action.
    Action(ActionKey),
    /// Where an earlier look ended, of results by the same digest function.
    Cursor(DigestFunction, Bytes),
}

/// How far to look ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AheadBounds {
    /// Results at most.
    pub results: u32,
    /// The largest blob that comes along.
    pub blob: u64,
    /// Bytes of blobs at most.
    pub bytes: u64,
}

/// A result that is likely to be asked for.
#[derive(Clone, Debug)]
pub struct Coming {
    /// Of which action.
    pub key: ActionKey,
    /// The result, all of whose blobs are promised.
    pub result: ActionResult,
    /// Small ones of those blobs. They are not checked yet.
    pub blobs: Vec<(Digest, Bytes)>,
    /// Where to go on.
    pub cursor: Bytes,
}
