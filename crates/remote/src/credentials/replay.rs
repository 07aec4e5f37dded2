//! The body of a request that can be sent a second time, as far as it is short.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tonic::{Status, body::Body};

/// What is kept of a request for a second try, which is a batch. Longer ones are taken up by who sends them.
const LIMIT: usize = 4 << 20;

/// A body that hands on what `Original` gives.
pub(super) struct Replay {
    original: Original,
    /// Which try this is. Only the last one gets anything: the connection may still be asking for the body of a try
    /// that was refused.
    number: u32,
    /// Pieces of what was kept that were sent already.
    sent: usize,
}

/// The body as it comes from the caller, and its beginning.
#[derive(Clone)]
pub(super) struct Original(Arc<Mutex<State>>);

struct State {
    body: Body,
    /// All that was sent so far; nothing once it was too much, or is not needed any more.
    kept: Option<Vec<Bytes>>,
    size: usize,
    number: u32,
    /// Who waits for more.
    waiting: Option<Waker>,
}

impl Original {
    pub(super) fn new(body: Body) -> Self {
        let state = State { body, kept: Some(Vec::new()), size: 0, number: 0, waiting: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The body from its beginning, which ends all that were given before. None if the beginning is gone.
    pub(super) fn replay(&self) -> Option<Body> {
        let (number, waiting) = {
            let mut state = self.0.lock();
            state.kept.as_ref()?;
            state.number += 1;
            (state.number, state.waiting.take())
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        Some(Body::new(Replay { original: self.clone(), number, sent: 0 }))
    }

    /// There will be no second try.
    pub(super) fn forget(&self) {
        self.0.lock().kept = None;
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let mut state = this.original.0.lock();
        if state.number != this.number {
            return Poll::Ready(None);
        }
        if let Some(piece) = state.kept.as_ref().and_then(|kept| kept.get(this.sent)) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        let polled = Pin::new(&mut state.body).poll_frame(context);
        match &polled {
            Poll::Pending => state.waiting = Some(context.waker().clone()),
            Poll::Ready(Some(Ok(frame))) => {
                this.sent += 1;
                state.keep(frame);
            }
            Poll::Ready(_) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.original.0.lock();
        let is_behind = state.kept.as_ref().is_some_and(|kept| self.sent < kept.len());
        state.number != self.number || !is_behind && state.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl State {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        // Clients send no trailers; a body with some is sent once.
        match frame.data_ref() {
            Some(data) if self.size + data.len() <= LIMIT => {
                self.size += data.len();
                kept.push(data.clone());
            }
            _ => self.kept = None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    fn body() -> (mpsc::Sender<Bytes>, Original) {
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let frames = ReceiverStream::new(receiver).map(|piece| Ok::<_, Status>(Frame::data(piece)));
        (sender, Original::new(Body::new(StreamBody::new(frames))))
    }

    async fn next(body: &mut Body) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn the_second_try_has_all_of_it_and_the_first_ends() {
        let (sender, original) = body();
        let mut first = original.replay().unwrap();
        for piece in ["a", "b"] {
            sender.send(piece.into()).await.unwrap();
            assert_eq!(next(&mut first).await.unwrap(), piece);
        }
        let mut waits = tokio::spawn(async move { next(&mut first).await });
        tokio::task::yield_now().await;
        assert!((&mut waits).now_or_never().is_none(), "there is no more yet");
        let mut second = original.replay().unwrap();
        assert_eq!(waits.await.unwrap(), None);
        sender.send("c".into()).await.unwrap();
        drop(sender);
        let mut all = Vec::new();
        while let Some(piece) = next(&mut second).await {
            all.push(piece);
        }
        assert_eq!(all.concat(), b"abc");
        assert!(second.is_end_stream() || next(&mut second).await.is_none());
    }

    #[tokio::test]
    async fn what_is_long_or_answered_is_not_kept() {
        let (sender, original) = body();
        let mut first = original.replay().unwrap();
        for _ in 0..2 {
            sender.send(vec![0; LIMIT / 2 + 1].into()).await.unwrap();
            next(&mut first).await.unwrap();
        }
        assert!(original.replay().is_none());
        sender.send("more".into()).await.unwrap();
        assert_eq!(next(&mut first).await.unwrap(), "more");
        let (_sender, original) = body();
        let _first = original.replay().unwrap();
        original.forget();
        assert!(original.replay().is_none());
    }
}
