//! ContentAddressableStorage: look-ups, batches and trees; chunks are in `chunks`. Batches take and give zstd where the
//! client says so.

use crate::{Ports, budget::Budget, call, chunks, limits, tree};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mortar_model::{
    BlobStore, BlobStoreExt, ByteStream, Context, Digest, DigestFunction, DigestSet, EncodedBlobs, Encoding,
    Error, Range, Result,
};
use mortar_wire::{
    Functioned, digest_to_wire, digests_to_wire,
    reapi::{
        BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
        FindMissingBlobsRequest, FindMissingBlobsResponse, GetChunkMappingRequest, GetChunkMappingResponse,
        GetTreeRequest, GetTreeResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse,
        SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse,
        batch_read_blobs_response, batch_update_blobs_request, batch_update_blobs_response, compressor,
        content_addressable_storage_server::ContentAddressableStorage,
    },
    required_digest, rpc,
};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Answers for the blobs.
pub(crate) struct Service {
    blobs: Arc<dyn BlobStore>,
    encoded: Option<Arc<dyn EncodedBlobs>>,
    chunks: chunks::Handlers,
    budget: Budget,
}

impl Service {
    pub(crate) fn new(ports: &Ports, budget: Budget) -> Self {
        let chunks = chunks::Handlers::new(ports.chunks.clone());
        Self { blobs: ports.blobs.clone(), encoded: ports.encoded.clone(), chunks, budget }
    }

    async fn missing(
        &self,
        context: &Context,
        request: FindMissingBlobsRequest,
    ) -> Result<FindMissingBlobsResponse> {
        let function = request.function()?;
        let digests = request
            .blob_digests
            .into_iter()
            .map(|digest| required_digest("blob_digests", function, Some(digest)));
        let digests: DigestSet = digests.collect::<Result<_>>()?;
        let missing = self.blobs.find_missing(context, &digests).await?;
        Ok(FindMissingBlobsResponse { missing_blob_digests: digests_to_wire(missing) })
    }

    async fn update(
        &self,
        context: &Context,
        request: BatchUpdateBlobsRequest,
    ) -> Result<BatchUpdateBlobsResponse> {
        let function = request.function()?;
        let total = request.requests.iter().map(weight).fold(0, u64::saturating_add);
        check_total("the blobs of this batch", total)?;
        let _share = self.budget.claim(total as usize);
        let writes = request.requests.into_iter().map(|one| {
            let digest = one.digest.clone();
            async move {
                let status = rpc_status(self.update_one(context, function, one).await);
                batch_update_blobs_response::Response { digest, status: Some(status) }
            }
        });
        let responses = futures::stream::iter(writes).buffered(limits::BATCH_PARALLELISM).collect().await;
        Ok(BatchUpdateBlobsResponse { responses })
    }

    async fn update_one(
        &self,
        context: &Context,
        function: DigestFunction,
        one: batch_update_blobs_request::Request,
    ) -> Result<()> {
        let digest = required_digest("requests.digest", function, one.digest)?;
        match (compressor::Value::try_from(one.compressor), &self.encoded) {
            (Ok(compressor::Value::Identity), _) => self.blobs.write_bytes(context, digest, one.data).await,
            (Ok(compressor::Value::Zstd), Some(encoded)) => {
                encoded.write_zstd(context, digest, one.data).await
            }
            _ => {
                let message =
                    format!("blob `{digest}`: the compressor {} is not served in batches", one.compressor);
                Err(Error::invalid("requests.compressor", message)
                    .hint("send the blob uncompressed, as the capabilities say"))
            }
        }
    }

    async fn read(
        &self,
        context: &Context,
        request: BatchReadBlobsRequest,
    ) -> Result<BatchReadBlobsResponse> {
        let function = request.function()?;
        let digests =
            request.digests.into_iter().map(|digest| required_digest("digests", function, Some(digest)));
        let digests: Vec<Digest> = digests.collect::<Result<_>>()?;
        let total = digests.iter().map(Digest::size).fold(0, u64::saturating_add);
        check_total("the blobs asked for", total)?;
        let _share = self.budget.take(total as usize).await;
        let zstd = request.acceptable_compressors.contains(&compressor::Value::Zstd.into());
        let reads = digests.into_iter().map(|digest| async move {
            let (encoding, data, status) = match self.read_one(context, digest, zstd).await {
                Ok((encoding, data)) => (encoding, data, rpc::Status::default()),
                Err(error) => (Encoding::Identity, Bytes::new(), rpc_status(Err(error))),
            };
            batch_read_blobs_response::Response {
                digest: Some(digest_to_wire(digest)),
                data,
                compressor: match encoding {
                    Encoding::Identity => compressor::Value::Identity.into(),
                    Encoding::Zstd => compressor::Value::Zstd.into(),
                },
                status: Some(status),
            }
        });
        let responses = futures::stream::iter(reads).buffered(limits::BATCH_PARALLELISM).collect().await;
        Ok(BatchReadBlobsResponse { responses })
    }

