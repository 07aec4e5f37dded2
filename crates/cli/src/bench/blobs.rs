//! Scenarios of the CAS: what is missing, batches, streams.

use super::{
    content::{Mint, Random},
    load::{Done, Failure, Load, Worker},
    target::{Client, Target, describe},
};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{Digest, InstanceName};
use mortar_wire::{
    bytestream::{ReadRequest, WriteRequest},
    digest_to_wire, digests_to_wire, reapi,
    resource::Resource,
};
use std::{ops::Range, sync::Arc};
use tonic::Status;

/// The size of a blob that travels in a batch, and how many do at once.
const BATCHED: (usize, usize) = (4 << 10, 100);
/// The size of a small blob on a stream.
const SMALL: usize = 64 << 10;
/// Content in one message of a stream.
const CHUNK: usize = 1 << 20;
/// Small blobs that are kept to be read, and large ones.
const KEPT: (usize, usize) = (64, 2);

type Prepared = Result<Arc<dyn Load>>;

pub(super) struct FindMissing {
    request: reapi::FindMissingBlobsRequest,
    present: Vec<reapi::Digest>,
    count: usize,
    function: mortar_model::DigestFunction,
}

/// Every second digest is of a blob that is there.
pub(super) async fn find_missing(target: &Target, count: usize) -> Prepared {
    let mint = target.mint(BATCHED.0);
    let present = keep_batched(target, &mint, batch_size(target)).await?;
    Ok(Arc::new(FindMissing::of(target, present, count)))
}

impl FindMissing {
    pub(super) fn of(target: &Target, present: Vec<Digest>, count: usize) -> Self {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: target.instance(),
            blob_digests: Vec::new(),
            digest_function: target.function(),
        };
        Self { request, present: digests_to_wire(present), count, function: target.settings.function }
    }
}

#[tonic::async_trait]
impl Load for FindMissing {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let mut request = self.request.clone();
        let digest = |index: usize| match index % 2 {
            0 => digest_to_wire(worker.random.digest(self.function)),
            _ => self.present[index % self.present.len()].clone(),
        };
        request.blob_digests = (0..self.count).map(digest).collect();
        worker.start_clock();
        worker.client.cas.find_missing_blobs(request).await?;
        Ok(Done { items: self.count as u64, bytes: 0 })
    }
}

struct BatchWrite {
    request: reapi::BatchUpdateBlobsRequest,
    mint: Mint,
    count: usize,
}

/// New blobs of 4 KiB, as many as a batch may hold but at most 100.
pub(super) async fn batch_write(target: &Target) -> Prepared {
    let mint = target.mint(BATCHED.0);
    Ok(Arc::new(BatchWrite { request: update_request(target), mint, count: batch_size(target) }))
}

#[tonic::async_trait]
impl Load for BatchWrite {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let mut request = self.request.clone();
        request.requests = entries(&self.mint, self.count, &mut worker.random).1;
        worker.start_clock();
        send_batch(&mut worker.client, request).await?;
        Ok(Done { items: self.count as u64, bytes: (self.count * BATCHED.0) as u64 })
    }
}

struct BatchRead(reapi::BatchReadBlobsRequest);

/// The same blobs of 4 KiB each time.
pub(super) async fn batch_read(target: &Target) -> Prepared {
    let mint = target.mint(BATCHED.0);
    let digests = keep_batched(target, &mint, batch_size(target)).await?;
    Ok(Arc::new(BatchRead(reapi::BatchReadBlobsRequest {
        instance_name: target.instance(),
        digests: digests_to_wire(digests),
        acceptable_compressors: Vec::new(),
        digest_function: target.function(),
    })))
}

#[tonic::async_trait]
impl Load for BatchRead {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let answer = worker.client.cas.batch_read_blobs(self.0.clone()).await?.into_inner();
        let bytes = answer.responses.iter().map(|response| response.data.len()).sum();
        let expected = self.0.digests.len() * BATCHED.0;
        complete(bytes, expected)?;
        Ok(Done { items: self.0.digests.len() as u64, bytes: bytes as u64 })
    }
}

