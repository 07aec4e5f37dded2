//! What is said to a persistent worker and what it answers: Bazel's WorkRequest and WorkResponse, as messages of protobuf
//! after their length, or as lines of JSON (the mapping that protobuf has for it).

use prost::Message;
use serde::{Deserialize, Serialize};

/// How the two sides talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Messages after their length, which is a varint.
    Proto,
    /// Objects, a line each.
    Json,
}

/// One piece of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What the flag files say.
    pub arguments: Vec<String>,
    /// Every file of the input root.
    pub inputs: Vec<Input>,
}

/// A file that may be read, and what tells whether it is still the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// As the worker reaches it from where it was started.
    pub path: String,
    /// The hash of its content, in hexadecimal digits.
    pub hash: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// As of a command.
    pub exit_code: i32,
    /// What a person is to read.
    pub output: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireInput {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WireRequest {
    #[prost(string, repeated, tag = "1")]
    arguments: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    inputs: Vec<WireInput>,
}

#[derive(Clone, PartialEq, Message)]
struct WireResponse {
    #[prost(int32, tag = "1")]
    exit_code: i32,
    // A string by the protocol; one that is not quite UTF-8 is no reason to lose an answer.
    #[prost(bytes = "vec", tag = "2")]
    output: Vec<u8>,
    #[prost(int32, tag = "3")]
    request_id: i32,
    #[prost(bool, tag = "4")]
    was_cancelled: bool,
}

#[derive(Serialize)]
struct JsonInput<'a> {
    path: &'a str,
    digest: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRequest<'a> {
    arguments: &'a [String],
    inputs: Vec<JsonInput<'a>>,
    request_id: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct JsonResponse {
    #[serde(alias = "exit_code")]
    exit_code: i32,
    output: String,
    #[serde(alias = "request_id")]
    request_id: i32,
    #[serde(alias = "was_cancelled")]
    was_cancelled: bool,
}

impl Protocol {
    /// The bytes of a request.
    pub fn encode(self, request: &Request) -> Vec<u8> {
        match self {
            Self::Proto => {
                let inputs = request.inputs.iter().map(|input| WireInput {
                    path: input.path.clone(),
                    digest: input.hash.clone().into_bytes(),
                });
                let message = WireRequest { arguments: request.arguments.clone(), inputs: inputs.collect() };
                message.encode_length_delimited_to_vec()
            }
            Self::Json => {
                let inputs = request.inputs.iter();
                let inputs = inputs
                    .map(|input| JsonInput { path: &input.path, digest: base64(input.hash.as_bytes()) });
                let message =
                    JsonRequest { arguments: &request.arguments, inputs: inputs.collect(), request_id: 0 };
                let mut line = serde_json::to_vec(&message).expect("strings and numbers have a JSON form");
                line.push(b'\n');
                line
            }
        }
    }

    /// The response that these bytes are; none while more has to come. Anything else is an error that says what is wrong.
    pub fn decode(self, bytes: &[u8], most: u64) -> Result<Option<Response>, String> {
        if bytes.len() as u64 > most {
            return Err(format!("an answer of more than {most} bytes"));
        }
        let response = match self {
            Self::Proto => proto(bytes, most)?,
            Self::Json => json(bytes)?,
        };
        match response {
            Some(WireResponse { was_cancelled: true, .. }) => Err("an answer that says `cancelled`".into()),
            Some(WireResponse { request_id: 0, exit_code, output, .. }) => {
                Ok(Some(Response { exit_code, output }))
            }
            Some(WireResponse { request_id, .. }) => {
                Err(format!("an answer to request {request_id}; expected 0"))
            }
            None => Ok(None),
        }
    }
}

/// The longest varint that can be a length.
const LONGEST_LENGTH: usize = 5;

fn proto(bytes: &[u8], most: u64) -> Result<Option<WireResponse>, String> {
    let Some(end) = bytes.iter().position(|byte| byte & 0x80 == 0) else {
        let garbage = bytes.len() >= LONGEST_LENGTH;
        return if garbage { Err(no_response(bytes)) } else { Ok(None) };
    };
    if end >= LONGEST_LENGTH {
        return Err(no_response(bytes));
    }
    let length = bytes[..=end].iter().rev().fold(0u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
    let body = &bytes[end + 1..];
    // Text would be taken for the length of something that never comes.
    let begins = length == 0 || body.first().is_none_or(|tag| [0x08, 0x12, 0x18, 0x20].contains(tag));
    if length > most || !begins {
        return Err(no_response(bytes));
    }
    match u64::cmp(&(body.len() as u64), &length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Greater => Err("more than one answer".into()),
        std::cmp::Ordering::Equal => WireResponse::decode(body).map(Some).map_err(|_| no_response(bytes)),
    }
}

fn json(bytes: &[u8]) -> Result<Option<WireResponse>, String> {
    // A list would be taken for the fields in their order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(no_response(bytes));
    }
    let mut responses = serde_json::Deserializer::from_slice(bytes).into_iter::<JsonResponse>();
    match responses.next() {
        None => Ok(None),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(_)) => Err(no_response(bytes)),
        Some(Ok(response)) => {
            if !bytes[responses.byte_offset()..].trim_ascii().is_empty() {
                return Err("more than one answer".into());
            }
            let JsonResponse { exit_code, output, request_id, was_cancelled } = response;
            Ok(Some(WireResponse { exit_code, output: output.into_bytes(), request_id, was_cancelled }))
        }
    }
}

