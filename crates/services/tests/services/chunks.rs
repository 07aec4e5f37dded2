//! Blobs as chunks, in the calls of 2.12 and in those of 2.13.

use crate::support::{CHUNKING, Server, digest, server, server_without_chunks};
use futures::stream;
use mortar_wire::{
    digest_to_wire,
    reapi::{
        self, FastCdc2020Params, GetChunkMappingRequest, RegisterChunkMappingRequest, RepMaxCdcParams,
        SpliceBlobRequest, SplitBlobRequest, capabilities_client::CapabilitiesClient,
        chunking_function::Value as Function,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use tonic::{Code, Status, transport::Channel};

fn client(server: &Server) -> ContentAddressableStorageClient<Channel> {
    ContentAddressableStorageClient::new(server.channel.clone()).max_decoding_message_size(16 << 20)
}

/// Bytes that are no pattern.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

fn split(blob: &reapi::Digest, function: i32) -> SplitBlobRequest {
    SplitBlobRequest { blob_digest: Some(blob.clone()), chunking_function: function, ..Default::default() }
}

fn get(blob: &reapi::Digest, function: i32) -> GetChunkMappingRequest {
    GetChunkMappingRequest {
        blob_digest: Some(blob.clone()),
        chunking_function: function,
        ..Default::default()
    }
}

fn splice(blob: &reapi::Digest, chunks: &[reapi::Digest]) -> SpliceBlobRequest {
    SpliceBlobRequest {
        blob_digest: Some(blob.clone()),
        chunk_digests: chunks.to_vec(),
        ..Default::default()
    }
}

/// The whole answer of GetChunkMapping: the pages' functions, and all chunks.
async fn mapping(
    server: &Server,
    request: GetChunkMappingRequest,
) -> Result<(Vec<i32>, Vec<reapi::Digest>), Status> {
    let mut pages = client(server).get_chunk_mapping(request).await?.into_inner();
    let (mut functions, mut chunks) = (Vec::new(), Vec::new());
    while let Some(page) = pages.message().await? {
        functions.push(page.chunking_function);
        chunks.extend(page.chunk_digests);
    }
    Ok((functions, chunks))
}

/// One message of chunks after the other; the blob is told in the first.
fn register(blob: &reapi::Digest, pages: &[&[reapi::Digest]]) -> Vec<RegisterChunkMappingRequest> {
    let page = |page: &&[reapi::Digest]| RegisterChunkMappingRequest {
        chunk_digests: page.to_vec(),
        ..Default::default()
    };
    let mut requests: Vec<_> = pages.iter().map(page).collect();
    if let Some(first) = requests.first_mut() {
        first.blob_digest = Some(blob.clone());
        first.digest_function = reapi::digest_function::Value::Sha256.into();
        first.chunking_function = Function::RepMaxCdc.into();
    }
    requests
}

/// What the chunks are together, read one by one.
async fn joined(server: &Server, chunks: &[reapi::Digest]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in chunks {
        let request = reapi::BatchReadBlobsRequest { digests: vec![chunk.clone()], ..Default::default() };
        let answer = client(server).batch_read_blobs(request).await.unwrap().into_inner();
        bytes.extend_from_slice(&answer.responses[0].data);
    }
    bytes
}

async fn keep_all(server: &Server, pieces: impl Iterator<Item = &[u8]>) -> Vec<reapi::Digest> {
    let mut digests = Vec::new();
    for piece in pieces {
        digests.push(digest_to_wire(server.keep(piece.to_vec()).await));
    }
    digests
}

#[tokio::test]
async fn both_generations_split_alike() {
    let server = server().await;
    for function in [Function::Unknown, Function::FastCdc2020, Function::RepMaxCdc] {
        let bytes = content(function as u64 + 1, 50_000);
        let blob = digest_to_wire(server.keep(bytes.clone()).await);
        let unary = client(&server).split_blob(split(&blob, function.into())).await.unwrap().into_inner();
        assert!(unary.chunk_digests.len() > 10, "{} chunks", unary.chunk_digests.len());
        let expected = if function == Function::Unknown { Function::FastCdc2020 } else { function };
        assert_eq!(unary.chunking_function(), expected);
        assert_eq!(joined(&server, &unary.chunk_digests).await, bytes);
        assert_eq!(joined(&server, std::slice::from_ref(&blob)).await, bytes);
        let (functions, chunks) = mapping(&server, get(&blob, 0)).await.unwrap();
        assert_eq!((functions, chunks), (vec![expected.into()], unary.chunk_digests));
    }
}

#[tokio::test]
async fn a_mapping_comes_in_pages() {
    let server = server().await;
    let bytes = content(10, 60_000);
    let pieces = keep_all(&server, bytes.chunks(5)).await;
    let blob = digest_to_wire(digest(&bytes));
    let pages: Vec<_> = pieces.chunks(999).collect();
    let requests = register(&blob, &pages);
    let answer = client(&server).register_chunk_mapping(stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(answer.blob_digest, Some(blob.clone()));
    let (functions, chunks) = mapping(&server, get(&blob, 0)).await.unwrap();
    assert_eq!(functions, [Function::RepMaxCdc as i32, 0]);
    assert_eq!(chunks, pieces);
    assert_eq!(joined(&server, &[blob]).await, bytes);
}

#[tokio::test]
async fn both_generations_splice_alike() {
    let server = server().await;
    for (seed, length) in [(20, 100), (21, 30_000)] {
        let bytes = content(seed, length);
        let pieces = keep_all(&server, bytes.chunks(length / 7)).await;
        let blob = digest_to_wire(digest(&bytes));
        for _ in 0..2 {
            let answer = client(&server).splice_blob(splice(&blob, &pieces)).await.unwrap().into_inner();
            assert_eq!(answer.blob_digest, Some(blob.clone()));
        }
        assert_eq!(joined(&server, &[blob]).await, bytes);

        let turned: Vec<u8> = bytes.chunks(length / 7).rev().flatten().copied().collect();
        let blob = digest_to_wire(digest(&turned));
        let pieces: Vec<_> = pieces.into_iter().rev().collect();
        // Only what the first message says of the blob counts; a message may be without chunks.
        let mut requests = register(&blob, &[&[], &pieces[..3], &[], &pieces[3..]]);
        requests[1].instance_name = "a//b".into();
        requests[3].blob_digest = Some(digest_to_wire(digest(b"another")));
        client(&server).register_chunk_mapping(stream::iter(requests)).await.unwrap();
        assert_eq!(joined(&server, &[blob]).await, turned);
    }
}

fn refused<T>(answer: Result<T, Status>, code: Code, needle: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{needle}: was accepted"));
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(needle), "`{}` should contain `{needle}`", status.message());
}

#[tokio::test]
async fn what_cannot_be_split_is_refused() {
    let server = server().await;
    let blob = digest_to_wire(digest(&content(30, 50_000)));
    let kept = digest_to_wire(server.keep(content(31, 50_000)).await);
    let malformed = reapi::Digest { hash: "abc".into(), size_bytes: 3 };
    for (blob, function, code, needle) in [
        (&blob, 0, Code::NotFound, blob.hash.as_str()),
        (&kept, 3, Code::InvalidArgument, "chunking function 3"),
        (&malformed, 0, Code::InvalidArgument, "blob_digest"),
    ] {
        refused(client(&server).split_blob(split(blob, function)).await, code, needle);
        refused(mapping(&server, get(blob, function)).await, code, needle);
    }
    let nameless = SplitBlobRequest::default();
    refused(client(&server).split_blob(nameless).await, Code::InvalidArgument, "blob_digest");
    let nameless = GetChunkMappingRequest::default();
    refused(mapping(&server, nameless).await, Code::InvalidArgument, "blob_digest");
    let foreign = SplitBlobRequest { instance_name: "a//b".into(), ..split(&kept, 0) };
    refused(client(&server).split_blob(foreign).await, Code::InvalidArgument, "instance name");
    server.assert_alive().await;
}

#[tokio::test]
async fn what_cannot_be_spliced_is_refused_and_leaves_nothing() {
    let server = server().await;
    let bytes = content(40, 30_000);
    let pieces = keep_all(&server, bytes.chunks(10_000)).await;
    let blob = digest_to_wire(digest(&bytes));
    let missing = digest_to_wire(digest(&[0; 10_000]));
    let turned: Vec<_> = pieces.iter().rev().cloned().collect();
    let malformed = reapi::Digest { hash: "abc".into(), size_bytes: 10_000 };
    for (chunks, code, needle) in [
        (vec![pieces[0].clone(), missing.clone(), pieces[2].clone()], Code::NotFound, missing.hash.as_str()),
        (turned, Code::InvalidArgument, "does not match"),
        (pieces[..2].to_vec(), Code::InvalidArgument, "20000 bytes in 2 chunks"),
        (vec![], Code::InvalidArgument, "0 bytes in 0 chunks"),
        (vec![malformed], Code::InvalidArgument, "chunk_digests"),
    ] {
        refused(client(&server).splice_blob(splice(&blob, &chunks)).await, code, needle);
        let requests = register(&blob, &[&chunks]);
        refused(client(&server).register_chunk_mapping(stream::iter(requests)).await, code, needle);
        let find = reapi::FindMissingBlobsRequest { blob_digests: vec![blob.clone()], ..Default::default() };
        let found = client(&server).find_missing_blobs(find).await.unwrap().into_inner();
        assert!(found.missing_blob_digests.contains(&blob), "{needle}: the blob is there");
    }
    let unknown = SpliceBlobRequest { chunking_function: 9, ..splice(&blob, &pieces) };
    refused(client(&server).splice_blob(unknown).await, Code::InvalidArgument, "chunking function 9");
    let nameless = register(&blob, &[&pieces])
        .into_iter()
        .map(|first| RegisterChunkMappingRequest { blob_digest: None, ..first });
    let answer = client(&server).register_chunk_mapping(stream::iter(nameless.collect::<Vec<_>>())).await;
    refused(answer, Code::InvalidArgument, "blob_digest");
    let answer = client(&server).register_chunk_mapping(stream::empty()).await;
    refused(answer, Code::InvalidArgument, "first message");
    server.assert_alive().await;
}

#[tokio::test]
async fn lists_that_are_too_long_are_refused() {
    let server = server().await;
    let piece = digest_to_wire(server.keep("x").await);
    let page = vec![piece; 100_000];
    let blob = digest_to_wire(digest(&vec![b'x'; 600_000]));
    let requests = register(&blob, &[&page[..]; 6]);
    let answer = client(&server).register_chunk_mapping(stream::iter(requests)).await;
    refused(answer, Code::ResourceExhausted, "at most 500000");

    let blob = digest_to_wire(digest(&vec![b'x'; 100_000]));
    client(&server).register_chunk_mapping(stream::iter(register(&blob, &[&page]))).await.unwrap();
    let answer = client(&server).split_blob(split(&blob, 0)).await;
    refused(answer, Code::ResourceExhausted, "GetChunkMapping");
    assert_eq!(mapping(&server, get(&blob, 0)).await.unwrap().1, page);
}

#[tokio::test]
async fn capabilities_tell_how_blobs_are_cut() {
    let request = || reapi::GetCapabilitiesRequest::default();
    let server = server().await;
    let mut capabilities = CapabilitiesClient::new(server.channel.clone());
    let told = capabilities.get_capabilities(request()).await.unwrap().into_inner();
    let cache = told.cache_capabilities.unwrap();
    assert!(cache.split_blob_support && cache.splice_blob_support);
    let average = CHUNKING.fast_cdc_2020.average;
    let fast = FastCdc2020Params { avg_chunk_size_bytes: average, seed: 0 };
    assert_eq!(cache.fast_cdc_2020_params, Some(fast));
    let rep_max = CHUNKING.rep_max_cdc;
    let rep_max =
        RepMaxCdcParams { min_chunk_size_bytes: rep_max.minimum, horizon_size_bytes: rep_max.horizon };
    assert_eq!(cache.rep_max_cdc_params, Some(rep_max));
    assert_eq!(told.high_api_version.unwrap().minor, 13);
}

#[tokio::test]
async fn a_server_without_chunks_says_so() {
    let server = server_without_chunks().await;
    let mut capabilities = CapabilitiesClient::new(server.channel.clone());
    let request = reapi::GetCapabilitiesRequest::default();
    let told = capabilities.get_capabilities(request).await.unwrap().into_inner();
    let cache = told.cache_capabilities.unwrap();
    assert!(!cache.split_blob_support && !cache.splice_blob_support);
    assert_eq!((cache.fast_cdc_2020_params, cache.rep_max_cdc_params), (None, None));
    assert_eq!(told.high_api_version.unwrap().minor, 11);

    let blob = digest_to_wire(server.keep("abc").await);
    let needle = "does not keep blobs as chunks";
    let code = Code::Unimplemented;
    refused(client(&server).split_blob(split(&blob, 0)).await, code, needle);
    refused(mapping(&server, get(&blob, 0)).await, code, needle);
    refused(client(&server).splice_blob(splice(&blob, &[])).await, code, needle);
    let requests = stream::iter(register(&blob, &[&[]]));
    refused(client(&server).register_chunk_mapping(requests).await, code, needle);
}
