//! What commands write, read while they run and afterwards.

use crate::support::{Server, digest, server};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Context, Digest, Error, Kind, Result,
    session::{ExecutionId, Log, LogPiece},
};
use mortar_services::LiveLogs;
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, ReadRequest, ReadResponse, byte_stream_client::ByteStreamClient},
    digest_to_wire,
    longrunning::Operation,
    reapi::{self, execution_client::ExecutionClient},
};
use parking_lot::Mutex;
use prost::Message;
use std::time::Duration;
use tokio::sync::Notify;
use tonic::{Code, Status, Streaming};

/// A worker that has written what a test says.
#[derive(Default)]
pub struct FakeLogs {
    written: Mutex<Written>,
    more: Notify,
}

#[derive(Default)]
struct Written {
    attempt: u32,
    stdout: Vec<u8>,
    over: bool,
    refuses: bool,
    /// How often it was asked, in all.
    asked: usize,
}

impl FakeLogs {
    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.written.lock());
        self.more.notify_waiters();
    }
}

#[async_trait]
impl LiveLogs for FakeLogs {
    async fn read(
        &self,
        _: &Context,
        _: Digest,
        log: Log,
        (offset, limit): (u64, u64),
    ) -> Result<Option<(ExecutionId, LogPiece)>> {
        self.written.lock().asked += 1;
        if self.written.lock().stdout.len() as u64 <= offset {
            let _ = tokio::time::timeout(Duration::from_millis(20), self.more.notified()).await;
        }
        let written = self.written.lock();
        if written.refuses {
            return Err(Error::new(Kind::FailedPrecondition { message: "an old worker".into() }));
        }
        let bytes = if log == Log::Stdout { &written.stdout[..] } else { b"" };
        let (size, offset, limit) = (bytes.len(), offset as usize, limit as usize);
        let data = bytes.get(offset..).unwrap_or_default();
        let data = Bytes::copy_from_slice(&data[..data.len().min(limit)]);
        let piece = LogPiece { request: 0, data, size: size as u64, over: written.over };
        Ok(Some((ExecutionId(written.attempt.to_string().into()), piece)))
    }
}

