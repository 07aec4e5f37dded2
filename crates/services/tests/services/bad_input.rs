//! Bad input to every call: the right code, a message that helps, nothing stored, the server lives.

use crate::support::{Server, digest, server};
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient},
    digest_to_wire,
    reapi::{
        self, action_cache_client::ActionCacheClient,
        content_addressable_storage_client::ContentAddressableStorageClient,
        execution_client::ExecutionClient,
    },
};
use tonic::{Code, Status};

type Case = (&'static str, Result<(), Status>, Code, &'static str);

async fn check(server: &Server, cases: Vec<Case>) {
    for (what, answer, code, needle) in cases {
        let status = answer.err().unwrap_or_else(|| panic!("{what}: was accepted"));
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(
            status.message().contains(needle),
            "{what}: `{}` should contain `{needle}`",
            status.message()
        );
    }
    server.assert_alive().await;
}

fn hash(text: &str) -> reapi::Digest {
    reapi::Digest { hash: text.into(), size_bytes: 3 }
}

fn abc() -> reapi::Digest {
    digest_to_wire(digest(b"abc"))
}

#[tokio::test]
async fn look_ups_and_batches() {
    let server = server().await;
    let client = || ContentAddressableStorageClient::new(server.channel.clone());
    let find = async |request| client().find_missing_blobs(request).await.map(drop);
    let read = async |request| client().batch_read_blobs(request).await.map(drop);
    let update = async |request| client().batch_update_blobs(request).await.map(drop);
    let finding =
        |digest| reapi::FindMissingBlobsRequest { blob_digests: vec![digest], ..Default::default() };
    let huge = reapi::Digest { size_bytes: 5 << 20, ..abc() };
    let one = |data: Vec<u8>| reapi::batch_update_blobs_request::Request {
        digest: Some(digest_to_wire(digest(&data))),
        data: data.into(),
        compressor: 0,
    };
    let cases = vec![
        ("short hash", find(finding(hash("abc"))).await, Code::InvalidArgument, "3 characters"),
        (
            "upper case",
            find(finding(hash(&abc().hash.to_uppercase()))).await,
            Code::InvalidArgument,
            "0-9 and a-f",
        ),
        (
            "negative size",
            find(finding(reapi::Digest { size_bytes: -1, ..abc() })).await,
            Code::InvalidArgument,
            "-1",
        ),
        (
            "digest function",
            find(reapi::FindMissingBlobsRequest { digest_function: 3, ..Default::default() }).await,
            Code::InvalidArgument,
            "MD5",
        ),
        (
            "unknown digest function",
            find(reapi::FindMissingBlobsRequest { digest_function: 77, ..Default::default() }).await,
            Code::InvalidArgument,
            "77",
        ),
        (
            "instance",
            find(reapi::FindMissingBlobsRequest { instance_name: "a/blobs".into(), ..Default::default() })
                .await,
            Code::InvalidArgument,
            "keyword",
        ),
        (
            "oversized read",
            read(reapi::BatchReadBlobsRequest { digests: vec![huge], ..Default::default() }).await,
            Code::InvalidArgument,
            "4194304",
        ),
        (
            "oversized update",
            update(reapi::BatchUpdateBlobsRequest {
                requests: vec![one(vec![7; 5 << 20])],
                ..Default::default()
            })
            .await,
            Code::InvalidArgument,
            "4194304",
        ),
    ];
    check(&server, cases).await;
    assert!(!server.has(digest(&vec![7; 5 << 20])).await);
}