/// So much of what is no response is shown.
const SHOWN: usize = 200;

fn no_response(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    format!("standard output that is no WorkResponse, beginning with `{}`", shown.escape_debug())
}

/// How JSON holds bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Json, Proto};

    const MOST: u64 = 10_000;

    fn request() -> Request {
        let input = Input { path: "a/b".into(), hash: "0f".into() };
        Request { arguments: vec!["--x".into(), "ü\"".into()], inputs: vec![input] }
    }

    #[test]
    fn requests_are_what_the_protocols_say() {
        let line = "{\"arguments\":[\"--x\",\"ü\\\"\"],\"inputs\":[{\"path\":\"a/b\",\"digest\":\"MGY=\"}],\"requestId\":0}\n";
        assert_eq!(String::from_utf8(Json.encode(&request())).unwrap(), line);
        let bytes = b"\x15\x0a\x03--x\x0a\x03\xc3\xbc\"\x12\x09\x0a\x03a/b\x12\x020f";
        assert_eq!(Proto.encode(&request()), bytes);
    }

    #[test]
    fn bytes_in_json() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn responses_are_taken_when_they_are_complete() {
        let whole: [(Protocol, &[u8], i32, &str); 6] = [
            (Proto, b"\x00", 0, ""),
            (Proto, b"\x02\x08\x07", 7, ""),
            (Proto, b"\x06\x08\x01\x12\x02hi", 1, "hi"),
            (Json, b"{}\n", 0, ""),
            (Json, b"{\"exitCode\": 3, \"output\": \"no\", \"requestId\": 0, \"new\": []}", 3, "no"),
            (Json, b"\n{\"exit_code\": 3,\n \"output\": \"no\"\n}\n", 3, "no"),
        ];
        for (protocol, bytes, exit_code, output) in whole {
            let expected = Response { exit_code, output: output.into() };
            assert_eq!(protocol.decode(bytes, MOST), Ok(Some(expected)), "{bytes:?}");
            let body = bytes.len() - bytes.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
            for part in 0..body {
                assert_eq!(protocol.decode(&bytes[..part], MOST), Ok(None), "{part} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_response_is_told() {
        let cases: [(Protocol, &[u8], &str); 12] = [
            (Proto, b"hello\n", "beginning with `hello\\n`"),
            (Proto, b"\xff\xff\xff\xff\xff", "no WorkResponse"),
            (Proto, b"\xff\xff\xff\xff\x7f", "no WorkResponse"),
            (Proto, b"\x02\x08\x80", "no WorkResponse"),
            (Proto, b"\x00\x00", "more than one answer"),
            (Proto, b"\x02\x18\x05", "request 5"),
            (Proto, b"\x02\x20\x01", "cancelled"),
            (Json, b"hello\n", "beginning with `hello\\n`"),
            (Json, b"[1]", "no WorkResponse"),
            (Json, b"{} {}", "more than one answer"),
            (Json, b"{\"requestId\":-1}", "request -1"),
            (Json, b"{\"exitCode\":\"x\"}", "no WorkResponse"),
        ];
        for (protocol, bytes, expected) in cases {
            let error = protocol.decode(bytes, MOST).unwrap_err();
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
        assert!(Json.decode(b"{\"output\":\"", 5).unwrap_err().contains("more than 5 bytes"));
    }
}
