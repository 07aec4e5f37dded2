//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod bits;
mod conformance;
mod crashes;
mod damage;
mod eviction;
mod fixture;
mod full_disk;
mod killed;
mod leases;
mod opening;
mod trouble;
mod turmoil;
mod uploads;
