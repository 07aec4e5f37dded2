//! A small REAPI server in this process whose calls fail as they are told, and which notes what it was asked.

mod streams;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{Blob, Context, Digest, DigestFunction};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_wire::{
    bytestream::byte_stream_server::ByteStreamServer,
    longrunning::Operation,
    reapi::{
        self, action_cache_server::*, capabilities_server::*, content_addressable_storage_server::*,
        execution_server::*,
    },
    rpc,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::Router};

/// What one call does instead of its duty.
pub enum Fault {
    /// Refuses.
    Refuse(Status),
    /// Does this many bytes of the work, then breaks.
    Break(usize),
    /// Does this many bytes of the work, then ends as if all was well.
    EndEarly(usize),
    /// Sends wrong bytes.
    Corrupt,
    /// Sends a byte too many.
    TooMuch,
    /// Says that it has enough.
    Enough,
    /// Plays these operations, then ends the stream, well or not.
    Play(Vec<Operation>, Option<Status>),
    /// Answers never.
    Hang,
}

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

#[derive(Default)]
pub struct State {
    pub blobs: HashMap<Digest, Bytes>,
    /// Bytes committed, by resource name.
    pub uploads: HashMap<String, Vec<u8>>,
    /// Where the last call of a compressed upload is, by the protocol's sum of content and frames.
    pub on_stream: i64,
    pub results: HashMap<String, reapi::ActionResult>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    /// Calls as they came.
    pub log: Vec<String>,
    pub max_batch: i64,
    /// It takes and gives zstd.
    pub zstd: bool,
    /// What is told as committed at the end of a compressed upload, if not the bytes on the stream.
    pub zstd_committed: Option<i64>,
    /// It promises a lease of so many seconds.
    pub lease: Option<u64>,
    /// It waits so many milliseconds for inputs that follow.
    pub inputs_follow: Option<u64>,
    /// What Execute said of inputs that follow.
    pub followed: Vec<Option<String>>,
    /// What Execute asked to be brought along.
    pub inline: Vec<(bool, bool, Vec<String>)>,
    pub metadata: Option<mortar_model::RequestMetadata>,
}

#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<State>>);

/// Options that make tests quick.
pub fn options() -> Options {
    let retry =
        Retry { attempts: 4, first_wait: Duration::from_millis(2), longest_wait: Duration::from_millis(20) };
    Options { retry, chunk: 1000, idle_timeout: Duration::from_millis(200), ..Options::default() }
}

