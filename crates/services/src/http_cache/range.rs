//! What headers say of parts of a blob: one range of bytes, by which a client takes up a download where it broke. Several
//! ranges at once, other units and conditions are not understood, and the whole is sent, as HTTP allows.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mortar_model::Range;

/// What part of a blob is asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Whole,
    /// From the first number, so many bytes, at least one.
    Part(u64, u64),
    /// Nothing that the blob has.
    Beyond,
}

pub(super) fn asked(headers: &HeaderMap, size: u64) -> Asked {
    if headers.contains_key(header::IF_RANGE) {
        return Asked::Whole;
    }
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    value.and_then(|value| parse(value.trim(), size)).unwrap_or(Asked::Whole)
}

/// None where it is not understood.
fn parse(value: &str, size: u64) -> Option<Asked> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let (start, end) = match (first, last) {
        ("", count) => (size.saturating_sub(number(count)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => (number(first)?, number(last)?.checked_add(1)?.min(size)),
    };
    if !first.is_empty() && !last.is_empty() && number(first)? > number(last)? {
        return None;
    }
    Some(if start < end { Asked::Part(start, end - start) } else { Asked::Beyond })
}

/// Where a part lies, for the store.
pub(super) fn of(start: u64, length: u64) -> Range {
    Range { offset: start, limit: Some(length) }
}

/// Says which part the content of this answer is.
pub(super) fn tell(mut response: Response, start: u64, length: u64, size: u64) -> Response {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let value = format!("bytes {start}-{}/{size}", start + length - 1);
    response.headers_mut().insert(header::CONTENT_RANGE, digits(value));
    response
}

/// The answer where there is no such part.
pub(super) fn none(size: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(header::CONTENT_RANGE, digits(format!("bytes */{size}")));
    response
}

fn digits(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (value, expected) in [
            ("bytes=0-0", Asked::Part(0, 1)),
            ("bytes=10-", Asked::Part(10, 90)),
            ("bytes=10-19", Asked::Part(10, 10)),
            ("bytes=90-1000", Asked::Part(90, 10)),
            ("bytes=-5", Asked::Part(95, 5)),
            ("bytes=-500", Asked::Part(0, 100)),
            ("bytes=99-", Asked::Part(99, 1)),
            ("bytes=100-", Asked::Beyond),
            ("bytes=100-200", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=0-18446744073709551615", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            let mut headers = HeaderMap::new();
            assert_eq!(asked(&headers, 100), Asked::Whole);
            headers.insert(header::RANGE, value.parse().expect("a header value"));
            assert_eq!(asked(&headers, 100), expected, "{value}");
            headers.insert(header::IF_RANGE, HeaderValue::from_static("\"tag\""));
            assert_eq!(asked(&headers, 100), Asked::Whole);
        }
    }
}
