//! The limits that clients are told and held to.

/// Bytes of blobs in one batch call; told in the capabilities.
pub const MAX_BATCH: u64 = 4 << 20;
/// The largest gRPC message taken: a batch with its digests, and room to say politely that it is too large.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The largest message of a worker session: a result may name very many outputs. Workers keep to it.
pub const MAX_SESSION_MESSAGE: usize = 64 << 20;
/// Bytes of content in one message of a stream.
pub const CHUNK: usize = 1 << 20;
/// Bytes of content that stores give at a time, as a rule.
pub const PIECE: usize = 256 << 10;
/// The largest message that asks for a read: little more than a name.
pub const MAX_READ_REQUEST: usize = 64 << 10;
/// Bytes of content on their way in or out, over all calls; see `budget`.
pub const IN_FLIGHT: usize = 16 << 20;
/// The largest message of the protocol (Action, Command, Directory) that is read from the CAS.
pub const MAX_PROTO_BLOB: u64 = 16 << 20;
/// stdout, stderr and files that are put into one result.
pub const MAX_INLINE: u64 = 1 << 20;
/// stdout or stderr that is put into a result although the client said nothing.
pub const SHORT_LOG: u64 = 16 << 10;
/// A file that is put into a result although the client did not name it, because it asked for small ones.
pub const SMALL_OUTPUT: u64 = 64 << 10;
/// A result with what is put into it, unless it is longer without: gRPC clients take messages of 4 MiB as a rule.
pub const MAX_RESULT: u64 = (4 << 20) - (256 << 10);
/// Directories that one GetTree may walk.
pub const MAX_TREE_DIRECTORIES: usize = 1_000_000;
/// Directories in one message of GetTree, unless the client asks for fewer.
pub const TREE_PAGE: usize = 1_000;
/// An opaque value of an HTTP client.
pub const MAX_VALUE: u64 = 64 << 20;
/// Calls to the store that one batch makes at the same time.
pub const BATCH_PARALLELISM: usize = 16;
/// Operations in one answer of ListOperations.
pub const OPERATIONS_PAGE: usize = 1_000;
/// The priorities of executions: lower runs first.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -1_000..=1_000;
/// Chunks that the one message of SplitBlob tells: no more than the usual limit of a client's messages holds.
pub const MAX_UNARY_CHUNKS: usize = 50_000;
/// Chunks in one message of GetChunkMapping.
pub const CHUNK_PAGE: usize = 10_000;
/// Chunks that RegisterChunkMapping takes for one blob.
pub const MAX_CHUNKS: usize = 500_000;
