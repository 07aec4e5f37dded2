//! ByteStream as bytes on the wire: frames and messages that no generated client would send, and what comes back.

use crate::support::{Server, digest, server, until};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mortar_model::{Context, Encoding, UploadId, UploadSessions};
use mortar_wire::bytestream::{ReadRequest, ReadResponse, WriteRequest, WriteResponse};
use prost::Message;
use std::convert::Infallible;

type Requests = BoxBody<Bytes, Infallible>;

/// What a call was answered: the messages, and the trailers or, where there was nothing else, the headers.
struct Answer {
    messages: Vec<Bytes>,
    end: HeaderMap,
}

impl Answer {
    fn code(&self) -> &str {
        self.end["grpc-status"].to_str().unwrap()
    }

    fn message(&self) -> String {
        self.end
            .get("grpc-message")
            .map(|value| value.to_str().unwrap().replace("%20", " "))
            .unwrap_or_default()
    }
}

struct Wire {
    client: Client<HttpConnector, Requests>,
    base: String,
}

impl Wire {
    fn new(server: &Server) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { client, base: format!("http://{}/google.bytestream.ByteStream", server.address) }
    }

    fn request(&self, method: &str, body: Requests) -> Request<Requests> {
        let request = Request::post(format!("{}/{method}", self.base));
        request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
    }

    async fn call(&self, method: &str, pieces: Vec<Bytes>) -> Answer {
        let body = StreamBody::new(futures::stream::iter(pieces).map(|piece| Ok(Frame::data(piece))));
        let answer = self.client.request(self.request(method, BoxBody::new(body))).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"application/grpc".parse().unwrap())
        );
        let headers = answer.headers().clone();
        let body = answer.into_body().collect().await.unwrap();
        let end = body.trailers().cloned().unwrap_or(headers);
        let (mut messages, mut bytes) = (Vec::new(), body.to_bytes());
        while !bytes.is_empty() {
            let header = bytes.split_to(5);
            assert_eq!(header[0], 0);
            messages.push(bytes.split_to(u32::from_be_bytes(header[1..].try_into().unwrap()) as usize));
        }
        Answer { messages, end }
    }
}

fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

fn write(name: &str, write_offset: i64, finish_write: bool, data: &[u8]) -> Bytes {
    let data = Bytes::copy_from_slice(data);
    framed(&WriteRequest { resource_name: name.into(), write_offset, finish_write, data }.encode_to_vec())
}

fn committed(answer: &Answer) -> i64 {
    assert_eq!(answer.code(), "0", "{}", answer.message());
    let [message] = &answer.messages[..] else { panic!("{} messages", answer.messages.len()) };
    WriteResponse::decode(message.clone()).unwrap().committed_size
}

#[tokio::test]
async fn reads_of_every_length_come_as_messages() {
    let server = server().await;
    let wire = Wire::new(&server);
    for length in [0usize, 1, 127, 128, 70_000, (1 << 20) + 1, 3 << 20] {
        let content: Bytes = (0..length).map(|at| (at * 31 + at / 251) as u8).collect::<Vec<_>>().into();
        let kept = server.keep(content.clone()).await;
        for (offset, limit) in [(0, 0), (length / 2, 0), (length, 0), (0, length / 3)] {
            let request = ReadRequest {
                resource_name: format!("blobs/{kept}"),
                read_offset: offset as i64,
                read_limit: limit as i64,
            };
            let answer = wire.call("Read", vec![framed(&request.encode_to_vec())]).await;
            assert_eq!(answer.code(), "0", "{}", answer.message());
            let pieces =
                answer.messages.iter().map(|message| ReadResponse::decode(message.clone()).unwrap().data);
            let pieces: Vec<Bytes> = pieces.collect();
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= 1 << 20));
            let end = if limit == 0 { length } else { offset + limit };
            assert!(pieces.concat() == content[offset..end], "{length}: {offset}+{limit}");
        }
    }
}

