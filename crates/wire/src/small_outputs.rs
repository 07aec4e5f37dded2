//! Small outputs that come with a result which is looked up: a client of ours says in a header of GetActionResult up to
//! which size, since it does not know the paths by which the protocol would have it ask. A server of ours puts them into
//! the result; for servers of others, the header is one that they do not know.
//!
//! ```text
//! mortar-small-outputs: BYTES
//! ```

use tonic::metadata::{MetadataMap, MetadataValue};

/// The header.
pub const HEADER: &str = "mortar-small-outputs";

/// Asks for output files of up to `most` bytes.
pub fn to_headers(most: u64, headers: &mut MetadataMap) {
    headers.insert(HEADER, MetadataValue::from(most));
}

/// The largest that is asked for; none where nothing is, or what nobody can read: it is no more than a wish.
pub fn from_headers(headers: &MetadataMap) -> Option<u64> {
    headers.get(HEADER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_come_back() {
        let mut headers = MetadataMap::new();
        assert_eq!(from_headers(&headers), None);
        to_headers(4_096, &mut headers);
        assert_eq!(from_headers(&headers), Some(4_096));
        for unreadable in ["", "-1", "4k", "99999999999999999999999"] {
            headers.insert(HEADER, unreadable.parse().unwrap());
            assert_eq!(from_headers(&headers), None, "{unreadable}");
        }
    }
}