#[tokio::test]
async fn blobs_of_a_batch_fail_one_by_one() {
    let server = server().await;
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let request = |digest: Option<reapi::Digest>, data: &'static [u8], compressor| {
        reapi::batch_update_blobs_request::Request { digest, data: data.into(), compressor }
    };
    let requests = vec![
        request(Some(abc()), b"abd", 0),
        request(Some(reapi::Digest { size_bytes: 4, ..abc() }), b"abc", 0),
        request(None, b"abc", 0),
        request(Some(abc()), b"abc", 1),
        request(Some(abc()), b"abc", 99),
        request(Some(digest_to_wire(digest(b"good"))), b"good", 0),
    ];
    let update = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let responses = client.batch_update_blobs(update).await.unwrap().into_inner().responses;
    let statuses: Vec<_> = responses.into_iter().map(|response| response.status.unwrap()).collect();
    for (status, needle) in
        statuses.iter().zip(["expected", "expected", "absent", "compressor", "compressor"])
    {
        assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
        assert!(status.message.contains(needle), "{}", status.message);
    }
    assert_eq!(statuses[5].code, 0);
    assert!(!server.has(digest(b"abc")).await && !server.has(digest(b"abd")).await);
    assert!(server.has(digest(b"good")).await);

    let digests = vec![abc(), digest_to_wire(digest(b"good"))];
    let read = reapi::BatchReadBlobsRequest { digests, ..Default::default() };
    let responses = client.batch_read_blobs(read).await.unwrap().into_inner().responses;
    assert_eq!(responses[0].status.as_ref().unwrap().code, Code::NotFound as i32);
    assert_eq!(responses[1].data, "good");
}

#[tokio::test]
async fn streams() {
    let server = server().await;
    let kept = server.keep("abc").await;
    let client = || ByteStreamClient::new(server.channel.clone());
    let read = async |name: &str, offset, limit| {
        let request = ReadRequest { resource_name: name.into(), read_offset: offset, read_limit: limit };
        let mut stream = client().read(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok(())
    };
    let write =
        async |messages: Vec<WriteRequest>| client().write(tokio_stream::iter(messages)).await.map(drop);
    let query = async |name: &str| {
        client().query_write_status(QueryWriteStatusRequest { resource_name: name.into() }).await.map(drop)
    };
    let message = |name: &str, offset, finish, data: &'static str| WriteRequest {
        resource_name: name.into(),
        write_offset: offset,
        finish_write: finish,
        data: data.into(),
    };
    let there = format!("blobs/{kept}");
    let other = digest(b"xyz");
    let absent = format!("blobs/{other}");
    let upload = format!("uploads/u/blobs/{other}");
    let zstd = format!("compressed-blobs/zstd/{kept}");
    let cases = vec![
        ("no name", read("", 0, 0).await, Code::InvalidArgument, "names no blob"),
        ("bad hash", read("blobs/xyz/3", 0, 0).await, Code::InvalidArgument, "xyz"),
        ("no size", read(&format!("blobs/{}", kept.hex()), 0, 0).await, Code::InvalidArgument, "too early"),
        ("digest function", read("blobs/md5/abc/3", 0, 0).await, Code::InvalidArgument, "md5"),
        ("upload name", read(&upload, 0, 0).await, Code::InvalidArgument, "cannot be read"),
        (
            "unknown compressor",
            read(&zstd.replace("zstd", "lzma"), 0, 0).await,
            Code::InvalidArgument,
            "lzma",
        ),
        ("not served compressor", read(&zstd, 0, 0).await, Code::InvalidArgument, "zstd"),
        ("absent blob", read(&absent, 0, 0).await, Code::NotFound, &*Box::leak(other.hex().into_boxed_str())),
        ("past the end", read(&there, 4, 0).await, Code::OutOfRange, "offset 4"),
        ("negative offset", read(&there, -1, 0).await, Code::OutOfRange, "-1"),
        ("negative limit", read(&there, 0, -1).await, Code::OutOfRange, "-1"),
        ("empty write", write(vec![]).await, Code::InvalidArgument, "no message"),
        (
            "write to a blob",
            write(vec![message(&absent, 0, true, "xyz")]).await,
            Code::InvalidArgument,
            "uploads",
        ),
        (
            "wrong hash",
            write(vec![message(&upload, 0, true, "xyy")]).await,
            Code::InvalidArgument,
            "does not match",
        ),
        (
            "too short",
            write(vec![message(&upload, 0, true, "xy")]).await,
            Code::InvalidArgument,
            "does not match",
        ),
        (
            "too long",
            write(vec![message(&upload, 0, true, "xyzz")]).await,
            Code::InvalidArgument,
            "does not match",
        ),
        ("gap", write(vec![message(&upload, 2, true, "z")]).await, Code::InvalidArgument, "committed"),
        ("negative", write(vec![message(&upload, -2, true, "z")]).await, Code::InvalidArgument, "-2"),
        (
            "changed name",
            write(vec![message(&upload, 0, false, "x"), message("uploads/v/blobs/a/1", 1, true, "yz")]).await,
            Code::InvalidArgument,
            "changed",
        ),
        (
            "after the end",
            write(vec![message(&upload, 1, true, "yz"), message("", 3, false, "")]).await,
            Code::InvalidArgument,
            "follows",
        ),
        ("query of a blob", query(&there).await, Code::InvalidArgument, "uploads"),
    ];
    check(&server, cases).await;
    assert!(!server.has(other).await);
}

