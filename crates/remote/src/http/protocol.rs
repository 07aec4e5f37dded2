//! Which version of HTTP an origin speaks, and how that is found out where no handshake tells it.
//!
//! Over plain TCP, a client that knows no better opens with the preface of HTTP/2 and waits for what comes back before it
//! sends a request. A server of HTTP/2 opens with a SETTINGS frame. A server of HTTP/1.1 finds a request line with a method
//! that nobody has (`PRI`, reserved for this), which it refuses; no request of ours was in it.

use mortar_model::{Error, Result};
use std::{
    fmt, io,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One request at a time on a connection.
    Http1,
    /// Many requests on one connection.
    Http2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        })
    }
}

/// As ALPN names it: the form to keep it in.
impl FromStr for Protocol {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "http/1.1" => Ok(Self::Http1),
            "h2" => Ok(Self::Http2),
            _ => Err(Error::invalid(
                "protocol",
                format!("`{name}` is no protocol; expected `h2` or `http/1.1`"),
            )),
        }
    }
}

/// The head of a frame.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;

/// A connection that tells, once, whether what comes first is a SETTINGS frame.
pub(super) struct Watched<S> {
    inner: S,
    seen: Vec<u8>,
    verdict: Option<oneshot::Sender<bool>>,
}

impl<S> Watched<S> {
    /// The connection, and what will be told: false also where nothing came before the end.
    pub(super) fn new(inner: S) -> (Self, oneshot::Receiver<bool>) {
        let (sender, verdict) = oneshot::channel();
        (Self { inner, seen: Vec::with_capacity(HEAD), verdict: Some(sender) }, verdict)
    }

    fn look(&mut self, new: &[u8]) {
        let room = HEAD - self.seen.len();
        self.seen.extend_from_slice(&new[..new.len().min(room)]);
        let is_enough = self.seen.len() == HEAD || new.is_empty();
        if let Some(verdict) = self.verdict.take_if(|_| is_enough) {
            // Nobody may be waiting any more.
            let _ = verdict.send(is_settings(&self.seen));
        }
    }
}

fn is_settings(head: &[u8]) -> bool {
    head.len() == HEAD && head[0] == 0 && head[3] == SETTINGS && head[5..] == [0; 4]
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(task, buffer))?;
        if self.verdict.is_some() {
            self.look(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(task)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_comes_first_tells() {
        for (bytes, expected) in [
            (&b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"[..], true),
            (b"\0\0\0\x04\0\0\0\0\0", true),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", false),
            // Another frame, and one of a stream.
            (b"\0\0\x08\x06\0\0\0\0\0", false),
            (b"\0\0\0\x04\0\0\0\0\x01", false),
            (b"\0\0\0\x04\0\0", false),
            (b"", false),
        ] {
            let (near, mut far) = tokio::io::duplex(4);
            let (mut watched, verdict) = Watched::new(near);
            let sent = tokio::spawn(async move { far.write_all(bytes).await.unwrap() });
            let mut read = Vec::new();
            watched.read_to_end(&mut read).await.unwrap();
            sent.await.unwrap();
            assert_eq!((verdict.await.unwrap(), read.as_slice()), (expected, bytes));
        }
    }

    #[test]
    fn names() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            assert_eq!(protocol.to_string().parse::<Protocol>().unwrap(), protocol);
        }
        assert!("spdy".parse::<Protocol>().is_err());
    }
}