/// Begins an execution: its stream, and the names of its logs.
async fn execute(server: &Server) -> (Streaming<Operation>, [String; 2]) {
    let request = reapi::ExecuteRequest {
        instance_name: "team".into(),
        action_digest: Some(digest_to_wire(digest(b"action"))),
        ..Default::default()
    };
    let mut stream =
        ExecutionClient::new(server.channel.clone()).execute(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let told = reapi::ExecuteOperationMetadata::decode(first.metadata.unwrap().value.as_slice()).unwrap();
    let id = first.name.strip_prefix("team/operations/").unwrap();
    assert_eq!(told.stdout_stream_name, format!("team/logstreams/{id}-stdout"));
    (stream, [told.stdout_stream_name, told.stderr_stream_name])
}

async fn end(server: &Server, mut stream: Streaming<Operation>) {
    server.executor.finish.notify_one();
    while stream.message().await.unwrap().is_some() {}
}

async fn read(
    server: &Server,
    name: &str,
    offset: i64,
    limit: i64,
) -> Result<Streaming<ReadResponse>, Status> {
    let request = ReadRequest { resource_name: name.into(), read_offset: offset, read_limit: limit };
    ByteStreamClient::new(server.channel.clone()).read(request).await.map(tonic::Response::into_inner)
}

async fn next(stream: &mut Streaming<ReadResponse>) -> Result<Option<Bytes>, Status> {
    Ok(stream.message().await?.map(|message| message.data))
}

async fn rest(stream: &mut Streaming<ReadResponse>) -> Result<String, Status> {
    let mut all = Vec::new();
    while let Some(data) = next(stream).await? {
        all.extend(data);
    }
    Ok(String::from_utf8(all).unwrap())
}

async fn size(server: &Server, name: &str) -> (i64, bool) {
    let request = QueryWriteStatusRequest { resource_name: name.into() };
    let mut client = ByteStreamClient::new(server.channel.clone());
    let status = client.query_write_status(request).await.unwrap().into_inner();
    (status.committed_size, status.complete)
}

#[tokio::test]
async fn what_is_written_comes_as_it_is_written_and_the_rest_from_the_result() {
    let server = server().await;
    let (stream, [stdout, stderr]) = execute(&server).await;
    server.live.change(|written| written.stdout.extend(b"begun\n"));
    let mut reading = read(&server, &stdout, 0, 0).await.unwrap();
    let mut later = read(&server, &stdout, 3, 0).await.unwrap();
    assert_eq!(next(&mut reading).await.unwrap().unwrap(), "begun\n");
    assert_eq!(next(&mut later).await.unwrap().unwrap(), "un\n");
    assert_eq!(size(&server, &stdout).await, (6, false));
    server.live.change(|written| written.stdout.extend(b"goes on\n"));
    assert_eq!(next(&mut reading).await.unwrap().unwrap(), "goes on\n");
    let mut some = read(&server, &stdout, 6, 4).await.unwrap();
    assert_eq!(rest(&mut some).await.unwrap(), "goes");

    server.live.change(|written| written.over = true);
    let whole = server.keep("begun\ngoes on\nends\n").await;
    server.executor.result.lock().stdout_digest = Some(whole);
    end(&server, stream).await;
    assert_eq!(rest(&mut reading).await.unwrap(), "ends\n");
    assert_eq!(rest(&mut later).await.unwrap(), "goes on\nends\n");
    // For a while it is there as a whole.
    assert_eq!(
        rest(&mut read(&server, &stdout, 0, 0).await.unwrap()).await.unwrap(),
        "begun\ngoes on\nends\n"
    );
    assert_eq!(rest(&mut read(&server, &stderr, 0, 0).await.unwrap()).await.unwrap(), "");
    assert_eq!(size(&server, &stdout).await, (19, true));
    let beyond = rest(&mut read(&server, &stdout, 20, 0).await.unwrap()).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
}

#[tokio::test]
async fn nothing_is_fetched_that_nobody_takes() {
    let server = server().await;
    let (_stream, [stdout, _]) = execute(&server).await;
    let length = 32 << 20;
    server.live.change(|written| written.stdout = vec![7; length]);
    let mut reading = read(&server, &stdout, 0, 0).await.unwrap();
    let mut had = next(&mut reading).await.unwrap().unwrap().len();
    // The connection takes some in advance; once that is full, nobody asks for more.
    let mut asked = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = server.live.written.lock().asked;
        if now == asked {
            break;
        }
        asked = now;
    }
    assert!(asked * (128 << 10) < length / 2, "{asked} pieces");
    while had < length {
        had += next(&mut reading).await.unwrap().unwrap().len();
    }
    assert_eq!(had, length);
}

#[tokio::test]
async fn another_attempt_is_not_mixed_with_the_first() {
    let server = server().await;
    let (_stream, [stdout, _]) = execute(&server).await;
    server.live.change(|written| written.stdout.extend(b"first"));
    let mut reading = read(&server, &stdout, 0, 0).await.unwrap();
    assert_eq!(next(&mut reading).await.unwrap().unwrap(), "first");
    server.live.change(|written| {
        (written.attempt, written.stdout) = (2, b"again".to_vec());
    });
    let refused = next(&mut reading).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("read the log again from its start"), "{refused}");
    let again = next(&mut read(&server, &stdout, 0, 0).await.unwrap()).await.unwrap().unwrap();
    assert_eq!(again, "again");
}

#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let server = server().await;
    for name in ["logstreams/none-stdout", "team/logstreams/none-stderr", "logstreams/none"] {
        let unknown = read(&server, name, 0, 0).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound, "{name}");
        assert!(unknown.message().contains("its result has them"), "{unknown}");
    }
    let (_stream, [stdout, _]) = execute(&server).await;
    assert_eq!(read(&server, &stdout, -1, 0).await.unwrap_err().code(), Code::OutOfRange);
    server.live.change(|written| written.refuses = true);
    let refused = next(&mut read(&server, &stdout, 0, 0).await.unwrap()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "an old worker"));
}

#[tokio::test]
async fn reading_keeps_nothing_alive() {
    let server = server().await;
    let (stream, [stdout, _]) = execute(&server).await;
    let mut reading = read(&server, &stdout, 0, 0).await.unwrap();
    server.live.change(|written| written.stdout.extend(b"some"));
    assert_eq!(next(&mut reading).await.unwrap().unwrap(), "some");
    drop(stream);
    let ended = next(&mut reading).await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition);
    assert!(ended.message().contains("ended without a result: nobody waits for operation"), "{ended}");
}
