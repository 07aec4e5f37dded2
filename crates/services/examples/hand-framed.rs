//! What ByteStream.Read could reach on this machine: a server that has every blob, of bytes in memory, and does nothing
//! but put the headers of messages before them, by hand. `mortar bench` measures another server against it, by the same client in
//! the same run:
//!
//! `cargo run --release -p mortar-services --example hand-framed -- 127.0.0.1:8989`
//! `mortar bench grpc://HOST:PORT --against grpc://127.0.0.1:8989 --scenarios stream-read-large`
//!
//! It takes writes and keeps nothing of them, and knows no other calls.

use axum::{Router, body::Body, extract::Request, response::Response, routing::post};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use mortar_wire::bytestream::{ReadRequest, WriteRequest, WriteResponse};
use prost::Message;
use std::{convert::Infallible, sync::OnceLock};

/// Content of one message.
const PIECE: usize = 1 << 20;
/// The content, which is repeated.
const CONTENT: usize = 16 << 20;
const GRPC_HEADER: usize = 5;
/// The field of ReadResponse that holds content: number 10, bytes.
const DATA: u64 = 10 << 3 | 2;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).ok_or("expected HOST:PORT to listen on")?;
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("ready grpc://{}", listener.local_addr()?);
    let router = Router::new()
        .route("/google.bytestream.ByteStream/Read", post(read))
        .route("/google.bytestream.ByteStream/Write", post(write));
    content();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let router = router.clone();
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().initial_stream_window_size(8 << 20).initial_connection_window_size(32 << 20);
            // It ends when the client goes.
            let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
        });
    }
}

async fn read(request: Request) -> Response {
    let message = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let request = ReadRequest::decode(message.get(GRPC_HEADER..).unwrap_or_default()).unwrap_or_default();
    let pieces = pieces(size(&request.resource_name)).flat_map(|data| [start(data.len()), data]);
    answer(pieces.map(Frame::data))
}

/// The first message names the blob.
async fn write(request: Request) -> Response {
    let (mut body, mut first) = (request.into_body(), BytesMut::new());
    let mut request = None;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if request.is_some() {
            continue;
        }
        first.extend_from_slice(&data);
        let length = first.get(1..GRPC_HEADER).map(|mut length| length.get_u32() as usize);
        if let Some(message) = length.and_then(|length| first.get(GRPC_HEADER..GRPC_HEADER + length)) {
            request = Some(WriteRequest::decode(message).unwrap_or_default());
        }
    }
    let name = request.unwrap_or_default().resource_name;
    let message = WriteResponse { committed_size: size(&name) as i64 }.encode_to_vec();
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    answer([Frame::data(framed.into())].into_iter())
}

/// The last part of a resource's name.
fn size(resource_name: &str) -> usize {
    resource_name.rsplit('/').next().and_then(|size| size.parse().ok()).unwrap_or_default()
}

fn content() -> &'static Bytes {
    static CONTENT_BYTES: OnceLock<Bytes> = OnceLock::new();
    CONTENT_BYTES.get_or_init(|| (0..CONTENT).map(|at| ((at * 131) >> 3) as u8).collect::<Vec<_>>().into())
}

fn pieces(size: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
    (0..size).step_by(PIECE).map(move |at| {
        let (begin, length) = (at % CONTENT, PIECE.min(size - at));
        content().slice(begin..begin + length)
    })
}

/// What stands before so many bytes of content: the message's header, the field's number and length.
fn start(length: usize) -> Bytes {
    let (mut field, mut start) = (BytesMut::with_capacity(16), BytesMut::with_capacity(24));
    prost::encoding::encode_varint(DATA, &mut field);
    prost::encoding::encode_varint(length as u64, &mut field);
    start.put_u8(0);
    start.put_u32((field.len() + length) as u32);
    start.unsplit(field);
    start.freeze()
}

fn answer(frames: impl Iterator<Item = Frame<Bytes>> + Send + 'static) -> Response {
    let end = || {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Frame::trailers(trailers)
    };
    let frames = frames.chain(std::iter::once_with(end)).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