pub fn context() -> Context {
    Context::internal()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// Bytes that do not repeat soon, and their digest.
pub fn content(size: usize) -> (Digest, Bytes) {
    let bytes: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
    (digest(&bytes), bytes.into())
}

/// The same content as a stream of pieces.
pub fn streamed(bytes: &Bytes, piece: usize) -> Blob {
    let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Blob::stream(bytes.len() as u64, futures::stream::iter(pieces))
}

impl Fake {
    /// The next calls of `method` fail like this, one each.
    pub fn fail(&self, method: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().faults.entry(method).or_default().extend(faults);
    }

    pub fn keep(&self, digest: Digest, bytes: Bytes) {
        self.0.lock().blobs.insert(digest, bytes);
    }

    pub fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }

    fn next(&self, method: &'static str, note: impl std::fmt::Display) -> Option<Fault> {
        let mut state = self.0.lock();
        state.log.push(format!("{method} {note}").trim_end().to_owned());
        state.faults.get_mut(method)?.pop_front()
    }

    /// Refuses or hangs where the script says no more than that.
    async fn simple(&self, method: &'static str, note: impl std::fmt::Display) -> Result<(), Status> {
        match self.next(method, note) {
            Some(Fault::Refuse(status)) => Err(status),
            Some(Fault::Hang) => futures::future::pending().await,
            _ => Ok(()),
        }
    }

    pub fn router(&self) -> Router {
        tonic::transport::Server::builder()
            .add_service(CapabilitiesServer::new(self.clone()))
            .add_service(ContentAddressableStorageServer::new(self.clone()))
            .add_service(ByteStreamServer::new(self.clone()))
            .add_service(ActionCacheServer::new(self.clone()))
            .add_service(ExecutionServer::new(self.clone()))
    }

    /// Serves on a port of its own in this runtime.
    pub async fn serve(&self) -> Remote {
        self.serve_with(options()).await
    }

    pub async fn serve_with(&self, options: Options) -> Remote {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("grpc://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(self.router().serve_with_incoming(incoming));
        Endpoint::connect(&uri, options).unwrap()
    }
}

fn parsed(wire: Option<reapi::Digest>) -> Digest {
    let wire = wire.unwrap();
    Digest::parse(DigestFunction::Sha256, &wire.hash, wire.size_bytes).unwrap()
}

fn status(code: tonic::Code) -> Option<rpc::Status> {
    Some(rpc::Status { code: code as i32, message: "as scripted".into(), details: vec![] })
}

#[tonic::async_trait]
impl Capabilities for Fake {
    async fn get_capabilities(
        &self,
        _: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        self.simple("GetCapabilities", "").await?;
        let state = self.0.lock();
        let compressors = if state.zstd { vec![ZSTD] } else { vec![] };
        let cache = reapi::CacheCapabilities {
            digest_functions: vec![1, 9, 3],
            max_batch_total_size_bytes: state.max_batch,
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            ..Default::default()
        };
        let capabilities =
            reapi::ServerCapabilities { cache_capabilities: Some(cache), ..Default::default() };
        let mut answer = Response::new(capabilities);
        if let Some(lease) = state.lease {
            answer.metadata_mut().insert("mortar-lease-seconds", lease.into());
        }
        if let Some(longest) = state.inputs_follow {
            answer.metadata_mut().insert("mortar-inputs-follow", longest.into());
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Fake {
    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        self.simple("FindMissingBlobs", request.get_ref().blob_digests.len()).await?;
        let state = self.0.lock();
        let digests = request.into_inner().blob_digests.into_iter();
        let missing = digests.filter(|digest| !state.blobs.contains_key(&parsed(Some(digest.clone()))));
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests: missing.collect() }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        self.simple("BatchUpdateBlobs", request.requests.len()).await?;
        let mut state = self.0.lock();
        let answer = |mut entry: reapi::batch_update_blobs_request::Request| {
            let named = parsed(entry.digest.clone());
            if entry.compressor == ZSTD {
                state.log.push(format!("a compressed blob of {} bytes", named.size()));
                entry.data = zstd::decode_all(&entry.data[..]).unwrap().into();
            }
            let code =
                if digest(&entry.data) == named { tonic::Code::Ok } else { tonic::Code::InvalidArgument };
            state.blobs.insert(named, entry.data);
            reapi::batch_update_blobs_response::Response { digest: entry.digest, status: status(code) }
        };
        let responses = request.requests.into_iter().map(answer).collect();
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let corrupt = match self.next("BatchReadBlobs", request.digests.len()) {
            Some(Fault::Refuse(status)) => return Err(status),
            fault => matches!(fault, Some(Fault::Corrupt)),
        };
        let state = self.0.lock();
        let answer = |digest: reapi::Digest| {
            let found = state.blobs.get(&parsed(Some(digest.clone()))).cloned();
            let code = if found.is_some() { tonic::Code::Ok } else { tonic::Code::NotFound };
            let (mut data, mut compressor) = (found.unwrap_or_default(), 0);
            if state.zstd && request.acceptable_compressors.contains(&ZSTD) {
                (data, compressor) = (zstd::encode_all(&data[..], 1).unwrap().into(), ZSTD);
            }
            if corrupt {
                data = Bytes::from_static(b"corrupt");
            }
            let (digest, status) = (Some(digest), status(code));
            reapi::batch_read_blobs_response::Response { digest, data, compressor, status }
        };
        // In another order than asked, as is allowed.
        let responses = request.digests.into_iter().rev().map(answer).collect();
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses }))
    }
}

#[tonic::async_trait]
impl ActionCache for Fake {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        self.0.lock().metadata = Some(mortar_wire::metadata::from_headers(request.metadata()));
        let request = request.into_inner();
        self.simple("GetActionResult", &request.instance_name).await?;
        let key = request.action_digest.unwrap().hash;
        let found = self.0.lock().results.get(&key).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("no such result"))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let request = request.into_inner();
        self.simple("UpdateActionResult", &request.instance_name).await?;
        let result = request.action_result.unwrap();
        self.0.lock().results.insert(request.action_digest.unwrap().hash, result.clone());
        Ok(Response::new(result))
    }
}

type Operations = BoxStream<'static, Result<Operation, Status>>;

impl Fake {
    fn play(&self, method: &'static str, note: &str) -> Result<Response<Operations>, Status> {
        match self.next(method, note) {
            Some(Fault::Refuse(status)) => Err(status),
            Some(Fault::Play(operations, end)) => {
                let messages = operations.into_iter().map(Ok).chain(end.map(Err));
                Ok(Response::new(futures::stream::iter(messages).boxed()))
            }
            _ => panic!("no script for {method}"),
        }
    }
}

#[tonic::async_trait]
impl Execution for Fake {
    async fn execute(&self, request: Request<reapi::ExecuteRequest>) -> Result<Response<Operations>, Status> {
        let followed = request.metadata().get("mortar-inputs-follow");
        let followed = followed.map(|value| value.to_str().unwrap().to_owned());
        let asked = request.into_inner();
        let inline = (asked.inline_stdout, asked.inline_stderr, asked.inline_output_files);
        let mut state = self.0.lock();
        state.followed.push(followed);
        state.inline.push(inline);
        drop(state);
        self.play("Execute", "")
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<Operations>, Status> {
        self.play("WaitExecution", &request.into_inner().name)
    }
}
