//! ByteStream.Read: the store's bytes, untouched, between the headers of their messages.

use super::{Service, broken, frame, not_served, opened};
use crate::{
    call,
    content::{Content, Pieces},
    limits, log_streams,
};
use axum::{body::Body, extract::Request, response::Response};
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mortar_model::{ByteStream, Context, Digest, Encoding, Error, Kind, Range, Result};
use mortar_wire::{bytestream::ReadRequest, resource::Resource};
use prost::Message;
use std::convert::Infallible;

/// The field of ReadResponse that holds content: number 10, bytes.
const DATA: u64 = 10 << 3 | 2;

impl Service {
    pub(super) async fn read(&self, request: Request) -> Result<Response> {
        let (context, headers, body) = opened(request);
        let context = call::reading(context, &headers);
        let request = only_message(body).await?;
        if let Some(logs) = self.logs.as_ref().filter(|_| log_streams::is_meant(&request.resource_name)) {
            // Not within the budget: what is held while a command writes nothing would be missing for others.
            let reading = logs.read(&request.resource_name, range(&request)?)?;
            return Ok(frame::response(Body::new(StreamBody::new(messages(reading)))));
        }
        let resource = Resource::parse_read(&request.resource_name)?;
        let range = range(&request)?;
        let context = context.with_instance(resource.instance);
        let stream = match resource.encoding {
            Encoding::Identity => self.blobs.read(&context, resource.digest, range).await?.into_stream(),
            Encoding::Zstd => self.read_zstd(&context, resource.digest, range).await?,
        };
        let content = Content::new(stream, self.budget.clone());
        Ok(frame::response(Body::new(StreamBody::new(messages(content)))))
    }

    /// The offset counts bytes of content. A limit would have to count something too, so the protocol knows none here.
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        let encoded = self.encoded.as_ref().ok_or_else(|| not_served(digest))?;
        if let Some(limit) = range.limit {
            let message = format!("read_limit is {limit}; expected 0, since the blob is read compressed");
            return Err(Error::invalid("read_limit", message));
        }
        encoded.read_zstd(context, digest, range).await
    }
}

/// The message of a call that has one. One too large for what a ReadRequest holds is refused.
async fn only_message(mut body: Body) -> Result<ReadRequest> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() >= frame::HEADER {
            let header = bytes[..frame::HEADER].try_into().expect("a slice of that length");
            let whole = frame::HEADER + frame::length(header, limits::MAX_READ_REQUEST)?;
            if bytes.len() > whole {
                return Err(Error::invalid("message", "more than one message came; Read takes one"));
            }
            if bytes.len() == whole {
                bytes.advance(frame::HEADER);
                return ReadRequest::decode(bytes).map_err(|error| {
                    Error::invalid("message", "the message is no ReadRequest").with_source(error)
                });
            }
        }
    }
    Err(Error::invalid("message", format!("the call ended after {} bytes, within its message", bytes.len())))
}

fn range(request: &ReadRequest) -> Result<Range> {
    let negative = |field: &str, value: i64| {
        Error::new(Kind::OutOfRange { message: format!("{field} is {value}; expected 0 or more") })
    };
    let offset =
        u64::try_from(request.read_offset).map_err(|_| negative("read_offset", request.read_offset))?;
    let limit = u64::try_from(request.read_limit).map_err(|_| negative("read_limit", request.read_limit))?;
    Ok(Range { offset, limit: (limit > 0).then_some(limit) })
}

/// Content as frames of messages, with the trailers at the end.
fn messages<P: Pieces + 'static>(content: P) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    stream::unfold(Some((content, None)), |state| async move {
        let (mut content, piece) = state?;
        if let Some(piece) = piece {
            return Some((Ok(Frame::data(piece)), Some((content, None))));
        }
        match content.piece().await {
            Some(Ok(piece)) => Some((Ok(Frame::data(start(piece.len()))), Some((content, Some(piece))))),
            Some(Err(error)) => Some((Ok(Frame::trailers(frame::trailers(Err(error)))), None)),
            None => Some((Ok(Frame::trailers(frame::trailers(Ok(())))), None)),
        }
    })
}

/// What stands before so many bytes of content: the message's header, the field's number and length.
fn start(length: usize) -> Bytes {
    let mut field = BytesMut::with_capacity(16);
    prost::encoding::encode_varint(DATA, &mut field);
    prost::encoding::encode_varint(length as u64, &mut field);
    let mut start = BytesMut::with_capacity(frame::HEADER + field.len());
    frame::put_header(&mut start, field.len() + length);
    start.unsplit(field);
    start.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_wire::bytestream::ReadResponse;

    #[test]
    fn messages_are_those_of_the_protocol() {
        for length in [1usize, 127, 128, 16_383, 16_384, 1 << 20] {
            let data = Bytes::from(vec![7; length]);
            let message = [&start(length)[..], &data].concat();
            assert_eq!(message, frame::framed(&ReadResponse { data }), "{length}");
        }
    }

    #[tokio::test]
    async fn requests_come_in_any_pieces_but_alone() {
        let request = ReadRequest { resource_name: "blobs/x/1".into(), read_offset: 1, read_limit: 2 };
        let bytes = frame::framed(&request);
        let body =
            |pieces: Vec<Bytes>| Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
        for cut in 0..=bytes.len() {
            let pieces = vec![bytes.slice(..cut), bytes.slice(cut..)];
            assert_eq!(only_message(body(pieces)).await.unwrap(), request, "{cut}");
        }
        for (pieces, needle) in [
            (vec![], "after 0 bytes"),
            (vec![bytes.slice(..9)], "after 9 bytes"),
            (vec![[&bytes[..], &bytes].concat().into()], "more than one"),
            (vec![Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])], "no ReadRequest"),
            (vec![Bytes::from_static(&[0, 1, 0, 0, 0])], "at most"),
            (vec![Bytes::from_static(&[1, 0, 0, 0, 0])], "compressed by gRPC"),
        ] {
            let error = only_message(body(pieces)).await.unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
