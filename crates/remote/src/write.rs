//! ByteStream.Write: large blobs, resumed where the server has them when the stream breaks.
//!
//! Content at hand, or in a store, can be resumed anywhere. Content that comes as a stream is consumed once: it can be
//! tried again only as long as nothing but its first piece was taken, which covers a server that is just being restarted.
//!
//! An upload from a store that fails is taken up by the next one of the same blob, however much later.

use crate::{
    Inner, Remote,
    compression::deflated,
    retry::{Backoff, is_transient},
};
use bytes::Bytes;
use futures::TryStreamExt;
use mortar_model::{Blame, Blob, BlobStore, ByteStream, Context, Digest, Error, Kind, Range, Result};
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, WriteRequest, WriteResponse},
    resource::Resource,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

/// Uploads that failed in the midst and may be taken up again. Of more, some begin anew.
const UNFINISHED: usize = 64;

impl Remote {
    /// Writes a blob that is in a store, from which any part of it can be read again: an upload that breaks goes on where it
    /// was, also in a later call.
    pub async fn write_from(
        &self,
        context: &Context,
        digest: Digest,
        store: &Arc<dyn BlobStore>,
    ) -> Result<()> {
        if self.0.is_small(context, digest).await? {
            let blob = store.read(&Context::glance(), digest, Range::ALL).await?;
            return self.write(context, digest, blob).await;
        }
        self.0.write_stream_from(context, digest, store).await
    }
}

impl Inner {
    pub(crate) async fn write_stream(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let upload = uuid::Uuid::new_v4().to_string();
        self.write_stream_as(context, digest, Source::of(blob), &upload, false).await
    }

    async fn write_stream_from(
        &self,
        context: &Context,
        digest: Digest,
        store: &Arc<dyn BlobStore>,
    ) -> Result<()> {
        let (mut upload, is_known) = self.unfinished.take_up(context, digest);
        let source = Source::in_store(store.clone(), digest);
        let written = self.write_stream_as(context, digest, source, &upload.id, is_known).await;
        upload.is_finished = written.as_ref().err().is_none_or(|error| !may_go_on(error));
        written
    }

    async fn write_stream_as(
        &self,
        context: &Context,
        digest: Digest,
        source: Source,
        upload: &str,
        resumes: bool,
    ) -> Result<()> {
        let zstd = self.streams_zstd(context, digest).await?;
        let name = if zstd { Resource::zstd_write_name } else { Resource::write_name };
        let mut writing = Writing {
            remote: self,
            context,
            digest,
            name: name(&context.instance, upload, digest),
            zstd,
            source,
            committed: 0,
            backoff: Backoff::new(&self.options.retry, context),
        };
        writing.run(resumes).await
    }
}

/// Uploads that failed, by instance and blob.
#[derive(Default)]
pub(crate) struct Unfinished(Mutex<HashMap<(String, Digest), String>>);

/// Whether an upload that failed with this may be taken up later.
fn may_go_on(error: &Error) -> bool {
    is_transient(error)
        || matches!(error.kind(), Kind::DeadlineExceeded { .. } | Kind::Unauthenticated { .. })
}

/// An upload that is under way; unfinished again when it fails, or is dropped, before its end.
struct Uploading<'a> {
    unfinished: &'a Unfinished,
    of: (String, Digest),
    id: String,
    is_finished: bool,
}

impl Unfinished {
    /// The upload that failed before, or a new one; and whether the server may know of it.
    fn take_up(&self, context: &Context, digest: Digest) -> (Uploading<'_>, bool) {
        let of = (context.instance.to_string(), digest);
        let known = self.ids().remove(&of);
        let is_known = known.is_some();
        let id = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        (Uploading { unfinished: self, of, id, is_finished: false }, is_known)
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<(String, Digest), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Uploading<'_> {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let mut ids = self.unfinished.ids();
        if ids.len() >= UNFINISHED
            && let Some(any) = ids.keys().next().cloned()
        {
            ids.remove(&any);
        }
        ids.insert(self.of.clone(), std::mem::take(&mut self.id));
    }
}

/// An upload that is under way, over however many streams it takes.
struct Writing<'a> {
    remote: &'a Inner,
    context: &'a Context,
    digest: Digest,
    name: String,
    /// What is sent is compressed. Where an upload is taken up counts content all the same.
    zstd: bool,
    source: Source,
    /// What the server is known to have.
    committed: u64,
    backoff: Backoff,
}

