//! The lease that a server of ours promises, told to clients of ours in a header of its capabilities: how long what it
//! calls present stays. Clients of others do not look at it, and servers of others do not send it.

use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header that holds it, in whole seconds.
pub const HEADER: &str = "mortar-lease-seconds";

/// Tells it. Less than a second is nothing to build on, and rounded down.
pub fn to_headers(lease: Duration, headers: &mut MetadataMap) {
    headers.insert(HEADER, MetadataValue::from(lease.as_secs()));
}

/// What the server told; none where it told nothing, or nothing that can be read.
pub fn from_headers(headers: &MetadataMap) -> Option<Duration> {
    let seconds = headers.get(HEADER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back() {
        let mut headers = MetadataMap::new();
        assert_eq!(from_headers(&headers), None);
        to_headers(Duration::from_millis(10_800_900), &mut headers);
        assert_eq!(from_headers(&headers), Some(Duration::from_secs(10_800)));
        for unreadable in ["", "-1", "3h", "99999999999999999999999"] {
            headers.insert(HEADER, unreadable.parse().unwrap());
            assert_eq!(from_headers(&headers), None, "{unreadable}");
        }
    }
}
