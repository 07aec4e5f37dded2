//! What the status of an answer means in our one error.

use http::{HeaderMap, StatusCode, header};
use mortar_model::{Error, Kind};
use std::time::Duration;

/// A full cache that does not say when to come again is left alone for so long.
const FULL: Duration = Duration::from_secs(60);

/// The error in an answer that is no success: `what` was tried (`GET http://…`), and `text` is what the server said to it.
/// Whether "not found" is one, and of what, is for the caller to say.
pub(super) fn refusal(what: &str, status: StatusCode, headers: &HeaderMap, text: &str) -> Error {
    let said = text.lines().next().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('<'));
    let said = said.map(|line| format!(" (`{}`)", line.chars().take(200).collect::<String>()));
    let message =
        format!("{what}: expected success, the server answered {status}{}", said.unwrap_or_default());
    let after = retry_after(headers);
    Error::new(match status {
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Kind::Unauthenticated { message }
        }
        StatusCode::FORBIDDEN => Kind::PermissionDenied { message },
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Kind::Unimplemented { message },
        StatusCode::PAYLOAD_TOO_LARGE => Kind::ResourceExhausted { message, retry_after: None },
        StatusCode::INSUFFICIENT_STORAGE => {
            Kind::ResourceExhausted { message, retry_after: after.or(Some(FULL)) }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Kind::Unavailable { message, retry_after: after }
        }
        _ if status.is_server_error() => Kind::Unavailable { message, retry_after: after },
        _ => Kind::FailedPrecondition { message },
    })
}

/// In seconds; dates are not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (status, after, expected, retry) in [
            (401, None, "Unauthenticated", None),
            (403, None, "PermissionDenied", None),
            (405, None, "Unimplemented", None),
            (413, None, "ResourceExhausted", None),
            (507, None, "ResourceExhausted", Some(60)),
            (507, Some("7"), "ResourceExhausted", Some(7)),
            (429, Some("3"), "Unavailable", Some(3)),
            (500, None, "Unavailable", None),
            (503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), "Unavailable", None),
            (302, None, "FailedPrecondition", None),
            (409, None, "FailedPrecondition", None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(after));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let error = refusal("`PUT http://cache/cas/ab`", status, &headers, "the disk\nis full");
            assert!(format!("{:?}", error.kind()).starts_with(expected), "{status}: {error:?}");
            assert_eq!(error.retry_after(), retry.map(Duration::from_secs), "{status}");
            let text = error.to_string();
            assert!(
                text.contains(status.as_str()) && text.contains("cas/ab") && text.contains("(`the disk`)")
            );
        }
        let page = refusal("`GET x`", StatusCode::BAD_GATEWAY, &HeaderMap::new(), "<html>\nlong");
        assert!(!page.to_string().contains("html"));
    }
}
