//! Inputs that follow the call: an execution that is asked for while its inputs are still on their way. A server of ours
//! says in a header of its capabilities for how long it would wait for them; a client of ours says in a header of Execute
//! that they follow. Servers of others do not send it, so nobody sends it to them.
//!
//! ```text
//! mortar-inputs-follow: MILLISECONDS            of the answer to GetCapabilities: the longest that is waited
//! mortar-inputs-follow: SESSION;MILLISECONDS    of Execute: the name of the uploads, and how long they may take
//! ```

use mortar_model::{Error, InputsFollow, Result};
use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header of both.
pub const HEADER: &str = "mortar-inputs-follow";

/// Tells a client how long is waited at most.
pub fn offer_to_headers(longest: Duration, headers: &mut MetadataMap) {
    headers.insert(HEADER, MetadataValue::from(millis(longest)));
}

/// What a server offers; none where it offers nothing, or nothing that can be read.
pub fn offer_from_headers(headers: &MetadataMap) -> Option<Duration> {
    headers.get(HEADER)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// Tells a server that inputs follow.
pub fn to_headers(follow: &InputsFollow, headers: &mut MetadataMap) {
    let text = format!("{};{}", follow.session(), millis(follow.patience));
    headers.insert(HEADER, text.parse().expect("names of sessions are letters, digits, `-` and `_`"));
}

/// Whether inputs follow.
pub fn from_headers(headers: &MetadataMap) -> Result<Option<InputsFollow>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let parts = text.split_once(';').and_then(|(session, millis)| Some((session, millis.parse().ok()?)));
    let Some((session, millis)) = parts else {
        let message = format!("the header `{HEADER}` is `{text}`; expected `SESSION;MILLISECONDS`");
        return Err(Error::invalid(HEADER, message));
    };
    InputsFollow::new(session, Duration::from_millis(millis)).map(Some)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_come_back() {
        let mut headers = MetadataMap::new();
        assert_eq!(offer_from_headers(&headers), None);
        offer_to_headers(Duration::from_micros(1_500_900), &mut headers);
        assert_eq!(offer_from_headers(&headers), Some(Duration::from_millis(1_500)));
        for unreadable in ["", "-1", "1s", "a;1", "99999999999999999999999"] {
            headers.insert(HEADER, unreadable.parse().unwrap());
            assert_eq!(offer_from_headers(&headers), None, "{unreadable}");
        }
    }

    #[test]
    fn requests_come_back() {
        let mut headers = MetadataMap::new();
        assert_eq!(from_headers(&headers).unwrap(), None);
        let follow = InputsFollow::new("a-B_9", Duration::from_millis(750)).unwrap();
        to_headers(&follow, &mut headers);
        assert_eq!(headers.get(HEADER).unwrap(), "a-B_9;750");
        assert_eq!(from_headers(&headers).unwrap(), Some(follow));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_could_be() {
        let long = format!("{};1", "x".repeat(65));
        for (value, needle) in [
            ("", "`SESSION;MILLISECONDS`"),
            ("name", "`SESSION;MILLISECONDS`"),
            ("name;", "`SESSION;MILLISECONDS`"),
            ("name;-1", "`SESSION;MILLISECONDS`"),
            ("name;1.5", "`SESSION;MILLISECONDS`"),
            ("name;1;2", "`SESSION;MILLISECONDS`"),
            (";100", "1 to 64"),
            ("a b;100", "1 to 64"),
            (long.as_str(), "1 to 64"),
        ] {
            let mut headers = MetadataMap::new();
            headers.insert(HEADER, value.parse().unwrap());
            let error = from_headers(&headers).unwrap_err().to_string();
            assert!(error.contains(needle), "`{value}`: {error}");
        }
    }
}
