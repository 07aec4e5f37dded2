//! Uploads in pieces over ByteStream: each piece is a call of its own, acknowledged by what the server then has.
//!
//! For callers that resume over longer times; whole blobs are better written as such. ByteStream asks for the status of
//! an upload by its blob, which the port does not tell: uploads are known to the [`Uploads`] that opened them, and
//! one caller takes over from another only there. Elsewhere, it is the server that refuses a piece that does not follow.

use crate::{Inner, Remote, retry::Backoff};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{Blame, Context, Digest, Encoding, Error, Kind, Result, Upload, UploadId, UploadSessions};
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteRequest},
    resource::Resource,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The uploads of one caller at a server elsewhere.
#[derive(Clone)]
pub struct Uploads {
    remote: Arc<Inner>,
    known: Arc<Mutex<HashMap<UploadId, Known>>>,
}

#[derive(Clone, Copy)]
struct Known {
    digest: Digest,
    /// Counts the callers that opened it; the last one has it.
    holder: u64,
}

impl Remote {
    /// Uploads in pieces. Ids are sent as they are; the protocol asks for UUIDs.
    pub fn uploads(&self) -> Uploads {
        Uploads { remote: self.0.clone(), known: Arc::default() }
    }
}

#[async_trait]
impl UploadSessions for Uploads {
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        if encoding != Encoding::Identity {
            return Err(Error::invalid("encoding", "uploads in pieces are sent uncompressed"));
        }
        if id.0.is_empty() || id.0.contains('/') {
            return Err(Error::invalid("upload", format!("`{}` is no upload id for ByteStream", id.0)));
        }
        let holder = self.with(|known| {
            let entry = known.entry(id.clone()).or_insert(Known { digest, holder: 0 });
            *entry = Known { digest, holder: entry.holder + 1 };
            entry.holder
        });
        let name = Resource::write_name(&context.instance, &id.0, digest);
        let status = self.query(context, &name).await?;
        Ok(Box::new(Open {
            uploads: self.clone(),
            context: context.clone(),
            id: id.clone(),
            digest,
            holder,
            name,
            committed: status.map_or(0, |status| unsigned(status.committed_size)),
            is_complete: status.is_some_and(|status| status.complete),
        }))
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        let Some(known) = self.with(|known| known.get(id).copied()) else { return Ok(None) };
        let name = Resource::write_name(&context.instance, &id.0, known.digest);
        Ok(self.query(context, &name).await?.map(|status| unsigned(status.committed_size)))
    }
}

impl Uploads {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<UploadId, Known>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the server knows of an upload; none if nothing.
    async fn query(&self, context: &Context, name: &str) -> Result<Option<QueryWriteStatusResponse>> {
        let mut backoff = Backoff::new(&self.remote.options.retry, context);
        loop {
            let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
            let (mut client, lease) = self.remote.byte_stream();
            let call = client.query_write_status(self.remote.request(context, request));
            match self.remote.unary(context, lease, call).await {
                Ok(status) => return Ok(Some(status)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}

/// An upload that a caller has opened.
struct Open {
    uploads: Uploads,
    context: Context,
    id: UploadId,
    digest: Digest,
    holder: u64,
    name: String,
    committed: u64,
    /// The blob is there already: whatever else comes is of no interest.
    is_complete: bool,
}

#[async_trait]
impl Upload for Open {
    fn committed(&self) -> u64 {
        self.committed
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.check_holder()?;
        let end = self.committed + bytes.len() as u64;
        if end > self.digest.size() {
            return Err(Error::mismatch(self.digest, format!("at least {end} bytes"), Blame::Client));
        }
        while !bytes.is_empty() && !self.is_complete {
            let piece = bytes.split_to(self.uploads.remote.options.chunk.min(bytes.len()));
            self.send(piece, false).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.check_holder()?;
        if !self.is_complete {
            self.send(Bytes::new(), true).await?;
        }
        if !self.is_complete && self.committed != self.digest.size() {
            return Err(self.lost(&format!("the server was content with {} bytes", self.committed)));
        }
        let is_ours = |known: &Known| known.holder == self.holder;
        self.uploads.with(|known| {
            if known.get(&self.id).is_some_and(is_ours) {
                known.remove(&self.id);
            }
        });
        Ok(())
    }
}

impl Open {
    fn check_holder(&self) -> Result<()> {
        let holder = self.uploads.with(|known| known.get(&self.id).map(|known| known.holder));
        if holder == Some(self.holder) {
            return Ok(());
        }
        Err(self.lost("another caller has taken it over"))
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(Kind::Aborted { message: format!("upload `{}` is lost: {why}", self.id.0) })
    }

    /// Sends the next bytes until the server says that it has them. What was taken before an answer got lost is found by
    /// asking, and is not sent again.
    async fn send(&mut self, piece: Bytes, finish: bool) -> Result<()> {
        let (start, end) = (self.committed, self.committed + piece.len() as u64);
        let mut backoff = Backoff::new(&self.uploads.remote.options.retry, &self.context);
        loop {
            let skip = usize::try_from(self.committed - start).unwrap_or(usize::MAX);
            let error = match self.call(piece.slice(skip..), finish).await {
                Ok(committed) if committed == end => {
                    self.committed = end;
                    return Ok(());
                }
                Ok(committed) if committed == self.digest.size() => {
                    self.is_complete = true;
                    return Ok(());
                }
                Ok(committed) => return Err(self.lost(&format!("the server has {committed} bytes of {end}"))),
                Err(error) => error,
            };
            backoff.pause(error).await?;
            let status = self.uploads.query(&self.context, &self.name).await?.unwrap_or_default();
            self.committed = unsigned(status.committed_size);
            self.is_complete = status.complete;
            if status.complete || (self.committed == end && !finish) {
                return Ok(());
            }
            if !(start..=end).contains(&self.committed) {
                return Err(self.lost(&format!("the server has {} bytes", self.committed)));
            }
        }
    }

    async fn call(&self, data: Bytes, finish_write: bool) -> Result<u64> {
        let remote = &self.uploads.remote;
        let request = WriteRequest {
            resource_name: self.name.clone(),
            write_offset: self.committed.cast_signed(),
            finish_write,
            data,
        };
        let (mut client, lease) = remote.byte_stream();
        let messages = futures::stream::iter([request]);
        let call = client.write(remote.request(&self.context, messages));
        remote.unary(&self.context, lease, call).await.map(|answer| unsigned(answer.committed_size))
    }
}

fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}
