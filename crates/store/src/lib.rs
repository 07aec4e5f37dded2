//! Where blobs, action results and opaque values are kept: on disk ([`DiskStore`], [`DiskActionCache`]), in memory
//! ([`MemoryStore`], [`MemoryActionCache`]), and the decorators that stand before them.
//!
//! Knows nothing of networks and of protobuf: messages are turned into bytes by a `Codec` that is passed in.

mod blocking;
mod bounded;
pub mod completeness;
pub mod disk;
pub mod existence_cache;
mod intake;
pub mod memory;
pub mod memory_tier;
pub mod meter;
pub mod metered;
pub mod read_only;
pub mod read_through;
pub mod records;
pub mod result_tier;
mod sessions;
pub mod single_flight;
pub mod size_limit;

pub use completeness::Completeness;
pub use disk::{DiskActionCache, DiskConfig, DiskStore, Policy, StoreStats};
pub use existence_cache::ExistenceCache;
pub use memory::{MemoryActionCache, MemoryStore};
pub use memory_tier::MemoryTier;
pub use meter::{Meter, Operation, Snapshot};
pub use metered::Metered;
pub use read_only::ReadOnly;
pub use read_through::ReadThrough;
pub use records::{Record, RecordKind, Records};
pub use result_tier::ResultTier;
pub use single_flight::SingleFlight;
pub use size_limit::SizeLimit;