pub(super) struct StreamWrite {
    instance: InstanceName,
    mint: Mint,
}

/// New blobs of 64 KiB.
pub(super) async fn write_small(target: &Target) -> Prepared {
    Ok(Arc::new(stream_write(target, SMALL)))
}

/// New blobs of the large size.
pub(super) async fn write_large(target: &Target) -> Prepared {
    Ok(Arc::new(stream_write(target, target.settings.large_size)))
}

pub(super) fn stream_write(target: &Target, size: usize) -> StreamWrite {
    let instance = target.settings.instance.clone();
    StreamWrite { instance, mint: target.mint(size) }
}

impl StreamWrite {
    pub(super) async fn send(&self, client: &mut Client, random: &mut Random) -> Result<Digest, Status> {
        let blob = self.mint.blob(random);
        let digest = blob.digest;
        let upload = uuid::Uuid::new_v4().to_string();
        let name = Resource::write_name(&self.instance, &upload, digest);
        let size = digest.size().cast_signed();
        let messages = pieces(blob.head.len() + blob.tail.len()).map(move |range| WriteRequest {
            resource_name: if range.start == 0 { name.clone() } else { String::new() },
            write_offset: range.start as i64,
            finish_write: range.end as i64 == size,
            data: cut(&blob.head, &blob.tail, range),
        });
        let answer = client.streams.write(futures::stream::iter(messages)).await?.into_inner();
        complete(answer.committed_size as usize, size as usize).map(|()| digest)
    }
}

#[tonic::async_trait]
impl Load for StreamWrite {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let digest = self.send(&mut worker.client, &mut worker.random).await?;
        Ok(Done { items: 1, bytes: digest.size() })
    }
}

pub(super) struct StreamRead {
    names: Vec<String>,
    size: usize,
}

impl StreamRead {
    /// Reads of one blob.
    pub(super) fn of(target: &Target, digest: Digest) -> Self {
        let name = Resource::read_name(&target.settings.instance, digest);
        Self { names: vec![name], size: digest.size() as usize }
    }
}

/// Some blobs of 64 KiB, in any order.
pub(super) async fn read_small(target: &Target) -> Prepared {
    stream_read(target, SMALL, KEPT.0).await
}

/// A blob of 64 KiB that was written just before.
pub(super) async fn read_new(target: &Target) -> Prepared {
    let (writing, filler) = (stream_write(target, SMALL), target.filler(0));
    Ok(Arc::new(ReadNew { writing, filler }))
}

struct ReadNew {
    writing: StreamWrite,
    filler: Client,
}

#[tonic::async_trait]
impl Load for ReadNew {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let digest = self.writing.send(&mut self.filler.clone(), &mut worker.random).await?;
        let name = Resource::read_name(&self.writing.instance, digest);
        worker.start_clock();
        StreamRead { names: vec![name], size: SMALL }.call(worker).await
    }
}

/// Two blobs of the large size, in any order.
pub(super) async fn read_large(target: &Target) -> Prepared {
    stream_read(target, target.settings.large_size, KEPT.1).await
}

async fn stream_read(target: &Target, size: usize, count: usize) -> Prepared {
    let (writing, mut random) = (stream_write(target, size), Random::new());
    let mut names = Vec::with_capacity(count);
    for number in 0..count {
        let digest = writing.send(&mut target.filler(number), &mut random).await;
        let digest =
            digest.map_err(|status| anyhow!(describe(&status))).context("writing what is to be read")?;
        names.push(Resource::read_name(&target.settings.instance, digest));
    }
    Ok(Arc::new(StreamRead { names, size }))
}

#[tonic::async_trait]
impl Load for StreamRead {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let resource_name = self.names[worker.random.below(self.names.len())].clone();
        let request = ReadRequest { resource_name, read_offset: 0, read_limit: 0 };
        let mut stream = worker.client.streams.read(request).await?.into_inner();
        let mut bytes = 0;
        while let Some(message) = stream.next().await {
            bytes += message?.data.len();
        }
        complete(bytes, self.size)?;
        Ok(Done { items: 1, bytes: bytes as u64 })
    }
}