impl Writing<'_> {
    async fn run(&mut self, mut resumes: bool) -> Result<()> {
        loop {
            match self.attempt(resumes).await {
                Ok(()) => return Ok(()),
                Err(error) if self.source.is_spent() => return Err(error),
                Err(error) => self.backoff.pause(error).await?,
            }
            resumes = true;
        }
    }

    async fn attempt(&mut self, resumes: bool) -> Result<()> {
        if resumes && self.source.resumes() {
            let committed = self.query().await?;
            if committed == self.digest.size() {
                // Empty-handed, but it settles whether the upload was completed.
                return self.send(committed).await;
            }
            if committed > self.committed {
                self.backoff.progressed();
            }
            self.committed = committed;
        }
        self.send(self.committed).await
    }

    /// How much the server has. One that does not know, or cannot say, has nothing.
    async fn query(&mut self) -> Result<u64> {
        let request = QueryWriteStatusRequest { resource_name: self.name.clone() };
        let (mut client, lease) = self.remote.byte_stream();
        let call = client.query_write_status(self.remote.request(self.context, request));
        match self.remote.unary(self.context, lease, call).await {
            Ok(status) => Ok(u64::try_from(status.committed_size).unwrap_or(0).min(self.digest.size())),
            Err(error) => match error.kind() {
                Kind::NotFound { .. } | Kind::Unimplemented { .. } => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Sends what there is from `offset` on. The server may have enough before it has heard all.
    async fn send(&mut self, offset: u64) -> Result<()> {
        let (sender, receiver) = mpsc::channel(1);
        let (mut client, _lease) = self.remote.byte_stream();
        let request = self.remote.request(self.context, ReceiverStream::new(receiver));
        let call = self.remote.timely(self.context, None, accepted(client.write(request), self.digest));
        let mut call = std::pin::pin!(call);
        let mut pump = Pump {
            name: self.name.clone(),
            offset,
            on_stream: offset,
            zstd: self.zstd,
            digest: self.digest,
            chunk: self.remote.options.chunk,
        };
        let answer = tokio::select! {
            biased;
            answer = &mut call => Some(answer?),
            pumped = pump.run(&mut self.source, sender) => {
                pumped?;
                None
            }
        };
        let (committed, sent_all) = match answer {
            Some(committed) => (committed, false),
            None => (call.await?, true),
        };
        if self.is_complete(committed, sent_all.then_some(pump.on_stream)) {
            return Ok(());
        }
        let message = format!("the server took {committed} bytes of blob `{}`", self.digest);
        Err(Error::new(Kind::Aborted { message }))
    }
}

impl Writing<'_> {
    /// Whether an answer says that the whole blob is there. Of compressed uploads, servers tell -1, the bytes on the
    /// stream, all of which were sent, or the size of the content.
    fn is_complete(&self, committed: i64, on_stream: Option<u64>) -> bool {
        let told = u64::try_from(committed).ok();
        told == Some(self.digest.size())
            || self.zstd && (committed == -1 || on_stream.is_some() && told == on_stream)
    }
}

/// The committed size in an answer. A blob that is already there counts as committed, whichever way the server says so.
async fn accepted(
    call: impl Future<Output = Result<Response<WriteResponse>, Status>>,
    digest: Digest,
) -> Result<i64, Status> {
    match call.await {
        Ok(answer) => Ok(answer.into_inner().committed_size),
        Err(status) if status.code() == Code::AlreadyExists => Ok(digest.size().cast_signed()),
        Err(status) => Err(status),
    }
}

/// Where content comes from.
enum Source {
    Bytes(Bytes),
    Store {
        store: Arc<dyn BlobStore>,
        digest: Digest,
        /// What is being read, and which offset comes next.
        reading: Option<(ByteStream, u64)>,
        /// The piece that is being sent in parts.
        current: Bytes,
    },
    Stream {
        stream: ByteStream,
        /// The first piece, kept for another try.
        first: Option<Bytes>,
        /// The piece that is being sent in parts.
        current: Bytes,
        /// More than the first piece was taken.
        is_spent: bool,
        /// There is no more, and the stream is not to be asked again.
        has_ended: bool,
    },
}

impl Source {
    fn of(blob: Blob) -> Self {
        match blob.as_bytes() {
            Some(bytes) => Self::Bytes(bytes.clone()),
            None => Self::Stream {
                stream: blob.into_stream(),
                first: None,
                current: Bytes::new(),
                is_spent: false,
                has_ended: false,
            },
        }
    }

    fn in_store(store: Arc<dyn BlobStore>, digest: Digest) -> Self {
        Self::Store { store, digest, reading: None, current: Bytes::new() }
    }

    fn is_spent(&self) -> bool {
        matches!(self, Self::Stream { is_spent: true, .. })
    }

    fn resumes(&self) -> bool {
        matches!(self, Self::Bytes(_) | Self::Store { .. })
    }

    /// The bytes at `offset`, at most `limit`; empty at the end.
    async fn piece(&mut self, offset: u64, limit: usize) -> Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..bytes.len().min(start.saturating_add(limit))))
            }
            Self::Store { store, digest, reading, current } => {
                let (mut stream, next) = match reading.take() {
                    Some(reading) if reading.1 == offset => reading,
                    _ => {
                        *current = Bytes::new();
                        let rest = Range { offset, limit: None };
                        (store.read(&Context::glance(), *digest, rest).await?.into_stream(), offset)
                    }
                };
                if current.is_empty() {
                    *current = filled(&mut stream).await?;
                }
                let piece = current.split_to(limit.min(current.len()));
                *reading = Some((stream, next + piece.len() as u64));
                Ok(piece)
            }
            Self::Stream { stream, first, current, is_spent, .. } => {
                if offset == 0 {
                    *current = match first {
                        Some(first) => first.clone(),
                        None => first.insert(filled(stream).await?).clone(),
                    };
                } else if current.is_empty() {
                    *is_spent = true;
                    *current = filled(stream).await?;
                }
                Ok(current.split_to(limit.min(current.len())))
            }
        }
    }

    /// Whether nothing follows what was taken. Content that is too long is wrong even if it begins right.
    async fn is_at_end(&mut self) -> Result<bool> {
        match self {
            // A store reads no more than a blob has.
            Self::Bytes(_) | Self::Store { .. } => Ok(true),
            Self::Stream { stream, current, has_ended, .. } => {
                *has_ended = *has_ended || current.is_empty() && filled(stream).await?.is_empty();
                Ok(*has_ended)
            }
        }
    }
}

