//! ContentAddressableStorage: look-ups, batches and trees.

use crate::{call, limits, tree};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestFunction, DigestSet, Error, Result};
use mortar_wire::{
    Functioned, digest_to_wire, digests_to_wire,
    reapi::{
        BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
        FindMissingBlobsRequest, FindMissingBlobsResponse, GetTreeRequest, GetTreeResponse,
        batch_read_blobs_response, batch_update_blobs_request, batch_update_blobs_response, compressor,
        content_addressable_storage_server::ContentAddressableStorage,
    },
    required_digest, rpc,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Answers for the blobs.
pub(crate) struct Service {
    blobs: Arc<dyn BlobStore>,
}

impl Service {
    pub(crate) fn new(blobs: Arc<dyn BlobStore>) -> Self {
        Self { blobs }
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
        let total = request.requests.iter().map(|one| one.data.len() as u64).sum();
        check_total("the blobs of this batch", total)?;
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
        if one.compressor != compressor::Value::Identity as i32 {
            let message =
                format!("blob `{digest}`: the compressor {} is not served in batches", one.compressor);
            return Err(Error::invalid("requests.compressor", message)
                .hint("send the blob uncompressed, as the capabilities say"));
        }
        self.blobs.write_bytes(context, digest, one.data).await
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
        check_total("the blobs asked for", digests.iter().map(Digest::size).fold(0, u64::saturating_add))?;
        let reads = digests.into_iter().map(|digest| async move {
            let read = self.blobs.read_all(context, digest, limits::MAX_BATCH).await;
            let (data, status) = match read {
                Ok(data) => (data, rpc::Status::default()),
                Err(error) => (Bytes::new(), rpc_status(Err(error))),
            };
            batch_read_blobs_response::Response {
                digest: Some(digest_to_wire(digest)),
                data,
                compressor: compressor::Value::Identity.into(),
                status: Some(status),
            }
        });
        let responses = futures::stream::iter(reads).buffered(limits::BATCH_PARALLELISM).collect().await;
        Ok(BatchReadBlobsResponse { responses })
    }
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
