//! ByteStream: blobs of any size as streams, in both directions.
//!
//! Read and Write are framed by hand, so that content is not copied on its way between connection and store: what the
//! store gives goes out as it is between a header and the trailers ([`read`]), and what comes in is passed on piece by
//! piece as the connection brings it ([`message`], [`write`]). QueryWriteStatus is a call like any other.

mod frame;
mod message;
mod read;
mod varint;
mod write;

pub use message::{Head, Parser, Part, take_apart};

use crate::{
    Ports,
    budget::Budget,
    call,
    log_streams::{self, LogStreams},
};
use axum::{Router, body::Body, extract::Request, response::Response, routing::post};
use mortar_model::{
    BlobStore, Context, Digest, EncodedBlobs, Encoding, Error, Result, UploadId, UploadSessions,
};
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse},
    resource::Resource,
};
use std::sync::Arc;
use tonic::{Status, metadata::MetadataMap};

/// Streams blobs out and in.
pub(crate) struct Service {
    blobs: Arc<dyn BlobStore>,
    encoded: Option<Arc<dyn EncodedBlobs>>,
    uploads: Arc<dyn UploadSessions>,
    budget: Budget,
    /// Of executions, where there are any.
    logs: Option<LogStreams>,
}

impl Service {
    pub(crate) fn new(ports: &Ports, budget: Budget, logs: Option<LogStreams>) -> Self {
        let (blobs, encoded, uploads) = (ports.blobs.clone(), ports.encoded.clone(), ports.uploads.clone());
        Self { blobs, encoded, uploads, budget, logs }
    }

    /// The paths of the three methods.
    pub(crate) fn routes(self) -> Router {
        let service = Arc::new(self);
        let (read, write, query) = (service.clone(), service.clone(), service);
        Router::new()
            .route(
                "/google.bytestream.ByteStream/Read",
                post(move |request: Request| async move { grpc(request, |request| read.read(request)).await }),
            )
            .route(
                "/google.bytestream.ByteStream/Write",
                post(move |request: Request| async move { grpc(request, |request| write.write(request)).await }),
            )
            .route(
                "/google.bytestream.ByteStream/QueryWriteStatus",
                post(move |request: Request| query_write_status(query, request)),
            )
    }

    /// What is committed counts content, also of an upload in zstd: whoever goes on begins new frames there.
    async fn status(&self, context: Context, name: &str) -> Result<QueryWriteStatusResponse> {
        if let Some(logs) = self.logs.as_ref().filter(|_| log_streams::is_meant(name)) {
            let (committed, complete) = logs.size(name).await?;
            return Ok(QueryWriteStatusResponse { committed_size: signed(committed), complete });
        }
        let resource = self.served(Resource::parse_write(name)?)?;
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

    /// This resource, if blobs are served in its encoding.
    fn served(&self, resource: Resource) -> Result<Resource> {
        match (resource.encoding, &self.encoded) {
            (Encoding::Identity, _) | (Encoding::Zstd, Some(_)) => Ok(resource),
            (Encoding::Zstd, None) => Err(not_served(resource.digest)),
        }
    }

    async fn has(&self, context: &Context, digest: Digest) -> Result<bool> {
        Ok(self.blobs.find_missing(context, &[digest].into_iter().collect()).await?.is_empty())
    }
}

/// The answer of a call that is framed by hand; one that fails before it has sent anything is refused with its status.
async fn grpc<F>(request: Request, call: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Result<Response>>,
{
    match frame::is_grpc(request.headers()) {
        true => call(request).await.unwrap_or_else(frame::refusal),
        false => frame::not_grpc(),
    }
}

/// A call with one message either way.
async fn query_write_status(service: Arc<Service>, request: Request) -> Response {
    let codec = tonic_prost::ProstCodec::<QueryWriteStatusResponse, QueryWriteStatusRequest>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    grpc.unary(Query(service), request.map(tonic::body::Body::new)).await.map(Body::new)
}

/// QueryWriteStatus, for tonic.
struct Query(Arc<Service>);

impl tonic::server::UnaryService<QueryWriteStatusRequest> for Query {
    type Response = QueryWriteStatusResponse;
    type Future = futures::future::BoxFuture<'static, Result<tonic::Response<Self::Response>, Status>>;

    fn call(&mut self, request: tonic::Request<QueryWriteStatusRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let (headers, _, request) = request.into_parts();
            let status = service.status(call::from_headers(&headers), &request.resource_name).await;
            status.map(tonic::Response::new).map_err(call::refuse)
        })
    }
}

/// The context of a call whose instance is not known yet, and its body.
fn opened(request: Request) -> (Context, MetadataMap, Body) {
    let (head, body) = request.into_parts();
    let headers = MetadataMap::from_headers(head.headers);
    (call::from_headers(&headers), headers, body)
}

/// The body of a request broke off, or its client did.
fn broken(error: axum::Error) -> Error {
    let message = "the call broke off before its end".to_owned();
    Error::new(mortar_model::Kind::Cancelled { message }).with_source(error)
}

fn not_served(digest: Digest) -> Error {
    let message = format!("blob `{digest}`: the compressor `zstd` is not served");
    Error::invalid("resource_name", message)
        .hint("use `blobs/…` without compression, as the capabilities say")
}

/// Uploads of the same name into another instance are other uploads.
fn upload_id(resource: &Resource) -> UploadId {
    let upload = resource.upload.as_deref().unwrap_or_default();
    UploadId(format!("{}|{upload}|{:?}", resource.instance, resource.digest).into())
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