/// The next piece that is not empty; empty at the end.
async fn filled(stream: &mut ByteStream) -> Result<Bytes> {
    loop {
        match stream.try_next().await? {
            Some(piece) if piece.is_empty() => {}
            piece => return Ok(piece.unwrap_or_default()),
        }
    }
}

/// Turns content into messages, as fast as they are taken.
struct Pump {
    name: String,
    /// In the content.
    offset: u64,
    /// Where the upload began, and what was sent since: the protocol adds up bytes of content and bytes of frames.
    on_stream: u64,
    zstd: bool,
    digest: Digest,
    chunk: usize,
}

impl Pump {
    async fn run(&mut self, source: &mut Source, messages: mpsc::Sender<WriteRequest>) -> Result<()> {
        loop {
            // Room first: no content is taken while the one before waits. No room ever again means that the call is
            // over, and its answer tells all.
            let Ok(room) = messages.reserve().await else { return Ok(()) };
            let data = source.piece(self.offset, self.chunk).await?;
            let end = self.offset + data.len() as u64;
            let size = self.digest.size();
            let is_too_long = end > size || end == size && !source.is_at_end().await?;
            if is_too_long || data.is_empty() && end < size {
                let actual = if is_too_long { "more bytes".to_owned() } else { format!("{end} bytes") };
                return Err(Error::mismatch(self.digest, actual, Blame::Client));
            }
            let data = if self.zstd { deflated(data).await? } else { data };
            let write_offset = self.on_stream.cast_signed();
            (self.offset, self.on_stream) = (end, self.on_stream + data.len() as u64);
            let (resource_name, finish_write) = (std::mem::take(&mut self.name), end == size);
            room.send(WriteRequest { resource_name, write_offset, finish_write, data });
            if end == size {
                return Ok(());
            }
        }
    }
}
