//! The way to the threads on which files are read and written and content is hashed, off the reactor.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use mortar_model::{ByteStream, Error, Kind, Result};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::task::JoinHandle;

/// How many bytes go to a blocking thread, or come from one, at a time. A stream holds two such pieces at most; a
/// larger piece would make many streams expensive, a smaller one make hops between threads felt.
pub(crate) const PIECE: usize = 256 * 1024;

/// Runs `work` on a thread that may block. It begins at once and runs to its end even if the answer is dropped.
pub(crate) fn hop<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Hop<T> {
    Hop(tokio::task::spawn_blocking(work))
}

/// Work on its way.
pub(crate) struct Hop<T>(JoinHandle<Result<T>>);

impl<T> Future for Hop<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll_unpin(context)) {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                Err(Error::internal("a storage thread panicked").with_source(error))
            }
            Err(_) => Err(Error::new(Kind::Unavailable {
                message: "the server is shutting down".into(),
                retry_after: None,
            })),
        })
    }
}

/// Collects from a stream until there is a piece worth a hop. Empty at the stream's end.
pub(crate) async fn gather(stream: &mut ByteStream) -> Result<Vec<Bytes>> {
    let (mut pieces, mut length) = (Vec::new(), 0);
    while length < PIECE {
        match stream.next().await {
            Some(Ok(chunk)) if chunk.is_empty() => {}
            Some(Ok(chunk)) => {
                length += chunk.len();
                pieces.push(chunk);
            }
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    Ok(pieces)
}
