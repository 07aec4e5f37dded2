//! Where blobs, action results and opaque values are kept: on disk ([`DiskStore`]) or in memory ([`MemoryStore`]), action
//! results as records of either ([`Results`]), and the decorators that stand before them.
//!
//! Knows nothing of networks and of protobuf: messages are turned into bytes by a `Codec` that is passed in.

mod blocking;
mod bounded;
pub mod chunked;
pub mod chunking;
pub mod completeness;
pub mod disk;
pub mod existence_cache;
pub mod framed;
pub mod frames;
pub mod import;
mod inflating;
mod intake;
pub mod journal;
pub mod memory;
pub mod memory_tier;
pub mod meter;
pub mod metered;
pub mod read_only;
pub mod read_through;
pub mod records;
pub mod result_tier;
pub mod results;
mod sessions;
pub mod single_flight;
pub mod size_limit;
pub mod sizes_seen;
pub mod transcoding;
pub mod values;

pub use chunked::{ChunkedBlobs, ChunkedFiles, ChunkedHashes, forget_chunks};
pub use completeness::{Completeness, CompletenessStats};
pub use disk::{
    DiskConfig, DiskStore, Finding, Gate, LeaseTerms, Policy, Step, StoreStats, Verdict, VerifyOptions,
    VerifyReport, VerifyStep,
};
pub use existence_cache::ExistenceCache;
pub use journal::{Journal, Owed, OwedEntry};
pub use memory::MemoryStore;
pub use memory_tier::MemoryTier;
pub use meter::{Meter, Operation, Snapshot};
pub use metered::Metered;
pub use read_only::ReadOnly;
pub use read_through::ReadThrough;
pub use records::{Record, RecordKind, Records};
pub use result_tier::ResultTier;
pub use results::{Results, purge::Selection};
pub use single_flight::SingleFlight;
pub use size_limit::SizeLimit;
pub use sizes_seen::SizesSeen;
pub use transcoding::Transcoding;
pub use values::NamedValues;
