//! Whether anybody uses the companion: calls under way, and when the last one ended.

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Counts calls. Clones count together.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<Calls>>);

struct Calls {
    under_way: usize,
    last: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Calls { under_way: 0, last: Instant::now() })))
    }
}

impl Activity {
    /// How long nobody has called; nothing while a call is under way.
    pub fn idle(&self) -> Duration {
        let calls = self.0.lock();
        if calls.under_way > 0 { Duration::ZERO } else { calls.last.elapsed() }
    }

    fn begin(&self) -> Call {
        self.0.lock().under_way += 1;
        Call(self.0.clone())
    }
}

/// A call under way.
struct Call(Arc<Mutex<Calls>>);

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.0.lock();
        calls.under_way -= 1;
        calls.last = Instant::now();
    }
}

/// Counts the calls of a router.
#[derive(Clone)]
pub struct Watched<S> {
    inner: S,
    activity: Activity,
}

impl<S> tower::Layer<S> for Activity {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, activity: self.clone() }
    }
}

impl<S, B> tower::Service<Request<B>> for Watched<S>
where
    S: tower::Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.activity.begin();
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Lasting { body, call: Some(call) }))) })
    }
}

/// A body for as long as which the call lasts.
struct Lasting {
    body: Body,
    call: Option<Call>,
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        if frame.is_none() {
            self.call = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
