//! Content on its way out of the store, within the budget: the same for gRPC and HTTP.

use crate::{budget::Budget, limits};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use mortar_model::{ByteStream, Result};

/// What is sent piece by piece; nothing follows an error.
pub(crate) trait Pieces: Send {
    /// The next one.
    fn piece(&mut self) -> impl Future<Output = Option<Result<Bytes>>> + Send;
}

/// The bytes of a blob, in pieces of at most [`limits::CHUNK`], each with its share of the budget.
pub(crate) struct Content {
    stream: ByteStream,
    budget: Budget,
    /// What the store gave and was not passed on yet.
    current: Bytes,
}

impl Content {
    pub(crate) fn new(stream: ByteStream, budget: Budget) -> Self {
        Self { stream, budget, current: Bytes::new() }
    }

    /// All pieces; ends after the first error.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::unfold(Some(self), |content| async move {
            let mut content = content?;
            let piece = content.piece().await?;
            let rest = piece.is_ok().then_some(content);
            Some((piece, rest))
        })
    }
}

impl Pieces for Content {
    /// It gives its share back once it was sent. The share is taken before the store is asked.
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        let mut share = self.budget.take(limits::PIECE).await;
        while self.current.is_empty() {
            match self.stream.next().await? {
                Ok(chunk) => self.current = chunk,
                Err(error) => return Some(Err(error)),
            }
        }
        let piece = self.current.split_to(self.current.len().min(limits::CHUNK));
        share.resize(piece.len());
        Some(Ok(share.attach(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, TryStreamExt};
    use mortar_model::Error;

    fn content(chunks: Vec<Result<Bytes>>, budget: &Budget) -> Content {
        Content::new(stream::iter(chunks).boxed(), budget.clone())
    }

    #[tokio::test]
    async fn large_chunks_are_cut_and_empty_ones_left_out() {
        let chunks = [0, 5, 0, limits::CHUNK + 1].map(|length| Ok(Bytes::from(vec![7; length])));
        let content = content(chunks.into(), &Budget::new(1));
        let pieces: Vec<usize> =
            content.into_stream().map_ok(|piece| piece.len()).try_collect().await.unwrap();
        assert_eq!(pieces, [5, limits::CHUNK, 1]);
    }

    #[tokio::test]
    async fn an_error_is_the_end() {
        let chunks = vec![Ok(Bytes::from("a")), Err(Error::internal("damaged")), Ok(Bytes::from("b"))];
        let pieces: Vec<_> = content(chunks, &Budget::new(100)).into_stream().collect().await;
        assert!(matches!(&pieces[..], [Ok(a), Err(_)] if a == "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_that_were_not_sent_yet_hold_up_the_next_one() {
        let budget = Budget::new(limits::PIECE + 1);
        let chunk = Bytes::from(vec![7; limits::PIECE]);
        let mut content = content(vec![Ok(chunk.clone()), Ok(chunk)], &budget);
        let first = content.piece().await.unwrap().unwrap();
        let mut second = FutureExt::boxed(content.piece());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        // At once, not out of impatience.
        let before = tokio::time::Instant::now();
        assert_eq!(second.await.unwrap().unwrap().len(), limits::PIECE);
        assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    }
}