    /// One blob, as zstd where the client takes that and it is shorter.
    async fn read_one(&self, context: &Context, digest: Digest, zstd: bool) -> Result<(Encoding, Bytes)> {
        let encoded = self.encoded.as_ref().filter(|_| zstd && digest.size() >= SHORTEST_COMPRESSED);
        if let Some(encoded) = encoded
            && let Some(frames) =
                shorter(encoded.read_zstd(context, digest, Range::ALL).await?, digest).await?
        {
            return Ok((Encoding::Zstd, frames));
        }
        let data = self.blobs.read_all(context, digest, limits::MAX_BATCH).await?;
        Ok((Encoding::Identity, data))
    }
}

/// Blobs below this do not get shorter.
const SHORTEST_COMPRESSED: u64 = 64;

/// These frames, if they are shorter than the blob that they hold.
async fn shorter(mut frames: ByteStream, digest: Digest) -> Result<Option<Bytes>> {
    let mut whole = BytesMut::new();
    while let Some(piece) = frames.try_next().await? {
        if (whole.len() + piece.len()) as u64 >= digest.size() {
            return Ok(None);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Some(whole.freeze()))
}

/// What a blob counts in a batch: what is sent of it or, where that is more, what it is once it is decompressed.
fn weight(one: &batch_update_blobs_request::Request) -> u64 {
    let content = match one.compressor == i32::from(compressor::Value::Identity) {
        true => 0,
        false => one.digest.as_ref().and_then(|digest| u64::try_from(digest.size_bytes).ok()).unwrap_or(0),
    };
    content.max(one.data.len() as u64)
}

#[tonic::async_trait]
impl ContentAddressableStorage for Service {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::reading(call::context(&headers, &request.instance_name)?, &headers);
        self.missing(&context, request).await.map(Response::new).map_err(call::refuse)
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::context(&headers, &request.instance_name)?;
        self.update(&context, request).await.map(Response::new).map_err(call::refuse)
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::reading(call::context(&headers, &request.instance_name)?, &headers);
        self.read(&context, request).await.map(Response::new).map_err(call::refuse)
    }

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<BoxStream<'static, Result<GetTreeResponse, Status>>>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::reading(call::context(&headers, &request.instance_name)?, &headers);
        let pages = tree::Pages::open(context, self.blobs.clone(), request).await.map_err(call::refuse)?;
        Ok(Response::new(pages.into_stream().map(|page| page.map_err(call::refuse)).boxed()))
    }

    async fn split_blob(
        &self,
        request: Request<SplitBlobRequest>,
    ) -> Result<Response<SplitBlobResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::context(&headers, &request.instance_name)?;
        self.chunks.split(&context, request).await.map(Response::new).map_err(call::refuse)
    }

    async fn splice_blob(
        &self,
        request: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::context(&headers, &request.instance_name)?;
        self.chunks.splice(&context, request).await.map(Response::new).map_err(call::refuse)
    }

    async fn get_chunk_mapping(
        &self,
        request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<BoxStream<'static, Result<GetChunkMappingResponse, Status>>>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::context(&headers, &request.instance_name)?;
        let pages = self.chunks.get_mapping(&context, request).await.map_err(call::refuse)?;
        Ok(Response::new(pages.map(Ok).boxed()))
    }

    async fn register_chunk_mapping(
        &self,
        request: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        let (headers, _, requests) = request.into_parts();
        self.chunks.register_mapping(&headers, requests).await.map(Response::new)
    }
}

fn check_total(what: &str, total: u64) -> Result<()> {
    if total <= limits::MAX_BATCH {
        return Ok(());
    }
    let message =
        format!("{what} have {total} bytes in all; at most {} are served in one call", limits::MAX_BATCH);
    Err(Error::invalid("requests", message)
        .hint("use ByteStream for large blobs, and smaller batches, as the capabilities say"))
}

fn rpc_status(outcome: Result<()>) -> rpc::Status {
    match outcome {
        Ok(()) => rpc::Status::default(),
        Err(error) => {
            call::log(&error);
            mortar_wire::status::to_rpc(&error)
        }
    }
}