#[tokio::test]
async fn messages_come_in_any_pieces_and_shapes() {
    let server = server().await;
    let wire = Wire::new(&server);
    let content = b"content of a blob";
    let name = |upload: usize, content: &[u8]| format!("uploads/{upload}/blobs/{}", digest(content));
    // A byte to a DATA frame.
    let bytes =
        [write(&name(1, content), 0, false, &content[..9]), write("", 9, true, &content[9..])].concat();
    let pieces = bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect();
    assert_eq!(committed(&wire.call("Write", pieces).await), 17);
    assert!(server.has(digest(content)).await);
    // The small fields after the content, and fields that nobody knows.
    let content = b"fields in another order";
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let message =
        [field(10, content), field(9, b"?"), vec![24, 1], field(1, name(2, content).as_bytes())].concat();
    assert_eq!(committed(&wire.call("Write", vec![framed(&message)]).await), 23);
    assert!(server.has(digest(content)).await);
    // Content that begins before what is committed.
    let content = b"sent again and on";
    let upload = name(3, content);
    assert_eq!(committed(&wire.call("Write", vec![write(&upload, 0, false, &content[..10])]).await), 10);
    let again = vec![write(&upload, 4, false, &content[4..8]), write("", 8, true, &content[8..])];
    assert_eq!(committed(&wire.call("Write", again).await), 17);
    assert!(server.has(digest(content)).await);
    // The empty blob is always there.
    assert_eq!(committed(&wire.call("Write", vec![write(&name(4, b""), 0, true, b"")]).await), 0);
}

#[tokio::test]
async fn what_is_no_stream_of_messages_is_refused() {
    let server = server().await;
    let wire = Wire::new(&server);
    let upload = format!("uploads/u/blobs/{}", digest(b"xyz"));
    let flagged = Bytes::from([&[1], &write(&upload, 0, true, b"xyz")[1..]].concat());
    let cut = write(&upload, 0, true, b"xyz").slice(..20);
    let large = Bytes::from_static(&[0, 1, 0, 0, 1]);
    let wrong_type = framed(&[0x0d, 0, 0, 0, 0]);
    for (method, pieces, code, needle) in [
        ("Write", vec![flagged.clone()], "12", "compressed by gRPC"),
        ("Read", vec![flagged], "12", "compressed by gRPC"),
        ("Write", vec![cut.clone()], "3", "the stream ends within it"),
        ("Read", vec![cut], "3", "within its message"),
        ("Write", vec![large.clone()], "11", "16777217 bytes; at most 16777216"),
        ("Read", vec![large], "11", "at most 65536"),
        ("Write", vec![wrong_type], "3", "another type"),
        ("Write", vec![], "3", "no message"),
        ("Read", vec![], "3", "within its message"),
    ] {
        let answer = wire.call(method, pieces).await;
        assert_eq!(answer.code(), code, "{}", answer.message());
        assert!(answer.message().contains(needle), "{} should contain {needle}", answer.message());
        assert!(answer.messages.is_empty() && answer.end.contains_key("grpc-status-details-bin"));
    }
    assert!(!server.has(digest(b"xyz")).await);
    let plain = Request::post(format!("{}/Read", wire.base)).body(BoxBody::new(http_body_util::Empty::new()));
    assert_eq!(wire.client.request(plain.unwrap()).await.unwrap().status().as_u16(), 415);
    server.assert_alive().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_what_it_sent() {
    let server = server().await;
    let wire = Wire::new(&server);
    let content = vec![7; 600_000];
    let digest = digest(&content);
    let (sender, pieces) = futures::channel::mpsc::unbounded();
    let call =
        tokio::spawn(wire.client.request(wire.request("Write", BoxBody::new(StreamBody::new(pieces)))));
    let name = format!("uploads/u/blobs/{digest}");
    // All but the end of the message.
    let message = write(&name, 0, true, &content);
    sender.unbounded_send(Ok(Frame::data(message.slice(..500_000)))).unwrap();
    let id = UploadId(format!("|u|{digest:?}").into());
    let store = server.store.clone();
    let begun = || {
        let committed = store.committed(&Context::internal(), &id).now_or_never();
        committed.is_some_and(|committed| committed.unwrap().is_some_and(|sent| sent > 400_000))
    };
    until("content of a message that is not over is taken", begun).await;
    call.abort();
    drop(sender);
    let upload = store.open(&Context::internal(), &id, digest, Encoding::Identity).await.unwrap();
    assert!(upload.committed() > 400_000);
    drop(upload);
    // It is taken up where it was left.
    assert_eq!(committed(&wire.call("Write", vec![message]).await), 600_000);
    assert!(server.has(digest).await);
}