/// How many blobs of a batch the server takes at once.
fn batch_size(target: &Target) -> usize {
    let (size, count) = BATCHED;
    (target.max_batch / (size + 128)).clamp(1, count)
}

fn update_request(target: &Target) -> reapi::BatchUpdateBlobsRequest {
    reapi::BatchUpdateBlobsRequest {
        instance_name: target.instance(),
        requests: Vec::new(),
        digest_function: target.function(),
    }
}

fn entries(
    mint: &Mint,
    count: usize,
    random: &mut Random,
) -> (Vec<Digest>, Vec<reapi::batch_update_blobs_request::Request>) {
    let entry = |_| {
        let blob = mint.blob(random);
        let (digest, wire) = (blob.digest, Some(digest_to_wire(blob.digest)));
        let data = blob.into_bytes();
        (digest, reapi::batch_update_blobs_request::Request { digest: wire, data, compressor: 0 })
    };
    (0..count).map(entry).unzip()
}

async fn send_batch(client: &mut Client, request: reapi::BatchUpdateBlobsRequest) -> Result<(), Status> {
    let answer = client.cas.batch_update_blobs(request).await?.into_inner();
    let mut statuses = answer.responses.into_iter().filter_map(|response| response.status);
    match statuses.find(|status| status.code != 0) {
        Some(status) => Err(Status::new(status.code.into(), status.message)),
        None => Ok(()),
    }
}

/// Writes blobs that a scenario wants to be there.
async fn keep_batched(target: &Target, mint: &Mint, count: usize) -> Result<Vec<Digest>> {
    let mut request = update_request(target);
    let (digests, requests) = entries(mint, count, &mut Random::new());
    request.requests = requests;
    let sent = send_batch(&mut target.filler(0), request).await;
    sent.map_err(|status| anyhow!(describe(&status))).context("writing what is to be found")?;
    Ok(digests)
}

/// Writes blobs that a scenario wants to be there, of any content.
pub(super) async fn keep(mut client: Client, target: &Target, blobs: Vec<Bytes>) -> Result<Vec<Digest>> {
    let mut request = update_request(target);
    let digests: Vec<_> = blobs.iter().map(|bytes| Digest::of(target.settings.function, bytes)).collect();
    let entry = |(digest, data): (&Digest, Bytes)| {
        let digest = Some(digest_to_wire(*digest));
        reapi::batch_update_blobs_request::Request { digest, data, compressor: 0 }
    };
    request.requests = digests.iter().zip(blobs).map(entry).collect();
    let sent = send_batch(&mut client, request).await;
    sent.map_err(|status| anyhow!(describe(&status))).context("writing the blobs of the actions")?;
    Ok(digests)
}

/// The messages of a stream, as ranges of its content.
fn pieces(size: usize) -> impl Iterator<Item = Range<usize>> + Send {
    (0..size.div_ceil(CHUNK)).map(move |number| number * CHUNK..size.min((number + 1) * CHUNK))
}

/// A range of a blob in two parts; only what spans both is copied.
fn cut(head: &Bytes, tail: &Bytes, range: Range<usize>) -> Bytes {
    if range.end <= head.len() {
        return head.slice(range);
    }
    let (start, end) = (range.start.max(head.len()) - head.len(), range.end - head.len());
    [&head[range.start.min(head.len())..], &tail[start..end]].concat().into()
}

fn complete(bytes: usize, expected: usize) -> Result<(), Status> {
    if bytes == expected {
        return Ok(());
    }
    Err(Status::data_loss(format!("the server answered for {bytes} bytes; expected {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_blob_exactly() {
        for size in [1, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 32, 3 * CHUNK] {
            let whole: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            let (head, tail) = whole.split_at(size.saturating_sub(64));
            let (head, tail) = (Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail));
            let parts: Vec<Bytes> = pieces(size).map(|range| cut(&head, &tail, range)).collect();
            assert!(parts.concat() == whole && parts.iter().all(|part| part.len() <= CHUNK), "{size}");
        }
    }
}
