//! Blobs as chunks at a server elsewhere: by the streamed calls where it serves API 2.13, else by the unary ones of 2.12.
//!
//! A call waits as long as its context does: how long it takes to cut a blob depends on its size.

use crate::{Inner, Remote, retry::Backoff};
use async_trait::async_trait;
use mortar_model::{
    ChunkMapping, ChunkingFunction, ChunkingParameters, Chunks, Context, Digest, Error, Result,
};
use mortar_wire::{
    chunking_from_wire, chunking_function, chunking_function_to_wire, digest_to_wire, digests_to_wire,
    function_to_wire,
    reapi::{
        GetChunkMappingRequest, RegisterChunkMappingRequest, SpliceBlobRequest, SplitBlobRequest,
        SplitBlobResponse,
    },
    required_digest,
};
use std::sync::Arc;

/// Chunks in one message: well below gRPC's usual limit on messages.
const PAGE: usize = 10_000;
/// More chunks than this no server is believed to have made of one blob.
const MAX_CHUNKS: usize = 4_000_000;

/// A server that keeps blobs as chunks.
#[derive(Clone)]
pub struct RemoteChunks {
    remote: Arc<Inner>,
    parameters: ChunkingParameters,
    streamed: bool,
}

impl Remote {
    /// Asks the server whether and how it keeps blobs as chunks; none if it does not both split and splice.
    pub async fn chunks(&self, context: &Context) -> Result<Option<RemoteChunks>> {
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        let answer = loop {
            match self.0.get_capabilities(context).await {
                Ok(answer) => break answer.into_inner(),
                Err(error) => backoff.pause(error).await?,
            }
        };
        let streamed = answer.high_api_version.is_some_and(|high| (high.major, high.minor) >= (2, 13));
        let parameters = answer.cache_capabilities.as_ref().and_then(chunking_from_wire);
        Ok(parameters.map(|parameters| RemoteChunks { remote: self.0.clone(), parameters, streamed }))
    }
}

impl RemoteChunks {
    /// The same server, spoken to as if it served no streamed calls.
    #[must_use]
    pub fn unary(mut self) -> Self {
        self.streamed = false;
        self
    }

    async fn try_split(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<SplitBlobResponse> {
        let request = SplitBlobRequest {
            instance_name: context.instance.to_string(),
            blob_digest: Some(digest_to_wire(digest)),
            digest_function: function_to_wire(digest.function()).into(),
            chunking_function: chunking_function_to_wire(function),
        };
        let (mut client, _lease) = self.remote.cas();
        let call = client.split_blob(self.remote.request(context, request));
        Ok(self.remote.timely(context, None, call).await?.into_inner())
    }

    async fn try_get_mapping(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<SplitBlobResponse> {
        let request = GetChunkMappingRequest {
            instance_name: context.instance.to_string(),
            blob_digest: Some(digest_to_wire(digest)),
            digest_function: function_to_wire(digest.function()).into(),
            chunking_function: chunking_function_to_wire(function),
        };
        let (mut client, _lease) = self.remote.cas();
        let call = client.get_chunk_mapping(self.remote.request(context, request));
        let mut pages = self.remote.timely(context, None, call).await?.into_inner();
        let (mut whole, mut first) = (SplitBlobResponse::default(), true);
        while let Some(page) = self.remote.timely(context, None, pages.message()).await? {
            if std::mem::take(&mut first) {
                whole.chunking_function = page.chunking_function;
            }
            whole.chunk_digests.extend(page.chunk_digests);
            if whole.chunk_digests.len() > MAX_CHUNKS {
                let message = format!("blob `{digest}` has more than {MAX_CHUNKS} chunks");
                return Err(self.remote.garbled(Error::internal(message)));
            }
        }
        Ok(whole)
    }

    /// The mapping in an answer, if it can be one of this blob.
    fn mapping(&self, digest: Digest, answer: SplitBlobResponse) -> Result<ChunkMapping> {
        let chunks = answer.chunk_digests.into_iter();
        let chunks = chunks.map(|chunk| required_digest("chunk_digests", digest.function(), Some(chunk)));
        let chunks: Vec<_> = chunks.collect::<Result<_>>().map_err(|error| self.remote.garbled(error))?;
        let total = chunks.iter().map(Digest::size).fold(0, u64::saturating_add);
        if total != digest.size() {
            let message = format!("the chunks of blob `{digest}` have {total} bytes");
            return Err(self.remote.garbled(Error::internal(message)));
        }
        // A function that is not known here is as good as none.
        let function = chunking_function(answer.chunking_function).unwrap_or_default();
        Ok(ChunkMapping { function, chunks })
    }

    async fn try_splice(&self, context: &Context, digest: Digest, mapping: &ChunkMapping) -> Result<()> {
        let request = SpliceBlobRequest {
            instance_name: context.instance.to_string(),
            blob_digest: Some(digest_to_wire(digest)),
            chunk_digests: digests_to_wire(mapping.chunks.iter().copied()),
            digest_function: function_to_wire(digest.function()).into(),
            chunking_function: chunking_function_to_wire(mapping.function),
        };
        let (mut client, _lease) = self.remote.cas();
        let call = client.splice_blob(self.remote.request(context, request));
        self.remote.timely(context, None, call).await.map(drop)
    }

    async fn try_register(&self, context: &Context, digest: Digest, mapping: &ChunkMapping) -> Result<()> {
        let first = RegisterChunkMappingRequest {
            instance_name: context.instance.to_string(),
            blob_digest: Some(digest_to_wire(digest)),
            chunk_digests: vec![],
            digest_function: function_to_wire(digest.function()).into(),
            chunking_function: chunking_function_to_wire(mapping.function),
        };
        let pages = mapping.chunks.chunks(PAGE).map(|page| RegisterChunkMappingRequest {
            chunk_digests: digests_to_wire(page.iter().copied()),
            ..Default::default()
        });
        let requests: Vec<_> = std::iter::once(first).chain(pages).collect();
        let (mut client, _lease) = self.remote.cas();
        let requests = self.remote.request(context, futures::stream::iter(requests));
        self.remote.timely(context, None, client.register_chunk_mapping(requests)).await.map(drop)
    }
}

#[async_trait]
impl Chunks for RemoteChunks {
    fn parameters(&self) -> ChunkingParameters {
        self.parameters
    }

    async fn split(
        &self,
        context: &Context,
        digest: Digest,
        function: Option<ChunkingFunction>,
    ) -> Result<ChunkMapping> {
        let mut backoff = Backoff::new(&self.remote.options.retry, context);
        loop {
            let answer = match self.streamed {
                true => self.try_get_mapping(context, digest, function).await,
                false => self.try_split(context, digest, function).await,
            };
            match answer {
                Ok(answer) => return self.mapping(digest, answer),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    async fn splice(&self, context: &Context, digest: Digest, mapping: ChunkMapping) -> Result<()> {
        let mut backoff = Backoff::new(&self.remote.options.retry, context);
        loop {
            let answer = match self.streamed {
                true => self.try_register(context, digest, &mapping).await,
                false => self.try_splice(context, digest, &mapping).await,
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}
