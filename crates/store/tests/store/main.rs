//! Tests of the stores through their public interface.
mod conformance;
mod damage;
mod eviction;
mod fixture;
mod full_disk;
mod killed;
mod opening;
mod turmoil;
mod uploads;
