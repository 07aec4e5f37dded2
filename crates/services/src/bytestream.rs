//! ByteStream: blobs of any size as streams, in both directions.

use crate::{call, limits};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mortar_model::{
    BlobStore, Context, Digest, Encoding, Error, Kind, Range, Result, Upload, UploadId, UploadSessions,
};
use mortar_wire::{
    bytestream::{
        QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest,
        WriteResponse, byte_stream_server::ByteStream,
    },
    resource::Resource,
};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Streams blobs out and in.
pub(crate) struct Service {
    blobs: Arc<dyn BlobStore>,
    uploads: Arc<dyn UploadSessions>,
}

impl Service {
    pub(crate) fn new(blobs: Arc<dyn BlobStore>, uploads: Arc<dyn UploadSessions>) -> Self {
        Self { blobs, uploads }
    }

    async fn open_read(
        &self,
        context: Context,
        request: ReadRequest,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let resource = identity(Resource::parse_read(&request.resource_name)?)?;
        let range = range(&request)?;
        let context = context.with_instance(resource.instance);
        let blob = self.blobs.read(&context, resource.digest, range).await?;
        Ok(blob
            .into_stream()
            .map_ok(|chunk| futures::stream::iter(pieces(chunk).map(Ok)))
            .try_flatten()
            .boxed())
    }

    async fn take(&self, context: Context, mut messages: Streaming<WriteRequest>) -> Result<u64, Status> {
        let first = messages.message().await?;
        let first = first
            .ok_or_else(|| call::refuse(Error::invalid("resource_name", "the stream has no message")))?;
        let name = first.resource_name.clone();
        let resource = Resource::parse_write(&name).and_then(identity).map_err(call::refuse)?;
        let context = context.with_instance(resource.instance.clone());
        if self.has(&context, resource.digest).await.map_err(call::refuse)? {
            return Ok(resource.digest.size());
        }
        let upload =
            self.uploads.open(&context, &upload_id(&resource), resource.digest, resource.encoding).await;
        let mut writing = Writing { upload: upload.map_err(call::refuse)?, name, finished: false };
        let mut next = Some(first);
        while let Some(message) = next {
            writing.accept(message).await.map_err(call::refuse)?;
            next = messages.message().await?;
        }
        writing.end().await.map_err(call::refuse)
    }

    async fn status(&self, context: Context, name: &str) -> Result<QueryWriteStatusResponse> {
        let resource = identity(Resource::parse_write(name)?)?;
        let context = context.with_instance(resource.instance.clone());
        if self.has(&context, resource.digest).await? {
            return Ok(QueryWriteStatusResponse {
                committed_size: signed(resource.digest.size()),
                complete: true,
            });
        }
        let committed = self.uploads.committed(&context, &upload_id(&resource)).await?.unwrap_or(0);
        Ok(QueryWriteStatusResponse { committed_size: signed(committed), complete: false })
    }

    async fn has(&self, context: &Context, digest: Digest) -> Result<bool> {
        Ok(self.blobs.find_missing(context, &[digest].into_iter().collect()).await?.is_empty())
    }
}

#[tonic::async_trait]
impl ByteStream for Service {
    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<BoxStream<'static, Result<ReadResponse, Status>>>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::reading(call::from_headers(&headers), &headers);
        let chunks = self.open_read(context, request).await.map_err(call::refuse)?;
        let responses = chunks.map(|chunk| chunk.map(|data| ReadResponse { data }).map_err(call::refuse));
        Ok(Response::new(responses.boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let (headers, _, messages) = request.into_parts();
        let context = call::from_headers(&headers);
        let committed = self.take(context, messages).await?;
        Ok(Response::new(WriteResponse { committed_size: signed(committed) }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let status = self.status(call::from_headers(&headers), &request.resource_name).await;
        status.map(Response::new).map_err(call::refuse)
    }
}

/// One upload as its messages come.
struct Writing {
    upload: Box<dyn Upload>,
    name: String,
    finished: bool,
}

impl Writing {
    async fn accept(&mut self, message: WriteRequest) -> Result<()> {
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            let message =
                format!("the resource name changed from `{}` to `{}`", self.name, message.resource_name);
            return Err(Error::invalid("resource_name", message));
        }
        if self.finished {
            return Err(Error::invalid("finish_write", "a message follows the one that finished the write"));
        }
        self.finished = message.finish_write;
        let fresh = self.fresh(message.write_offset, message.data)?;
        if fresh.is_empty() { Ok(()) } else { self.upload.write(fresh).await }
    }

    /// The part of the data that is not committed yet; a client that resumes may send some of it again.
    fn fresh(&self, offset: i64, mut data: Bytes) -> Result<Bytes> {
        let committed = self.upload.committed();
        let again =
            u64::try_from(offset).ok().and_then(|offset| committed.checked_sub(offset)).ok_or_else(|| {
                let message =
                    format!("write_offset is {offset}; expected {committed}, which is committed so far");
                Error::invalid("write_offset", message).hint("ask QueryWriteStatus where to go on")
            })?;
        let again = usize::try_from(again).unwrap_or(usize::MAX).min(data.len());
        Ok(data.split_off(again))
    }

    /// The bytes that are committed at the end of the stream.
    async fn end(self) -> Result<u64> {
        let committed = self.upload.committed();
        if self.finished {
            self.upload.finish().await?;
        }
        Ok(committed)
    }
}

fn identity(resource: Resource) -> Result<Resource> {
    match resource.encoding {
        Encoding::Identity => Ok(resource),
        Encoding::Zstd => {
            let message = format!("blob `{}`: the compressor `zstd` is not served", resource.digest);
            Err(Error::invalid("resource_name", message)
                .hint("use `blobs/…` without compression, as the capabilities say"))
        }
    }
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

fn pieces(mut chunk: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let piece = chunk.split_to(chunk.len().min(limits::CHUNK));
        (!piece.is_empty()).then_some(piece)
    })
}

/// Uploads of the same name into another instance are other uploads.
fn upload_id(resource: &Resource) -> UploadId {
    let upload = resource.upload.as_deref().unwrap_or_default();
    UploadId(format!("{}|{upload}|{:?}", resource.instance, resource.digest).into())
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
