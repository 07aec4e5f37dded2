//! Timestamps and durations on the wire.

use mortar_model::{Error, Result, clock::since_epoch};
use std::time::{Duration, SystemTime};

/// A duration that must not be negative.
pub fn duration_from_wire(field: &str, duration: prost_types::Duration) -> Result<Duration> {
    let parts = u64::try_from(duration.seconds).ok().zip(u32::try_from(duration.nanos).ok());
    parts
        .filter(|(_, nanos)| *nanos < 1_000_000_000)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos))
        .ok_or_else(|| {
            let (seconds, nanos) = (duration.seconds, duration.nanos);
            let message =
                format!("the field `{field}` is {seconds} s {nanos} ns; expected a duration of 0 or more");
            Error::invalid(field, message)
        })
}

/// A duration as messages hold it.
pub fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() }
}

/// A time as messages hold it.
pub fn timestamp_to_wire(time: SystemTime) -> prost_types::Timestamp {
    let prost_types::Duration { seconds, nanos } = duration_to_wire(since_epoch(time));
    prost_types::Timestamp { seconds, nanos }
}

/// A time from a message; one that makes no sense counts as absent, since times are for people only.
pub fn timestamp_from_wire(time: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    let time = time?;
    let since = Duration::new(u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}
