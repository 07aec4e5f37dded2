//! Reading a blob: taken up where it was when the connection breaks, by Range where the server answers 206, else by
//! skipping what is known.

use super::{
    Inner,
    exchange::{Answer, Ask},
    presence::{content_range, content_size},
};
use crate::{
    call::wrong_content,
    compression::{Inflate, off_the_reactor},
    retry::Backoff,
};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use mortar_model::{Blob, Context, Digest, Error, Kind, Result};
use std::sync::Arc;

impl Inner {
    /// The bytes from `offset` on. Waits for the first of them, so that a blob that is not there is an error here.
    pub(super) async fn download(
        self: &Arc<Self>,
        context: &Context,
        digest: Digest,
        offset: u64,
        length: u64,
    ) -> Result<Blob> {
        let mut download = Download {
            upstream: self.clone(),
            context: context.clone(),
            digest,
            next: offset,
            end: offset + length,
            backoff: Backoff::new(&self.options.retry, context),
            open: None,
        };
        let first = download.chunk().await?.unwrap_or_default();
        let rest = futures::stream::try_unfold(download, |mut download| async move {
            Ok(download.chunk().await?.map(|chunk| (chunk, download)))
        });
        Ok(Blob::stream(length, futures::stream::once(async { Ok(first) }).chain(rest)))
    }
}

/// A read that is under way, over however many requests it takes.
struct Download {
    upstream: Arc<Inner>,
    context: Context,
    digest: Digest,
    next: u64,
    end: u64,
    backoff: Backoff,
    open: Option<Open>,
}

struct Open {
    answer: Answer,
    /// Content that comes before what is wanted.
    skip: u64,
    /// Where the answer is zstd.
    inflate: Option<Inflate>,
}

impl Download {
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
        let mut chunk = loop {
            let Some(mut chunk) = self.content(&mut open).await? else { return Err(self.truncated()) };
            let skipped = usize::try_from(open.skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            open.skip -= skipped as u64;
            if !chunk.is_empty() {
                break chunk;
            }
        };
        let left = self.end - self.next;
        if chunk.len() as u64 > left {
            if self.end == self.digest.size() {
                return Err(self.too_long());
            }
            chunk.truncate(usize::try_from(left).expect("it is less than the length of the chunk"));
        }
        self.open = Some(open);
        Ok(chunk)
    }

    async fn open(&self) -> Result<Open> {
        let path = self.upstream.address.item(&self.context.instance, "cas", &self.digest.hex());
        let mut ask = Ask::new(Method::GET, path);
        let is_whole = self.next == 0 && self.end == self.digest.size();
        if !is_whole {
            let range = format!("bytes={}-{}", self.next, self.end - 1);
            ask.headers
                .insert(header::RANGE, HeaderValue::try_from(range).expect("digits are a header value"));
        } else if self.upstream.options.compression {
            ask.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("zstd"));
        }
        let answer = self.upstream.ask(&self.context, &ask).await?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(self.of_another_size(content_range_of_none(&answer)));
        }
        let answer = self.upstream.success(&self.context, answer).await.map_err(|error| self.named(error))?;
        match content_size(answer.status, &answer.headers) {
            Some(size) if size != self.digest.size() => return Err(self.of_another_size(Some(size))),
            _ => {}
        }
        let start = match answer.status {
            StatusCode::PARTIAL_CONTENT => content_range(&answer.headers).map(|(start, _)| start),
            _ => Some(0),
        };
        let skip = start.and_then(|start| self.next.checked_sub(start)).ok_or_else(|| {
            let (digest, next) = (self.digest, self.next);
            Error::internal(format!(
                "the answer holds another part of blob `{digest}` than the one from byte {next}"
            ))
        })?;
        let inflate = match answer.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => None,
            Some(b"zstd") if ask.headers.contains_key(header::ACCEPT_ENCODING) => Some(Inflate::new()?),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                let message =
                    format!("blob `{}` came in encoding `{other}`, which was not asked for", self.digest);
                return Err(Error::internal(message));
            }
        };
        Ok(Open { answer, skip, inflate })
    }

    /// The next content, perhaps empty; none at the end of the answer.
    async fn content(&self, open: &mut Open) -> Result<Option<Bytes>> {
        let Some(mut inflate) = open.inflate.take() else {
            return self.upstream.chunk(&self.context, &mut open.answer).await;
        };
        if inflate.is_hungry() {
            match self.upstream.chunk(&self.context, &mut open.answer).await? {
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

    /// Hears the answer out, so that its connection can serve again. All bytes are here: only more of them would be wrong.
    async fn finish(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.inflate.is_some() {
            self.upstream.done(&self.context, open.answer).await;
            return Ok(());
        }
        match self.upstream.chunk(&self.context, &mut open.answer).await {
            Ok(Some(_)) if self.end == self.digest.size() => Err(self.too_long()),
            _ => Ok(()),
        }
    }

    fn named(&self, error: Error) -> Error {
        if error.is_not_found() { Error::not_found("blob", self.digest) } else { error }
    }

    /// The rest of an upload that failed, or something else altogether: in any case not this blob.
    fn of_another_size(&self, size: Option<u64>) -> Error {
        let actual = size.map_or("fewer bytes".to_owned(), |size| format!("{size} bytes"));
        Error::not_found("blob", self.digest).with_source(wrong_content(self.digest, actual))
    }

    fn truncated(&self) -> Error {
        let (digest, next, end) = (self.digest, self.next, self.end);
        let message = format!("the answer with blob `{digest}` ended at byte {next}; expected {end}");
        Error::new(Kind::Aborted { message })
    }

    fn too_long(&self) -> Error {
        wrong_content(self.digest, format!("more than {} bytes", self.end))
    }
}

/// The size that a refusal of a range tells: `bytes */SIZE`.
fn content_range_of_none(answer: &Answer) -> Option<u64> {
    let value = answer.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes */")?.trim().parse().ok()
}
