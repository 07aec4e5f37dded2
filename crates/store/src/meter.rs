//! What [`Metered`](crate::Metered) counts: plain numbers, which anybody may read at any time.

use mortar_model::{Error, Kind};
use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A call of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `BlobStore::read`.
    Read,
    /// `BlobStore::write`.
    Write,
    /// `BlobStore::find_missing`.
    FindMissing,
    /// `ActionCache::get`.
    Get,
    /// `ActionCache::put`.
    Put,
}

impl Operation {
    /// All of them, in the order of their counts.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::FindMissing, Self::Get, Self::Put];
}

/// The names under which errors are counted, one for each kind of error.
pub const ERROR_KINDS: [&str; 17] = [
    "invalid_argument",
    "mismatch",
    "not_found",
    "missing_blobs",
    "failed_precondition",
    "out_of_range",
    "resource_exhausted",
    "unavailable",
    "deadline_exceeded",
    "cancelled",
    "aborted",
    "permission_denied",
    "unauthenticated",
    "unimplemented",
    "data_loss",
    "io",
    "internal",
];

/// The place of an error's kind in [`ERROR_KINDS`].
fn kind_of(error: &Error) -> usize {
    match error.kind() {
        Kind::InvalidArgument { .. } => 0,
        Kind::Mismatch { .. } => 1,
        Kind::NotFound { .. } => 2,
        Kind::MissingBlobs { .. } => 3,
        Kind::FailedPrecondition { .. } => 4,
        Kind::OutOfRange { .. } => 5,
        Kind::ResourceExhausted { .. } => 6,
        Kind::Unavailable { .. } => 7,
        Kind::DeadlineExceeded { .. } => 8,
        Kind::Cancelled { .. } => 9,
        Kind::Aborted { .. } => 10,
        Kind::PermissionDenied { .. } => 11,
        Kind::Unauthenticated { .. } => 12,
        Kind::Unimplemented { .. } => 13,
        Kind::DataLoss { .. } => 14,
        Kind::Io { .. } => 15,
        Kind::Internal { .. } => 16,
    }
}

/// Latencies up to 2^26 microseconds (67 s) are told apart by powers of two; the last bucket has what took longer.
const BUCKETS: usize = 28;

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    bytes: AtomicU64,
    asked: AtomicU64,
    found: AtomicU64,
    errors: [AtomicU64; ERROR_KINDS.len()],
    latencies: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

/// Counts of every operation since it was made. Cheap to count in; the counts of one snapshot are not of one instant.
#[derive(Default)]
pub struct Meter {
    counts: [Counts; Operation::ALL.len()],
}

impl Meter {
    fn of(&self, operation: Operation) -> &Counts {
        &self.counts[operation as usize]
    }

    pub(crate) fn began(&self, operation: Operation) {
        self.of(operation).calls.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, operation: Operation, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let counts = self.of(operation);
        counts.latencies[bucket(micros)].fetch_add(1, Relaxed);
        counts.micros.fetch_add(micros, Relaxed);
    }

    pub(crate) fn failed(&self, operation: Operation, error: &Error) {
        self.of(operation).errors[kind_of(error)].fetch_add(1, Relaxed);
    }

    pub(crate) fn carried(&self, operation: Operation, bytes: u64) {
        self.of(operation).bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn asked(&self, operation: Operation, things: u64) {
        self.of(operation).asked.fetch_add(things, Relaxed);
    }

    pub(crate) fn found(&self, operation: Operation, things: u64) {
        self.of(operation).found.fetch_add(things, Relaxed);
    }

    /// The counts of an operation by now.
    pub fn snapshot(&self, operation: Operation) -> Snapshot {
        let counts = self.of(operation);
        let load = |count: &AtomicU64| count.load(Relaxed);
        let errors = ERROR_KINDS.into_iter().zip(counts.errors.iter().map(load));
        Snapshot {
            calls: load(&counts.calls),
            bytes: load(&counts.bytes),
            asked: load(&counts.asked),
            found: load(&counts.found),
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            latencies: array::from_fn(|bucket| load(&counts.latencies[bucket])),
            time: Duration::from_micros(load(&counts.micros)),
        }
    }
}

/// What was counted of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Calls that began.
    pub calls: u64,
    /// Bytes of blobs that flowed.
    pub bytes: u64,
    /// Digests or results that were asked for.
    pub asked: u64,
    /// How many of them were there.
    pub found: u64,
    /// Errors by kind, as far as there were any.
    pub errors: Vec<(&'static str, u64)>,
    /// Calls that succeeded: those in bucket `n` took less than 2^n microseconds, and no less than half of that.
    pub latencies: [u64; BUCKETS],
    /// The time of all calls that succeeded.
    pub time: Duration,
}

impl Snapshot {
    /// A time that this share of the calls that succeeded did not reach: at most twice too long.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = (share * self.latencies.iter().sum::<u64>() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.latencies.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map_or(Duration::ZERO, |bucket| Duration::from_micros(1 << bucket))
    }
}

fn bucket(micros: u64) -> usize {
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        for (micros, expected) in
            [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1 << 26, 27), (u64::MAX, 27)]
        {
            assert_eq!(bucket(micros), expected, "{micros}");
        }
    }

    #[test]
    fn percentiles_are_the_ends_of_buckets() {
        let meter = Meter::default();
        assert_eq!(meter.snapshot(Operation::Get).percentile(0.5), Duration::ZERO);
        for micros in (0..98).map(|_| 5).chain([900, 5_000_000]) {
            meter.answered(Operation::Get, Duration::from_micros(micros));
        }
        let snapshot = meter.snapshot(Operation::Get);
        for (share, micros) in [(0.5, 8), (0.98, 8), (0.99, 1024), (1.0, 1 << 23)] {
            assert_eq!(snapshot.percentile(share), Duration::from_micros(micros), "{share}");
        }
        assert_eq!(snapshot.time, Duration::from_micros(98 * 5 + 900 + 5_000_000));
    }
}
