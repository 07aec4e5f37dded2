//! Tests of the stores through their public interface.
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
