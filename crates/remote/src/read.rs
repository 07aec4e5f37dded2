//! ByteStream.Read: large blobs and parts of blobs, taken up where they were when the stream breaks.

use crate::{
    Inner, Lease,
    call::wrong_content,
    compression::{Inflate, off_the_reactor},
    retry::Backoff,
};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{Blob, Context, Digest, Error, Kind, Result};
use mortar_wire::{
    bytestream::{ReadRequest, ReadResponse},
    resource::Resource,
};
use std::sync::Arc;
use tonic::Streaming;

/// Messages without content that may end a compressed stream: checksums, frames that hold nothing.
const LAST_MESSAGES: usize = 8;

impl Inner {
    /// The bytes from `offset` on. Waits for the first of them, so that a blob that is not there is an error here.
    pub(crate) async fn read_stream(
        self: &Arc<Self>,
        context: &Context,
        digest: Digest,
        offset: u64,
        length: u64,
    ) -> Result<Blob> {
        // The protocol has no limits on compressed reads: the end of a part could not be said.
        let to_the_end = offset + length == digest.size();
        let zstd = to_the_end && self.streams_zstd(context, digest).await?;
        let mut reading = Reading {
            remote: self.clone(),
            context: context.clone(),
            digest,
            zstd,
            next: offset,
            end: offset + length,
            backoff: Backoff::new(&self.options.retry, context),
            open: None,
        };
        let first = reading.chunk().await?.unwrap_or_default();
        let rest = futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.chunk().await?.map(|chunk| (chunk, reading)))
        });
        Ok(Blob::stream(length, futures::stream::once(async { Ok(first) }).chain(rest)))
    }
}

/// A read that is under way, over however many streams it takes.
struct Reading {
    remote: Arc<Inner>,
    context: Context,
    digest: Digest,
    /// The server compresses; offsets count content all the same.
    zstd: bool,
    next: u64,
    end: u64,
    backoff: Backoff,
    open: Option<Open>,
}

struct Open {
    stream: Streaming<ReadResponse>,
    /// Where the stream is zstd. Absent while a thread works with it.
    inflate: Option<Inflate>,
    _lease: Lease,
}

impl Reading {
    /// The next bytes; none at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.next == self.end {
            return self.finish().await.map(|()| None);
        }
        loop {
            match self.try_chunk().await {
                Ok(chunk) => {
                    self.next += chunk.len() as u64;
                    self.backoff.progressed();
                    return Ok(Some(chunk));
                }
                Err(error) => {
                    self.open = None;
                    self.backoff.pause(error).await?;
                }
            }
        }
    }

    async fn try_chunk(&mut self) -> Result<Bytes> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open().await?,
        };
        let chunk = loop {
            match self.content(&mut open).await? {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => break chunk,
                None => return Err(self.truncated()),
            }
        };
        if chunk.len() as u64 > self.end - self.next {
            return Err(self.too_long());
        }
        self.open = Some(open);
        Ok(chunk)
    }

    async fn open(&self) -> Result<Open> {
        let name = if self.zstd { Resource::zstd_read_name } else { Resource::read_name };
        let request = ReadRequest {
            resource_name: name(&self.context.instance, self.digest),
            read_offset: self.next.cast_signed(),
            // The end of the blob is said by 0: some servers refuse limits that reach past it.
            read_limit: if self.end == self.digest.size() { 0 } else { (self.end - self.next).cast_signed() },
        };
        let (mut client, lease) = self.remote.byte_stream();
        let call = client.read(self.remote.request(&self.context, request));
        let idle = Some(self.remote.options.idle_timeout);
        let stream =
            self.remote.timely(&self.context, idle, call).await.map_err(|error| self.named(error))?;
        let inflate = if self.zstd { Some(Inflate::new()?) } else { None };
        Ok(Open { stream: stream.into_inner(), inflate, _lease: lease })
    }

    /// The next content; none at the end of the stream.
    async fn content(&self, open: &mut Open) -> Result<Option<Bytes>> {
        let Some(mut inflate) = open.inflate.take() else { return self.message(open).await };
        if inflate.is_hungry() {
            match self.message(open).await? {
                Some(frames) => inflate.feed(frames),
                None => return Ok(None),
            }
        }
        // One byte more than there may be, to see whether there is one.
        let (digest, limit) = (self.digest, self.end - self.next + 1);
        let step = move || match inflate.step(limit) {
            Ok(content) => Ok((content, inflate)),
            Err(error) => Err(wrong_content(digest, format!("what is no zstd: {error}"))),
        };
        let (content, inflate) = off_the_reactor(step).await?;
        open.inflate = Some(inflate);
        Ok(Some(content))
    }

    async fn message(&self, open: &mut Open) -> Result<Option<Bytes>> {
        let idle = Some(self.remote.options.idle_timeout);
        let message = self.remote.timely(&self.context, idle, open.stream.message()).await;
        Ok(message.map_err(|error| self.named(error))?.map(|message| message.data))
    }

    /// Hears the stream out, so that it ends and is not broken off. All bytes are here: only more of them would be wrong.
    async fn finish(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        for _ in 0..LAST_MESSAGES {
            match self.content(&mut open).await {
                Ok(Some(more)) if more.is_empty() && self.zstd => {}
                Ok(Some(more)) if !more.is_empty() => return Err(self.too_long()),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn named(&self, error: Error) -> Error {
        if error.is_not_found() { Error::not_found("blob", self.digest) } else { error }
    }

    fn truncated(&self) -> Error {
        let (digest, next, end) = (self.digest, self.next, self.end);
        let message =
            format!("the server ended the stream of blob `{digest}` at byte {next}; expected {end}");
        Error::new(Kind::Aborted { message })
    }

    fn too_long(&self) -> Error {
        wrong_content(self.digest, format!("more than the {} bytes asked for", self.end))
    }
}
