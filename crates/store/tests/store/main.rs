//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod bits;
mod chunked;
mod conformance;
mod crashes;
mod damage;
mod decorators;
mod encodings;
mod eviction;
mod fixture;
mod full_disk;
mod import;
mod killed;
mod leases;
mod opening;
mod pins;
mod results;
mod resumed;
mod squeeze;
mod trouble;
mod turmoil;
mod uploads;
mod values;
