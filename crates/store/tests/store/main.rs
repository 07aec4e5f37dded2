//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod completeness;
mod conformance;
mod damage;
mod decorators;
mod eviction;
mod fixture;
mod full_disk;
mod killed;
mod opening;
mod turmoil;
mod uploads;
