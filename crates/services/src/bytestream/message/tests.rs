//! The parser against the other decoder of the same messages, whole and in every pair of pieces.

use super::*;
use mortar_wire::bytestream::WriteRequest;
use proptest::prelude::*;
use prost::Message;

const LIMIT: usize = 1 << 16;

fn stream(messages: &[Vec<u8>]) -> Bytes {
    let mut stream = Vec::new();
    for message in messages {
        stream.push(0);
        stream.extend((message.len() as u32).to_be_bytes());
        stream.extend(message);
    }
    stream.into()
}

/// The parts put together again, having checked their order.
fn joined(parts: Vec<Part>) -> Vec<WriteRequest> {
    let (mut messages, mut open) = (Vec::new(), None::<WriteRequest>);
    for part in parts {
        match (part, &mut open) {
            (Part::Head(head), None) => {
                let Head { resource_name, write_offset, finish_write } = head;
                open = Some(WriteRequest { resource_name, write_offset, finish_write, data: Bytes::new() });
            }
            (Part::Data(data), Some(message)) => {
                assert!(!data.is_empty());
                message.data = [&message.data[..], &data].concat().into();
            }
            (Part::End, Some(_)) => messages.extend(open.take()),
            (part, open) => panic!("{part:?} after {open:?}"),
        }
    }
    assert!(open.is_none());
    messages
}

fn whole(stream: &Bytes) -> Result<Vec<WriteRequest>> {
    take_apart(LIMIT, [stream.clone()]).map(joined)
}

fn request(name: &str, write_offset: i64, finish_write: bool, data: &'static [u8]) -> WriteRequest {
    WriteRequest { resource_name: name.into(), write_offset, finish_write, data: data.into() }
}

/// Odd but well-formed messages, and what they say.
fn odd() -> Vec<(Vec<u8>, WriteRequest)> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    vec![
        (vec![], request("", 0, false, b"")),
        // Small fields after the content.
        ([field(10, b"data"), vec![16, 3, 24, 1], field(1, b"n")].concat(), request("n", 3, true, b"data")),
        // The last one of a kind counts.
        ([field(10, b"old"), field(10, b"new")].concat(), request("", 0, false, b"new")),
        ([field(10, b"old"), field(10, b"")].concat(), request("", 0, false, b"")),
        ([vec![16, 3, 16, 4], field(1, b"a"), field(1, b"b")].concat(), request("b", 4, false, b"")),
        // Unknown fields of every type: a number, 8 bytes, bytes, 4 bytes, groups that hold what looks like ours.
        (
            [
                vec![0x20, 0x85, 1],
                [vec![0x21], vec![9; 8]].concat(),
                field(4, b"unknown"),
                [vec![0x25], vec![9; 4]].concat(),
                [vec![0x23, 0x2b], field(10, b"not ours"), vec![16, 7, 0x2c, 0x24]].concat(),
                field(10, b"ours"),
            ]
            .concat(),
            request("", 0, false, b"ours"),
        ),
        (vec![16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], request("", -1, false, b"")),
        (vec![24, 0x80, 0x80, 0], request("", 0, false, b"")),
    ]
}

#[test]
fn odd_messages_say_what_they_say_to_others() {
    for (bytes, expected) in odd() {
        assert_eq!(WriteRequest::decode(&bytes[..]).unwrap(), expected, "{bytes:?}");
        assert_eq!(whole(&stream(std::slice::from_ref(&bytes))).unwrap(), [expected], "{bytes:?}");
    }
}

#[test]
fn every_split_gives_the_same() {
    let usual =
        [request("a/name", 0, false, b"some"), request("", 4, false, b"content"), request("", 11, true, b"")];
    let mut messages: Vec<Vec<u8>> = usual.iter().map(WriteRequest::encode_to_vec).collect();
    messages.extend(odd().into_iter().map(|(bytes, _)| bytes));
    let stream = stream(&messages);
    let expected = whole(&stream).unwrap();
    assert_eq!(expected[..3], usual);
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let pieces = [stream.slice(..first), stream.slice(first..second), stream.slice(second..)];
            assert_eq!(take_apart(LIMIT, pieces).map(joined).unwrap(), expected, "{first}, {second}");
        }
    }
    let bytes = (0..stream.len()).map(|at| stream.slice(at..=at));
    assert_eq!(take_apart(LIMIT, bytes).map(joined).unwrap(), expected);
}

