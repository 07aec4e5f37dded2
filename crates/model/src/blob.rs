//! The content of a blob on its way: consumed once, of known length, verified as it flows.

use crate::{Blame, Digest, Error, Hasher, Result};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Bytes as they come. Ends after the first error.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Content of known length.
pub struct Blob {
    length: u64,
    body: Body,
}

enum Body {
    Bytes(Bytes),
    Stream(ByteStream),
}

impl Blob {
    /// Content that is at hand.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { length: bytes.len() as u64, body: Body::Bytes(bytes) }
    }

    /// Content that will come. The stream is trusted to have this length; [`Blob::verified`] does not. Whoever reads it
    /// may ask again after its end.
    pub fn stream(length: u64, stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self { length, body: Body::Stream(stream.fuse().boxed()) }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The content, if it is at hand without waiting.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Bytes(bytes) => Some(bytes),
            Body::Stream(_) => None,
        }
    }

    /// The content as it comes.
    pub fn into_stream(self) -> ByteStream {
        match self.body {
            Body::Bytes(bytes) if bytes.is_empty() => futures::stream::empty().boxed(),
            Body::Bytes(bytes) => futures::stream::once(async move { Ok(bytes) }).boxed(),
            Body::Stream(stream) => stream,
        }
    }

    /// The content as one piece. The caller bounds the length first.
    pub async fn into_bytes(self) -> Result<Bytes> {
        match self.body {
            Body::Bytes(bytes) => Ok(bytes),
            Body::Stream(mut stream) => {
                let mut whole = BytesMut::with_capacity(usize::try_from(self.length).unwrap_or(0));
                while let Some(chunk) = stream.try_next().await? {
                    whole.extend_from_slice(&chunk);
                }
                Ok(whole.freeze())
            }
        }
    }

    /// This content, checked against `digest` as it flows. The last bytes are held back until the hash is known to
    /// match; a mismatch is an error that blames whom the content comes from.
    pub fn verified(self, digest: Digest, source: Blame) -> Result<Self> {
        if self.length != digest.size() {
            return Err(Error::mismatch(digest, format!("{} bytes", self.length), source));
        }
        match self.body {
            Body::Bytes(bytes) => {
                let actual = Digest::of(digest.function(), &bytes);
                if actual != digest {
                    return Err(Error::mismatch(digest, actual.to_string(), source));
                }
                Ok(Self::bytes(bytes))
            }
            Body::Stream(inner) => {
                let hasher = Some(Hasher::new(digest.function()));
                Ok(Self::stream(digest.size(), Verified { inner, hasher, digest, source }))
            }
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.length)
    }
}

struct Verified {
    inner: ByteStream,
    /// Absent once the stream has ended.
    hasher: Option<Hasher>,
    digest: Digest,
    source: Blame,
}

impl Verified {
    /// Takes a chunk into account; the chunk that completes the blob passes only if all of it matches.
    fn check(&mut self, chunk: Bytes) -> Result<Bytes> {
        let Some(hasher) = &mut self.hasher else { return Ok(chunk) };
        hasher.update(&chunk);
        if hasher.size() > self.digest.size() {
            let actual = format!("at least {} bytes", hasher.size());
            return Err(Error::mismatch(self.digest, actual, self.source));
        }
        if hasher.size() == self.digest.size() {
            let actual = hasher.clone().finish();
            if actual != self.digest {
                return Err(Error::mismatch(self.digest, actual.to_string(), self.source));
            }
        }
        Ok(chunk)
    }

    fn end(&mut self) -> Option<Result<Bytes>> {
        let actual = self.hasher.take()?.finish();
        (actual != self.digest).then(|| Err(Error::mismatch(self.digest, actual.to_string(), self.source)))
    }
}

impl Stream for Verified {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.hasher.is_none() {
            return Poll::Ready(None);
        }
        let item = match ready!(self.inner.poll_next_unpin(cx)) {
            Some(Ok(chunk)) => self.check(chunk),
            Some(Err(error)) => Err(error),
            None => return Poll::Ready(self.end()),
        };
        if item.is_err() {
            self.hasher = None;
        }
        Poll::Ready(Some(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DigestFunction::Sha256;

    fn streamed(length: u64, chunks: &[&'static [u8]]) -> Blob {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        Blob::stream(length, futures::stream::iter(chunks))
    }

    #[tokio::test]
    async fn matching_content_passes() {
        let digest = Digest::of(Sha256, b"hello world");
        let blob = streamed(11, &[b"hello ", b"world"]).verified(digest, Blame::Client).unwrap();
        assert_eq!(blob.into_bytes().await.unwrap(), "hello world");
    }

    #[tokio::test]
    async fn a_stream_may_be_asked_after_its_end() {
        let chunks =
            futures::stream::unfold(1, |left| async move { (left > 0).then(|| (Ok("ab".into()), left - 1)) });
        let mut stream = Blob::stream(2, chunks).into_stream();
        assert_eq!(stream.next().await.unwrap().unwrap(), "ab");
        assert!(stream.next().await.is_none() && stream.next().await.is_none());
    }

    #[tokio::test]
    async fn the_last_chunk_of_wrong_content_is_never_seen() {
        let digest = Digest::of(Sha256, b"hello world");
        let cases: [&[&'static [u8]]; 4] =
            [&[b"hello ", b"w0rld"], &[b"hello "], &[b"hello ", b"world", b"!"], &[b"hello wOrld"]];
        for chunks in cases {
            let mut stream = streamed(11, chunks).verified(digest, Blame::Server).unwrap().into_stream();
            let mut seen = BytesMut::new();
            let error = loop {
                match stream.next().await {
                    Some(Ok(chunk)) => seen.extend_from_slice(&chunk),
                    Some(Err(error)) => break error,
                    None => panic!("{chunks:?} passed"),
                }
            };
            assert_eq!(error.blame(), Blame::Server);
            assert!(seen.len() <= 11 && stream.next().await.is_none());
        }
    }

    #[test]
    fn a_wrong_length_is_refused_before_anything_flows() {
        let digest = Digest::of(Sha256, b"abc");
        assert!(Blob::bytes("ab").verified(digest, Blame::Client).is_err());
        assert!(Blob::bytes("abd").verified(digest, Blame::Client).is_err());
        assert!(Blob::bytes("abc").verified(digest, Blame::Client).is_ok());
    }
}
