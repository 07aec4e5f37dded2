//! How a store is doing, in figures.

use super::DiskStore;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What it takes on disk, unfinished writes included.
    pub bytes: u64,
    /// What it may take.
    pub max_size: u64,
    /// Blobs of all digest functions.
    pub blobs: u64,
    /// Action results.
    pub results: u64,
    /// Opaque values.
    pub values: u64,
    /// All was counted since the start: the figures are exact even if the last run did not end in order.
    pub walked: bool,
    /// Things evicted since the start.
    pub evictions: u64,
    /// Of those, things whose soft lease had not ended.
    pub shed: u64,
    /// Things found damaged since the start.
    pub quarantined: u64,
    /// Files found to be removed behind the store's back since the start.
    pub lost: u64,
    /// Things lost, by damage or otherwise, on which a running invocation counted.
    pub lease_violations: u64,
    /// Writes refused since the start, for want of room.
    pub refused: u64,
    /// Segments reclaimed since the start.
    pub reclaimed: u64,
    /// Files compressed since the start.
    pub squeezed: u64,
    /// Uploads begun and not ended.
    pub uploads: u64,
    /// Invocations that count on what they were promised.
    pub invocations: u64,
    /// Bytes in segments, of their records and what is dead of them.
    pub segment_bytes: u64,
    /// Bytes of blobs that are files.
    pub file_bytes: u64,
    /// Bytes of files made of other blobs, for input roots.
    pub made_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
}

impl DiskStore {
    /// How the store is doing, now.
    pub fn stats(&self) -> StoreStats {
        let (shared, uploads) = (&self.shared, self.uploads.len() as u64);
        let [blobs, results, values] = shared.usage.counts();
        let counters = &shared.counters;
        StoreStats {
            bytes: shared.total(),
            max_size: shared.max_size,
            blobs,
            results,
            values,
            walked: shared.stock_taken.load(Relaxed),
            evictions: counters.evictions.load(Relaxed),
            shed: counters.shed.load(Relaxed),
            quarantined: counters.quarantined.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            lease_violations: counters.violations.load(Relaxed),
            refused: shared.room.refused.load(Relaxed),
            reclaimed: counters.reclaimed.load(Relaxed),
            squeezed: counters.squeezed.load(Relaxed),
            uploads,
            invocations: shared.leases.running() as u64,
            segment_bytes: shared.segments.footprint(),
            file_bytes: shared.usage.files(),
            made_bytes: shared.usage.made.load(Relaxed),
            index_bytes: shared.table.footprint(),
        }
    }
}

/// What happened since the start.
#[derive(Default)]
pub(super) struct Counters {
    pub evictions: AtomicU64,
    pub shed: AtomicU64,
    pub quarantined: AtomicU64,
    pub lost: AtomicU64,
    pub violations: AtomicU64,
    pub reclaimed: AtomicU64,
    pub squeezed: AtomicU64,
}
