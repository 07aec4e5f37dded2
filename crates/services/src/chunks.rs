//! Blobs as chunks: SplitBlob and SpliceBlob of API 2.12, and the same as streams, GetChunkMapping and
//! RegisterChunkMapping of 2.13.

use crate::{call, limits};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mortar_model::{ChunkMapping, Chunks, Context, Digest, DigestFunction, Error, Kind, Result};
use mortar_wire::{
    Functioned, chunking_function, chunking_function_to_wire, digest_to_wire, digests_to_wire,
    reapi::{
        self, GetChunkMappingRequest, GetChunkMappingResponse, RegisterChunkMappingRequest,
        RegisterChunkMappingResponse, SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest,
        SplitBlobResponse,
    },
    required_digest,
};
use std::sync::Arc;
use tonic::{Status, metadata::MetadataMap};

/// Answers for the chunks, or that there are none.
pub(crate) struct Handlers {
    chunks: Option<Arc<dyn Chunks>>,
}

impl Handlers {
    pub(crate) fn new(chunks: Option<Arc<dyn Chunks>>) -> Self {
        Self { chunks }
    }

    fn chunks(&self) -> Result<&dyn Chunks> {
        self.chunks.as_deref().ok_or_else(|| {
            let message = "this server does not keep blobs as chunks, as its capabilities tell".into();
            Error::new(Kind::Unimplemented { message })
        })
    }

    pub(crate) async fn split(
        &self,
        context: &Context,
        request: SplitBlobRequest,
    ) -> Result<SplitBlobResponse> {
        let chunks = self.chunks()?;
        let digest = required_digest("blob_digest", request.function()?, request.blob_digest)?;
        let mapping = chunks.split(context, digest, chunking_function(request.chunking_function)?).await?;
        if mapping.chunks.len() > limits::MAX_UNARY_CHUNKS {
            return Err(too_many(digest, mapping.chunks.len(), limits::MAX_UNARY_CHUNKS)
                .hint("ask with GetChunkMapping, which answers in as many messages as it takes"));
        }
        Ok(SplitBlobResponse {
            chunk_digests: digests_to_wire(mapping.chunks),
            chunking_function: chunking_function_to_wire(mapping.function),
        })
    }

    pub(crate) async fn splice(
        &self,
        context: &Context,
        request: SpliceBlobRequest,
    ) -> Result<SpliceBlobResponse> {
        let chunks = self.chunks()?;
        let function = request.function()?;
        let digest = required_digest("blob_digest", function, request.blob_digest)?;
        let mapping = ChunkMapping {
            function: chunking_function(request.chunking_function)?,
            chunks: chunk_digests(function, request.chunk_digests)?,
        };
        chunks.splice(context, digest, mapping).await?;
        Ok(SpliceBlobResponse { blob_digest: Some(digest_to_wire(digest)) })
    }

    /// The chunks in pages. The function is told in the first.
    pub(crate) async fn get_mapping(
        &self,
        context: &Context,
        request: GetChunkMappingRequest,
    ) -> Result<impl Stream<Item = GetChunkMappingResponse> + use<>> {
        let chunks = self.chunks()?;
        let digest = required_digest("blob_digest", request.function()?, request.blob_digest)?;
        let mapping = chunks.split(context, digest, chunking_function(request.chunking_function)?).await?;
        let mut function = chunking_function_to_wire(mapping.function);
        let mut rest = mapping.chunks.into_iter();
        let pages = std::iter::from_fn(move || {
            let page: Vec<_> = rest.by_ref().take(limits::CHUNK_PAGE).collect();
            (!page.is_empty()).then(|| GetChunkMappingResponse {
                chunk_digests: digests_to_wire(page),
                chunking_function: std::mem::take(&mut function),
            })
        });
        Ok(stream::iter(pages))
    }

    /// The blob is told in the first message, its chunks in all of them.
    pub(crate) async fn register_mapping(
        &self,
        headers: &MetadataMap,
        requests: impl Stream<Item = Result<RegisterChunkMappingRequest, Status>>,
    ) -> Result<RegisterChunkMappingResponse, Status> {
        let chunks = self.chunks().map_err(call::refuse)?;
        let mut requests = std::pin::pin!(requests);
        let Some(first) = requests.try_next().await? else {
            let message = "the stream ended before its first message, which names the blob";
            return Err(call::refuse(Error::invalid("blob_digest", message)));
        };
        let context = call::context(headers, &first.instance_name)?;
        let (digest, mut mapping) = begin(first).map_err(call::refuse)?;
        while let Some(more) = requests.next().await.transpose()? {
            let more = chunk_digests(digest.function(), more.chunk_digests).map_err(call::refuse)?;
            mapping.chunks.extend(more);
            if mapping.chunks.len() > limits::MAX_CHUNKS {
                let count = mapping.chunks.len();
                return Err(call::refuse(too_many(digest, count, limits::MAX_CHUNKS)));
            }
        }
        chunks.splice(&context, digest, mapping).await.map_err(call::refuse)?;
        Ok(RegisterChunkMappingResponse { blob_digest: Some(digest_to_wire(digest)) })
    }
}

fn begin(first: RegisterChunkMappingRequest) -> Result<(Digest, ChunkMapping)> {
    let function = first.function()?;
    let digest = required_digest("blob_digest", function, first.blob_digest)?;
    let mapping = ChunkMapping {
        function: chunking_function(first.chunking_function)?,
        chunks: chunk_digests(function, first.chunk_digests)?,
    };
    Ok((digest, mapping))
}

fn chunk_digests(function: DigestFunction, digests: Vec<reapi::Digest>) -> Result<Vec<Digest>> {
    let digests = digests.into_iter().map(|digest| required_digest("chunk_digests", function, Some(digest)));
    digests.collect()
}

fn too_many(digest: Digest, count: usize, limit: usize) -> Error {
    let message = format!("blob `{digest}` has {count} chunks; at most {limit} are served in this call");
    Error::new(Kind::ResourceExhausted { message, retry_after: None })
}
