//! gRPC's frame round each message: a flag for compression and a length, five bytes in all; and what a stream of them
//! begins and ends with.

use crate::call;
use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mortar_model::{Error, Kind, Result};
use tonic::Status;

const GRPC: &str = "application/grpc";

/// Length of the header.
pub(super) const HEADER: usize = 5;

/// The length of the message that follows a header.
pub(super) fn length(header: [u8; HEADER], limit: usize) -> Result<usize> {
    let [flag, length @ ..] = header;
    match flag {
        0 => {}
        1 => {
            let message = "a message is compressed by gRPC, which is not served".to_owned();
            return Err(Error::new(Kind::Unimplemented { message })
                .hint("send messages uncompressed; blobs may be sent as `compressed-blobs/…`"));
        }
        flag => {
            let message = format!("the flag of a gRPC message is {flag}; expected 0 or 1");
            return Err(Error::invalid("message", message));
        }
    }
    let length = u32::from_be_bytes(length);
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => {
            let message = format!("a message has {length} bytes; at most {limit} are taken");
            Err(Error::new(Kind::OutOfRange { message }).hint("send the blob in more messages"))
        }
    }
}

/// A whole message in its frame.
pub(super) fn framed(message: &impl prost::Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + message.encoded_len());
    put_header(&mut frame, message.encoded_len());
    message.encode(&mut frame).expect("a buffer grows as it is needed");
    frame.freeze()
}

/// The start of a message; its bytes follow.
pub(super) fn put_header(frame: &mut BytesMut, length: usize) {
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("messages are bounded by `limits::CHUNK`"));
}

/// The answer whose body holds frames.
pub(super) fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

/// The answer of a call that is refused before it has sent anything.
pub(super) fn refusal(error: Error) -> Response {
    call::refuse(error).into_http()
}

/// The answer to a request that is no gRPC.
pub(super) fn not_grpc() -> Response {
    let mut response = Response::new(Body::from("this path takes gRPC calls alone\n"));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Whether a request says that it is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()))
}

/// What a stream ends with.
pub(super) fn trailers(end: Result<()>) -> HeaderMap {
    let status = end.map_or_else(call::refuse, |()| Status::ok(""));
    let mut trailers = HeaderMap::new();
    match status.add_header(&mut trailers) {
        Ok(()) => trailers,
        // Messages are percent-encoded and details are base64: there is nothing that a header could not hold.
        Err(plain) => HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(plain.code() as i32))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(length([0, 0, 0, 1, 2], 1000).unwrap(), 258);
        for (header, needle) in [
            ([1, 0, 0, 0, 1], "compressed by gRPC"),
            ([7, 0, 0, 0, 1], "flag of a gRPC message is 7"),
            ([0, 0, 0, 3, 233], "1001 bytes; at most 1000"),
            ([0, 255, 255, 255, 255], "4294967295 bytes"),
        ] {
            let error = length(header, 1000).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn ends_of_streams() {
        assert_eq!(trailers(Ok(()))["grpc-status"], "0");
        let bad = trailers(Err(Error::invalid("field", "what\nis é wrong")));
        assert_eq!(bad["grpc-status"], "3");
        assert!(bad.contains_key("grpc-message") && bad.contains_key("grpc-status-details-bin"));
    }
}
