//! The scripted ByteStream.

use super::{Fake, Fault, digest};
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{Digest, Encoding};
use mortar_wire::{
    bytestream::{byte_stream_server::ByteStream, *},
    resource::Resource,
};
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl ByteStream for Fake {
    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<BoxStream<'static, Result<ReadResponse, Status>>>, Status> {
        let ReadRequest { resource_name, read_offset, read_limit } = request.into_inner();
        let Resource { digest, encoding, .. } = Resource::parse_read(&resource_name).unwrap();
        let zstd = encoding == Encoding::Zstd;
        let method = if zstd { "zstd " } else { "" };
        let fault = self.next("Read", format!("{method}{read_offset}+{read_limit}"));
        let blob = self.0.lock().blobs.get(&digest).cloned();
        let mut rest = blob.ok_or_else(|| Status::not_found("no such blob"))?.slice(read_offset as usize..);
        if read_limit > 0 {
            rest.truncate(read_limit as usize);
        }
        if zstd {
            assert_eq!(read_limit, 0, "compressed reads have no limit");
            rest = frames(&rest).into();
        }
        let mut end = None;
        match fault {
            Some(Fault::Refuse(status)) => return Err(status),
            Some(Fault::Break(bytes)) => {
                rest.truncate(bytes);
                end = Some(Err(Status::unavailable("the stream broke")));
            }
            Some(Fault::EndEarly(bytes)) => rest.truncate(bytes),
            Some(Fault::Corrupt) => rest = rest.iter().map(|byte| byte ^ 1).collect(),
            Some(Fault::TooMuch) if zstd => rest = [&rest[..], &frames(b"!")].concat().into(),
            Some(Fault::TooMuch) => rest = rest.iter().copied().chain([7]).collect(),
            Some(Fault::Hang) => return Ok(Response::new(futures::stream::pending().boxed())),
            _ => {}
        }
        let pieces: Vec<_> = rest.chunks(1000).map(|piece| rest.slice_ref(piece)).collect();
        let messages = pieces.into_iter().map(|data| Ok(ReadResponse { data }));
        Ok(Response::new(futures::stream::iter(messages.chain(end)).boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap();
        let name = first.resource_name.clone();
        let resource = Resource::parse_write(&name).unwrap();
        let zstd = resource.encoding == Encoding::Zstd;
        let method = if zstd { "zstd " } else { "" };
        let fault = self.next("Write", format!("{method}{}", first.write_offset));
        self.0.lock().on_stream = first.write_offset;
        match fault {
            Some(Fault::Refuse(status)) => return Err(status),
            Some(Fault::Enough) => {
                let committed_size = if zstd { -1 } else { resource.digest.size() as i64 };
                return Ok(Response::new(WriteResponse { committed_size }));
            }
            _ => {}
        }
        let mut next = Some(first);
        while let Some(message) = next {
            let finishes = message.finish_write;
            let so_far = if zstd { self.take_frames(&name, &message) } else { self.take(&name, message) };
            match fault {
                Some(Fault::Break(bytes)) if so_far >= bytes => return Err(Status::unavailable("broke")),
                Some(Fault::EndEarly(bytes)) if so_far >= bytes => {
                    return Ok(Response::new(WriteResponse { committed_size: so_far as i64 }));
                }
                _ => {}
            }
            next = if finishes { None } else { messages.message().await? };
            if next.is_none() && !finishes {
                return Ok(Response::new(WriteResponse { committed_size: so_far as i64 }));
            }
        }
        let finished = self.finish(&name, resource.digest)?;
        let state = self.0.lock();
        let committed_size = match zstd {
            true => state.zstd_committed.unwrap_or(state.on_stream),
            false => finished,
        };
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        self.simple("QueryWriteStatus", "").await?;
        let name = request.into_inner().resource_name;
        let committed = self.0.lock().uploads.get(&name).map(Vec::len);
        let committed = committed.ok_or_else(|| Status::not_found("no such upload"))?;
        Ok(Response::new(QueryWriteStatusResponse { committed_size: committed as i64, complete: false }))
    }
}

impl Fake {
    /// How much there is of the upload after this message.
    fn take(&self, name: &str, message: WriteRequest) -> usize {
        let mut state = self.0.lock();
        let upload = state.uploads.entry(name.to_owned()).or_default();
        upload.truncate(message.write_offset as usize);
        assert_eq!(upload.len(), message.write_offset as usize, "a hole");
        upload.extend_from_slice(&message.data);
        upload.len()
    }

    /// How much content there is of the upload after this message. The first one begins at an offset of the content; from
    /// then on, offsets count frames.
    fn take_frames(&self, name: &str, message: &WriteRequest) -> usize {
        let mut state = self.0.lock();
        assert_eq!(message.write_offset, state.on_stream);
        state.on_stream += message.data.len() as i64;
        let is_first = !message.resource_name.is_empty();
        let upload = state.uploads.entry(name.to_owned()).or_default();
        if is_first {
            assert!(upload.len() >= message.write_offset as usize, "a hole");
            upload.truncate(message.write_offset as usize);
        }
        upload.extend_from_slice(&zstd::decode_all(&message.data[..]).unwrap());
        upload.len()
    }

    fn finish(&self, name: &str, named: Digest) -> Result<i64, Status> {
        let mut state = self.0.lock();
        let bytes = state.uploads.remove(name).unwrap_or_default();
        if digest(&bytes) != named {
            return Err(Status::invalid_argument("wrong content"));
        }
        let committed_size = bytes.len() as i64;
        state.blobs.insert(named, bytes.into());
        Ok(committed_size)
    }
}

/// Frames of some content each.
fn frames(content: &[u8]) -> Vec<u8> {
    content.chunks(7_000).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect()
}
