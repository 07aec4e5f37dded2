//! From a gRPC request to the context of a call, and from an error to its status.

use mortar_model::{Blame, Context, Error, InstanceName};
use mortar_wire::metadata::lost_from_headers;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Status, metadata::MetadataMap};

/// The context of a call: its instance, who makes it, and until when.
pub fn context(headers: &MetadataMap, instance: &str) -> Result<Context, Status> {
    let instance = InstanceName::parse(instance).map_err(refuse)?;
    Ok(from_headers(headers).with_instance(instance))
}

/// The context of a call whose instance is not known yet.
pub(crate) fn from_headers(headers: &MetadataMap) -> Context {
    Context {
        request: Arc::new(mortar_wire::metadata::from_headers(headers)),
        deadline: timeout(headers).and_then(|timeout| Instant::now().checked_add(timeout)),
        ..Context::default()
    }
}

/// The context of a call that reads what its caller was told is there: what was lost is made again, unless he is one who
/// wants to be told.
pub(crate) fn reading(context: Context, headers: &MetadataMap) -> Context {
    Context { lost: lost_from_headers(headers), ..context }
}

/// The status of a refused call; what is our own fault is logged with its causes.
pub fn refuse(error: Error) -> Status {
    log(&error);
    mortar_wire::status::to_status(&error)
}

/// Logs what is our own fault as an error, what is the caller's for those who look for it.
pub(crate) fn log(error: &Error) {
    if error.blame() == Blame::Server {
        tracing::error!("{error}");
    } else {
        tracing::debug!("refused: {error}");
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &MetadataMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (text, expected) in [
            ("60S", Some(Duration::from_secs(60))),
            ("5m", Some(Duration::from_millis(5))),
            ("1H", Some(Duration::from_secs(3600))),
            ("x", None),
            ("", None),
            ("S", None),
            ("10é", None),
        ] {
            let mut headers = MetadataMap::new();
            if let Ok(value) = tonic::metadata::MetadataValue::try_from(text.as_bytes().to_vec()) {
                headers.insert("grpc-timeout", value);
            }
            assert_eq!(timeout(&headers), expected, "{text}");
        }
    }
}
