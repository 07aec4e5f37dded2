//! Whether a blob is there, and how large it is. HTTP has no call for many blobs: each is asked for by HEAD, a bounded
//! number at a time. A server without HEAD is asked for the first byte of the blob; it may then send more than that
//! (where it knows no ranges either), which is not waited for. To call its blobs missing would send them all again and
//! again.

use super::{
    Inner, check_function,
    exchange::{Answer, Ask},
};
use crate::retry::Backoff;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mortar_model::{Context, Digest, DigestFunction, DigestSet, Result};
use std::sync::atomic::Ordering;

/// What a server tells of a blob.
pub(super) enum Presence {
    Missing,
    /// There, of this many bytes where that was told.
    There(Option<u64>),
}

impl Presence {
    /// Whether it is this blob. One of another size is the rest of an upload that failed.
    fn is(&self, digest: Digest) -> bool {
        match self {
            Self::Missing => false,
            Self::There(size) => size.is_none_or(|size| size == digest.size()),
        }
    }
}

impl Inner {
    pub(super) async fn missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let look = |digest: Digest| async move {
            check_function(digest.function())?;
            let presence = self.presence(context, &digest.hex()).await?;
            Ok((!presence.is(digest)).then_some(digest))
        };
        let looks: Vec<_> = digests.iter().filter(|digest| !digest.is_empty()).map(look).collect();
        let answers = futures::stream::iter(looks).buffer_unordered(self.options.lookups.max(1));
        answers.try_filter_map(|missing| async move { Ok(missing) }).try_collect().await
    }

    /// Whether there is a blob of this hash.
    pub(super) async fn presence(&self, context: &Context, hash: &str) -> Result<Presence> {
        let path = self.address.item(&context.instance, "cas", hash);
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            match self.look(context, &path).await {
                Ok(size) => return Ok(Presence::There(size)),
                Err(error) if error.is_not_found() => return Ok(Presence::Missing),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    /// Fails if no server answers, or one that is out of order.
    pub(super) async fn reach(&self, context: &Context) -> Result<()> {
        let empty = Digest::empty(DigestFunction::Sha256).hex();
        let ask = Ask::new(Method::GET, self.address.item(&context.instance, "cas", &empty));
        let answer = self.ask(context, &ask).await?;
        if answer.status.is_server_error() {
            return self.success(context, answer).await.map(drop);
        }
        self.done(context, answer).await;
        Ok(())
    }

    async fn look(&self, context: &Context, path: &str) -> Result<Option<u64>> {
        if !self.headless.load(Ordering::Relaxed) {
            let answer = self.ask(context, &Ask::new(Method::HEAD, path.to_owned())).await?;
            if !matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
                return self.heard(context, answer).await;
            }
            self.headless.store(true, Ordering::Relaxed);
            tracing::debug!(cache = %self.address, "the cache knows no HEAD");
            self.done(context, answer).await;
        }
        let mut ask = Ask::new(Method::GET, path.to_owned());
        ask.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.ask(context, &ask).await?;
        self.heard(context, answer).await
    }

    async fn heard(&self, context: &Context, answer: Answer) -> Result<Option<u64>> {
        let answer = self.success(context, answer).await?;
        let size = content_size(answer.status, &answer.headers);
        if answer.is_short() {
            self.done(context, answer).await;
        }
        Ok(size)
    }
}

/// The size of the whole, as far as the head of an answer tells it.
pub(super) fn content_size(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    if status == StatusCode::PARTIAL_CONTENT {
        return content_range(headers)?.1;
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where a part begins, and the size of the whole where that is told.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, whole.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (value, expected) in [
            ("bytes 0-0/100", Some((0, Some(100)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */100", None),
            ("items 0-1/2", None),
            ("bytes 0-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, HeaderValue::from_static(value));
            assert_eq!(content_range(&headers), expected, "{value}");
        }
    }
}
