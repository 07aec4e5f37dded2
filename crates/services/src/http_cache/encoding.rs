//! What headers say of encodings: of bodies that come, and of answers that are welcome.

use http::{HeaderMap, HeaderName, header};
use mortar_model::{Encoding, Error, Result};

/// The size of a blob's content, where its body is compressed: a header that other caches have made customary.
pub(super) const CONTENT_SIZE: HeaderName = HeaderName::from_static("x-digest-sizebytes");

/// Whether a client says that it takes zstd. One that takes anything is not known to have thought of it.
pub(super) fn accepts_zstd(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let is_zstd = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("zstd"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        is_zstd && weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

/// How the body of a request is encoded. Encodings other than zstd are part of the content.
pub(super) fn of_body(headers: &HeaderMap) -> Encoding {
    match headers.get(header::CONTENT_ENCODING) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"zstd") => Encoding::Zstd,
        _ => Encoding::Identity,
    }
}

/// How much content a compressed body holds.
pub(super) fn content_size(headers: &HeaderMap) -> Result<u64> {
    let size = headers.get(CONTENT_SIZE).and_then(|value| value.to_str().ok()?.parse().ok());
    size.ok_or_else(|| {
        let message =
            "the upload is compressed and has no X-Digest-SizeBytes; the size of its content has to be known";
        Error::invalid(CONTENT_SIZE.as_str(), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_welcome() {
        for (values, expected) in [
            (&[][..], false),
            (&["zstd"], true),
            (&["gzip, ZSTD;q=0.5"], true),
            (&["gzip", "br, zstd ; q=1"], true),
            (&["zstd;q=0"], false),
            (&["zstd;q=0.0, gzip"], false),
            (&["zstd;q=x"], false),
            (&["*"], false),
            (&["xzstd, zstdx"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::ACCEPT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(accepts_zstd(&headers), expected, "{values:?}");
        }
    }
}
