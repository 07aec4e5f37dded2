//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod completeness;
mod conformance;
mod damage;
mod eviction;
mod fixture;
mod full_disk;
mod killed;
mod opening;
mod results;
mod turmoil;
mod uploads;
