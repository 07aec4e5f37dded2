//! zstd over gRPC: streams both ways, batches both ways, and what the capabilities say of it.

use crate::support::{Server, compressing_server, digest, server, text};
use bytes::Bytes;
use mortar_model::Digest;
use mortar_testkit::conformance::Random;
use mortar_wire::{
    bytestream::{
        QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteRequest,
        byte_stream_client::ByteStreamClient,
    },
    digest_to_wire,
    reapi::{
        self, capabilities_client::CapabilitiesClient,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use tonic::{Code, Status};

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

fn frames(content: &[u8], level: i32) -> Bytes {
    zstd::encode_all(content, level).unwrap().into()
}

fn random(length: usize) -> (Digest, Bytes) {
    let bytes = Random::seeded(7).bytes(length);
    (digest(&bytes), bytes)
}

async fn read(server: &Server, digest: Digest, offset: usize, limit: i64) -> Result<Vec<u8>, Status> {
    let request = ReadRequest {
        resource_name: format!("compressed-blobs/zstd/{digest}"),
        read_offset: offset as i64,
        read_limit: limit,
    };
    let mut stream = ByteStreamClient::new(server.channel.clone()).read(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await? {
        bytes.extend_from_slice(&message.data);
    }
    Ok(bytes)
}

struct Upload<'a> {
    server: &'a Server,
    name: String,
}

impl<'a> Upload<'a> {
    fn new(server: &'a Server, id: &str, digest: Digest) -> Self {
        Self { server, name: format!("uploads/{id}/compressed-blobs/zstd/{digest}") }
    }

    /// Sends these pieces one after another, from `offset` on.
    async fn send(&self, offset: usize, pieces: &[&[u8]], finish: bool) -> Result<i64, Status> {
        let mut at = offset;
        let mut messages: Vec<_> = pieces
            .iter()
            .map(|piece| {
                at += piece.len();
                WriteRequest {
                    resource_name: self.name.clone(),
                    write_offset: (at - piece.len()) as i64,
                    finish_write: false,
                    data: Bytes::copy_from_slice(piece),
                }
            })
            .collect();
        messages.last_mut().unwrap().finish_write = finish;
        let mut client = ByteStreamClient::new(self.server.channel.clone());
        Ok(client.write(tokio_stream::iter(messages)).await?.into_inner().committed_size)
    }

    async fn status(&self) -> (i64, bool) {
        let request = QueryWriteStatusRequest { resource_name: self.name.clone() };
        let answer = ByteStreamClient::new(self.server.channel.clone()).query_write_status(request).await;
        let QueryWriteStatusResponse { committed_size, complete } = answer.unwrap().into_inner();
        (committed_size, complete)
    }
}

#[tokio::test]
async fn capabilities_say_what_there_is() {
    for (server, compressors, lease) in
        [(server().await, vec![], None), (compressing_server().await, vec![ZSTD], Some("10800"))]
    {
        let mut client = CapabilitiesClient::new(server.channel.clone());
        let answer = client.get_capabilities(reapi::GetCapabilitiesRequest::default()).await.unwrap();
        let told =
            answer.metadata().get("mortar-lease-seconds").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told.as_deref(), lease);
        let cache = answer.into_inner().cache_capabilities.unwrap();
        assert_eq!(cache.supported_compressors, compressors);
        assert_eq!(cache.supported_batch_update_compressors, compressors);
    }
}

#[tokio::test]
async fn blobs_are_read_as_zstd_from_any_offset_of_their_content() {
    let server = compressing_server().await;
    for (digest, content) in [text(1), text(700_000), random(700_000)] {
        server.keep(content.clone()).await;
        for offset in [0, 1, content.len() / 2, content.len()] {
            let read = read(&server, digest, offset, 0).await.unwrap();
            assert!(zstd::decode_all(&read[..]).unwrap() == content[offset.min(content.len())..]);
        }
        for (offset, limit, code, needle) in [
            (0, 1, Code::InvalidArgument, "read_limit is 1; expected 0"),
            (content.len() + 1, 0, Code::OutOfRange, "past the end"),
        ] {
            let status = read(&server, digest, offset, limit).await.unwrap_err();
            assert_eq!(status.code(), code, "{}", status.message());
            assert!(status.message().contains(needle), "{}", status.message());
        }
    }
    assert_eq!(read(&server, digest(b"absent"), 0, 0).await.unwrap_err().code(), Code::NotFound);
    let empty = read(&server, digest(b""), 0, 0).await.unwrap();
    assert!(zstd::decode_all(&empty[..]).unwrap().is_empty());
}

#[tokio::test]
async fn uploads_count_what_is_sent() {
    let server = compressing_server().await;
    for (digest, content) in [text(700_000), random(700_000)] {
        let upload = Upload::new(&server, "u", digest);
        let frames = frames(&content, 3);
        assert_eq!(upload.status().await, (0, false));
        let pieces: Vec<&[u8]> = frames.chunks(50_000).collect();
        assert_eq!(upload.send(0, &pieces, true).await.unwrap(), frames.len() as i64);
        assert!(server.has(digest).await);
        // There already: however much would have been sent.
        assert_eq!(upload.send(0, &pieces[..1], false).await.unwrap(), -1);
        assert_eq!(upload.status().await, (content.len() as i64, true));
        assert_eq!(zstd::decode_all(&read(&server, digest, 0, 0).await.unwrap()[..]).unwrap(), content);
    }
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_with_new_frames_where_its_content_stands() {
    let server = compressing_server().await;
    for (digest, content) in [text(900_000), random(900_000)] {
        let upload = Upload::new(&server, "u", digest);
        let first = frames(&content[..600_000], 1);
        assert_eq!(upload.send(0, &[&first], false).await.unwrap(), first.len() as i64);
        let (committed, complete) = upload.status().await;
        // What the store has not looked into yet is not counted.
        assert!((0..=600_000).contains(&committed) && !complete, "{committed}");
        let committed = committed as usize;
        let rest = frames(&content[committed..], 9);
        let gap = upload.send(committed + 1, &[&rest], true).await.unwrap_err();
        assert!(gap.message().contains("write_offset"), "{}", gap.message());
        let (half, end) = (rest.len() / 2, (committed + rest.len()) as i64);
        assert_eq!(upload.send(committed, &[&rest[..half], &rest[half..]], true).await.unwrap(), end);
        assert!(server.has(digest).await);
    }
}

#[tokio::test]
async fn an_upload_that_broke_off_begins_anew_if_its_client_does() {
    let server = compressing_server().await;
    let (digest, content) = text(900_000);
    let upload = Upload::new(&server, "u", digest);
    let first = frames(&content, 1);
    let half = first.len() / 2;
    assert_eq!(upload.send(0, &[&first[..half]], false).await.unwrap(), half as i64);
    let second = frames(&content, 9);
    assert_ne!(first, second);
    assert_eq!(upload.send(0, &[&second[..1000], &second[1000..]], true).await.unwrap(), second.len() as i64);
    assert!(server.has(digest).await);
}

#[tokio::test]
async fn frames_of_something_else_are_refused() {
    let server = compressing_server().await;
    let (digest, content) = text(100_000);
    let good = frames(&content, 3);
    for (what, bytes) in [
        ("the content itself", content.clone()),
        ("less content", frames(&content[1..], 3)),
        ("more content", frames(&[&content[..], b"!"].concat(), 3)),
        ("frames that are cut off", good.slice(..good.len() - 1)),
        ("nothing", Bytes::new()),
    ] {
        let status = Upload::new(&server, "u", digest).send(0, &[&bytes], true).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {}", status.message());
        assert!(!server.has(digest).await, "{what}");
    }
}

#[tokio::test]
async fn batches_of_zstd() {
    let server = compressing_server().await;
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let request = |digest: Digest, data: Bytes, compressor| reapi::batch_update_blobs_request::Request {
        digest: Some(digest_to_wire(digest)),
        data,
        compressor,
    };
    let (words, noise, short) = (text(50_000), random(50_000), text(20));
    let requests = vec![
        request(words.0, frames(&words.1, 3), ZSTD),
        request(noise.0, noise.1.clone(), 0),
        request(short.0, frames(&short.1, 3), ZSTD),
        request(digest(b"other"), frames(b"another", 3), ZSTD),
        request(digest(b"other"), Bytes::from_static(b"other"), ZSTD),
        request(digest(b"other"), Bytes::from_static(b"other"), 3),
    ];
    let update = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let responses = client.batch_update_blobs(update).await.unwrap().into_inner().responses;
    let codes: Vec<i32> = responses.iter().map(|response| response.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 0, 0, 3, 3, 3]);

    let all = [&words, &noise, &short];
    for (acceptable, compressors) in
        [(vec![], [0, 0, 0]), (vec![3, 0], [0, 0, 0]), (vec![ZSTD], [ZSTD, 0, 0])]
    {
        let read = reapi::BatchReadBlobsRequest {
            digests: all.map(|(digest, _)| digest_to_wire(*digest)).to_vec(),
            acceptable_compressors: acceptable,
            ..Default::default()
        };
        let responses = client.batch_read_blobs(read).await.unwrap().into_inner().responses;
        assert_eq!(responses.iter().map(|response| response.compressor).collect::<Vec<_>>(), compressors);
        for (response, (_, content)) in responses.iter().zip(all) {
            match response.compressor {
                0 => assert!(response.data == content),
                _ => {
                    assert!(response.data.len() < content.len());
                    assert!(zstd::decode_all(&response.data[..]).unwrap() == *content);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_batch_is_measured_by_what_it_becomes() {
    let server = compressing_server().await;
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let zeros = vec![0; 3 << 20];
    let one = reapi::batch_update_blobs_request::Request {
        digest: Some(digest_to_wire(digest(&zeros))),
        data: frames(&zeros, 3),
        compressor: ZSTD,
    };
    let update = |requests| reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let status = client.batch_update_blobs(update(vec![one.clone(), one.clone()])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("6291456 bytes in all"), "{}", status.message());
    assert!(!server.has(digest(&zeros)).await);
    client.batch_update_blobs(update(vec![one])).await.unwrap();
    assert!(server.has(digest(&zeros)).await);
}
