//! Where blobs, action results and opaque values are kept: on disk ([`DiskStore`], [`DiskActionCache`]), in memory
//! ([`MemoryStore`], [`MemoryActionCache`]), and the decorators that stand before them.
//!
//! Knows nothing of networks and of protobuf: messages are turned into bytes by a `Codec` that is passed in.

mod blocking;
pub mod completeness;
pub mod disk;
pub mod frames;
mod inflating;
mod intake;
pub mod memory;
pub mod records;
mod sessions;
pub mod size_limit;
pub mod transcoding;

pub use completeness::Completeness;
pub use disk::{DiskActionCache, DiskConfig, DiskStore, Policy, StoreStats};
pub use memory::{MemoryActionCache, MemoryStore};
pub use records::{Record, RecordKind, Records};
pub use size_limit::SizeLimit;
pub use transcoding::Transcoding;