#[test]
fn content_is_passed_on_before_its_message_is_whole() {
    let bytes = stream(&[request("n", 5, false, b"0123456789").encode_to_vec()]);
    let mut parser = Parser::new(LIMIT);
    let mut input = bytes.slice(..bytes.len() - 4);
    let head = Head { resource_name: "n".into(), write_offset: 5, finish_write: false };
    assert_eq!(parser.next(&mut input).unwrap(), Some(Part::Head(head)));
    let Some(Part::Data(data)) = parser.next(&mut input).unwrap() else { panic!("no content yet") };
    assert_eq!(data, "012345");
    // The bytes that came, not a copy of them.
    assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
    assert_eq!(parser.next(&mut input).unwrap(), None);
    assert!(parser.finish().is_err());
}

#[test]
fn malformed_messages_are_refused_with_the_reason() {
    for (message, needle) in [
        (vec![0x52, 5, 1], "longer than the message"),
        (vec![0x0a, 0x80], "ends within a number"),
        (vec![0x80], "ends too early"),
        (vec![16], "ends within a number"),
        (vec![0x25, 1, 2], "longer than the message"),
        (vec![0x23], "ends too early"),
        (vec![0x24], "did not begin"),
        (vec![0x23, 0x2c], "did not begin"),
        ([vec![0x23; 65], vec![0x24; 65]].concat(), "too deep"),
        (vec![0x0a, 1, 0xff], "not made of characters"),
        (vec![0x08, 1], "field 1 is of another type"),
        (vec![0x12, 0], "field 2 is of another type"),
        (vec![0x50, 0], "field 10 is of another type"),
        (vec![0x26], "unknown type 6"),
        (vec![0x02, 0], "number 0"),
        (vec![0xff, 0xff, 0xff, 0xff, 0x7f, 0], "too large a number"),
        (vec![16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], "more than 64 bits"),
        ([vec![0x0a, 0x81, 0x80, 1], vec![b'n'; 16385]].concat(), "16385 bytes; at most 16384"),
    ] {
        // Something follows, so that nothing is found only because the stream ends.
        let error = whole(&stream(&[message.clone(), vec![16, 1]])).unwrap_err().to_string();
        assert!(error.contains(needle), "{message:?}: {error}");
    }
    let large = Bytes::from(vec![0, 0, 1, 0, 1]);
    assert!(whole(&large).unwrap_err().to_string().contains("65537 bytes; at most 65536"));
    for cut in [1, 4, 5, 8] {
        let bytes = stream(&[request("name", 0, false, b"x").encode_to_vec()]);
        assert!(whole(&bytes.slice(..cut)).unwrap_err().to_string().contains("the stream ends within it"));
    }
}

proptest! {
    /// Whatever others can read says the same here, in whatever pieces it comes; and nothing panics.
    #[test]
    fn agrees_with_the_other_decoder(
        message in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(
                prop::sample::select(vec![0u8, 1, 2, 8, 10, 16, 18, 24, 32, 33, 34, 35, 36, 37, 80, 82, 83, 84, 128, 255]),
                0..24,
            ),
        ],
        cuts in prop::collection::vec(0usize..80, 0..4),
    ) {
        let bytes = stream(std::slice::from_ref(&message));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        let pieces = cuts.into_iter().map(|to| bytes.slice(std::mem::replace(&mut from, to)..to));
        let parts = take_apart(LIMIT, pieces).map(joined);
        match WriteRequest::decode(&message[..]) {
            Ok(expected) => prop_assert_eq!(parts.unwrap(), [expected]),
            Err(_) => prop_assert!(parts.is_err()),
        }
    }
}