#[tokio::test]
async fn action_results() {
    let server = server().await;
    let client = || ActionCacheClient::new(server.channel.clone());
    let get = async |digest| {
        let request = reapi::GetActionResultRequest { action_digest: digest, ..Default::default() };
        client().get_action_result(request).await.map(drop)
    };
    let update = async |digest, result| {
        let request = reapi::UpdateActionResultRequest {
            action_digest: digest,
            action_result: result,
            ..Default::default()
        };
        client().update_action_result(request).await.map(drop)
    };
    let file = |path: &str, digest| {
        let file = reapi::OutputFile { path: path.into(), digest, ..Default::default() };
        Some(reapi::ActionResult { output_files: vec![file], ..Default::default() })
    };
    let directory = reapi::OutputDirectory { path: "d".into(), ..Default::default() };
    let no_tree = Some(reapi::ActionResult { output_directories: vec![directory], ..Default::default() });
    let cases = vec![
        ("no digest", get(None).await, Code::InvalidArgument, "action_digest"),
        ("bad digest", get(Some(hash("xyz"))).await, Code::InvalidArgument, "action_digest"),
        ("unknown action", get(Some(abc())).await, Code::NotFound, "was not found"),
        ("no key", update(None, file("a", Some(abc()))).await, Code::InvalidArgument, "action_digest"),
        ("no result", update(Some(abc()), None).await, Code::InvalidArgument, "action_result"),
        ("absolute", update(Some(abc()), file("/a", Some(abc()))).await, Code::InvalidArgument, "absolute"),
        (
            "escape",
            update(Some(abc()), file("a/../../b", Some(abc()))).await,
            Code::InvalidArgument,
            "a/../../b",
        ),
        ("no path", update(Some(abc()), file("", Some(abc()))).await, Code::InvalidArgument, "empty"),
        (
            "file without digest",
            update(Some(abc()), file("a", None)).await,
            Code::InvalidArgument,
            "output_files.digest",
        ),
        ("no tree", update(Some(abc()), no_tree).await, Code::InvalidArgument, "tree_digest"),
    ];
    check(&server, cases).await;
    assert_eq!(get(Some(abc())).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn executions() {
    let server = server().await;
    let client = || ExecutionClient::new(server.channel.clone());
    let execute = async |request| client().execute(request).await.map(drop);
    let request = |digest| reapi::ExecuteRequest { action_digest: digest, ..Default::default() };
    let missing = reapi::Digest { size_bytes: 404, ..abc() };
    let urgent = reapi::ExecuteRequest {
        execution_policy: Some(reapi::ExecutionPolicy { priority: 5_000 }),
        ..request(Some(abc()))
    };
    let wait =
        client().wait_execution(reapi::WaitExecutionRequest { name: "operations/x".into() }).await.map(drop);
    let cases = vec![
        ("no digest", execute(request(None)).await, Code::InvalidArgument, "action_digest"),
        ("bad digest", execute(request(Some(hash("?")))).await, Code::InvalidArgument, "action_digest"),
        ("priority", execute(urgent).await, Code::InvalidArgument, "5000"),
        (
            "missing action",
            execute(request(Some(missing))).await,
            Code::FailedPrecondition,
            "missing from the CAS",
        ),
        ("unknown operation", wait, Code::NotFound, "operations/x"),
    ];
    check(&server, cases).await;
}
