//! The domain of remote caching and execution: what a digest, a blob, an action and its result are, the one error,
//! and the three ports ([`BlobStore`], [`ActionCache`], [`Executor`]) that everything else implements or wraps.
//!
//! Pure: no I/O, no protobuf, no configuration. Protocol types are converted to these in `mortar-wire`.

pub mod action;
pub mod blob;
pub mod chunking;
pub mod clock;
pub mod context;
pub mod digest;
pub mod error;
pub mod image;
pub mod merkle;
pub mod ports;
pub mod powers;
pub mod result;
pub mod session;

pub use action::{Action, Command, Platform, Property};
pub use blob::{Blob, ByteStream};
pub use chunking::{ChunkMapping, ChunkingFunction, ChunkingParameters, FastCdc2020, RepMaxCdc};
pub use clock::{Clock, SystemClock};
pub use context::{Context, InputsFollow, InstanceName, RequestMetadata};
pub use digest::{ActionKey, Digest, DigestFunction, DigestSet, Hasher};
pub use error::{Blame, Error, Kind};
pub use image::ImageReference;
pub use merkle::{Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode, Tree};
pub use ports::{
    ActionCache, BlobStore, BlobStoreExt, ExecuteRequest, Executor, Outcome, Progress, Range, Stage,
    Termination,
};
pub use powers::{
    AheadBounds, Batches, Chunks, Codec, Coming, EncodedBlobs, Encoding, Foresight, Forget, HashIndex, Holds,
    KeptResult, LocalFile, LocalFiles, Pins, ResultStore, Upload, UploadId, UploadSessions, Values, Whence,
};
pub use result::{
    ActionResult, ExecutionMetadata, LogFile, OutputDirectory, OutputFile, OutputSymlink, PersistentWorker,
    Usage, Waiting,
};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;
