//! Where blobs, action results and opaque values are kept: on disk ([`DiskStore`]) or in memory ([`MemoryStore`]), action
//! results as records of either ([`Results`]), and the decorators that stand before them.
//!
//! Knows nothing of networks and of protobuf: messages are turned into bytes by a `Codec` that is passed in.

mod blocking;
pub mod completeness;
pub mod disk;
pub mod frames;
pub mod import;
mod inflating;
mod intake;
pub mod memory;
pub mod records;
pub mod results;
mod sessions;
pub mod size_limit;
pub mod transcoding;
pub mod values;

pub use completeness::{Completeness, CompletenessStats};
pub use disk::{
    DiskConfig, DiskStore, Finding, Gate, Policy, Step, StoreStats, Verdict, VerifyOptions, VerifyReport,
    VerifyStep,
};
pub use memory::MemoryStore;
pub use records::{Record, RecordKind, Records};
pub use results::{Results, purge::Selection};
pub use size_limit::SizeLimit;
pub use transcoding::Transcoding;
pub use values::NamedValues;
