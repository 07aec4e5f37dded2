//! One request and its answer: addressed as the connection's version of HTTP wants it, sent, waited for within bounds, and
//! read to its end so that the connection can serve again.

use super::{Inner, connections::Lease, dial::Outgoing, status::refusal};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, request};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::TrySendError,
};
use mortar_model::{ByteStream, Context, Error, Kind, Result};
use parking_lot::Mutex;
use std::{future::Future, pin::pin, sync::Arc, time::Instant};

/// Connections that may turn out to be dead before a request is given up.
const DEAD: usize = 3;
/// Of an answer that nobody wants, so much is read for the sake of its connection.
const DREGS: usize = 64 << 10;

/// A request that can be sent again.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) content: Option<Bytes>,
}

impl Ask {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: HeaderMap::new(), content: None }
    }
}

/// The head of an answer, and what comes after it.
pub(super) struct Answer {
    /// What was asked, for people.
    what: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// Absent once the answer has been read to its end.
    lease: Option<Lease>,
}

/// A request that got no answer.
struct Lost {
    error: Error,
    /// Nothing of it was sent.
    unsent: Option<Request<Outgoing>>,
    /// The connection broke before the answer began.
    broken: bool,
}

impl Inner {
    /// The answer to a request, whatever it says. A connection that died while nobody used it is no failure.
    pub(super) async fn ask(&self, context: &Context, ask: &Ask) -> Result<Answer> {
        let mut dead = 0;
        loop {
            let body = match &ask.content {
                Some(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
                None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            };
            let lease = self.lease(context).await?;
            let used = lease.was_used();
            let request = self.request(ask, ask.content.as_ref().map(|bytes| bytes.len() as u64), body);
            match self.exchange(context, lease, request, &Progress::default()).await {
                Ok(answer) => return Ok(answer),
                Err(lost) if dead < DEAD && (lost.unsent.is_some() || used && lost.broken) => dead += 1,
                Err(lost) => return Err(lost.error),
            }
        }
    }

    /// As `ask`, with content that comes once: repeated only while nothing of it was sent.
    pub(super) async fn send(
        &self,
        context: &Context,
        ask: &Ask,
        length: u64,
        content: ByteStream,
    ) -> Result<Answer> {
        let (progress, failure) = (Progress::default(), Arc::new(Mutex::new(None)));
        let (touched, failed) = (progress.clone(), failure.clone());
        // hyper takes any error; the one of the content is the caller's.
        let content =
            content.inspect_ok(move |_| touched.touch()).map_ok(Frame::data).map_err(move |error| {
                *failed.lock() = Some(error);
                Error::internal("the content of an upload failed")
            });
        let mut request = self.request(ask, Some(length), StreamBody::new(content).boxed_unsync());
        let mut dead = 0;
        loop {
            let lease = self.lease(context).await?;
            let outcome = self.exchange(context, lease, request, &progress).await;
            if let Some(error) = failure.lock().take() {
                return Err(error);
            }
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(Lost { unsent: Some(unsent), .. }) if dead < DEAD => (request, dead) = (unsent, dead + 1),
                Err(lost) => return Err(lost.error),
            }
        }
    }

    async fn lease(&self, context: &Context) -> Result<Lease> {
        let lease = self.connections.lease();
        match context.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), lease).await {
                Ok(lease) => lease,
                Err(_) => Err(self.too_late()),
            },
            None => lease.await,
        }
    }

    fn request(&self, ask: &Ask, length: Option<u64>, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::new(body);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.path.parse().expect("a path of an address, an instance and a hash is one");
        let headers = request.headers_mut();
        headers.extend(ask.headers.clone());
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("mortar/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        if let Some(authorization) = self.address.authorization() {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn exchange(
        &self,
        context: &Context,
        mut lease: Lease,
        request: Request<Outgoing>,
        progress: &Progress,
    ) -> Result<Answer, Lost> {
        let (mut head, body) = request.into_parts();
        let what = format!("`{} {}{}`", head.method, self.address.origin(), head.uri.path());
        self.address_to(&lease, &mut head);
        let request = Request::from_parts(head, body);
        progress.touch();
        let outcome = match &mut lease {
            Lease::One(alone) => {
                self.patient(context, progress, alone.sender.try_send_request(request)).await
            }
            Lease::Many(share) => {
                self.patient(context, progress, share.sender.try_send_request(request)).await
            }
        };
        match outcome {
            Ok(Ok(response)) => {
                self.connections.answered();
                let (head, body) = response.into_parts();
                Ok(Answer { what, status: head.status, headers: head.headers, body, lease: Some(lease) })
            }
            Ok(Err(failed)) => {
                self.connections.failed();
                Err(self.lost(&what, failed))
            }
            Err(error) => {
                self.connections.failed();
                Err(Lost { error, unsent: None, broken: false })
            }
        }
    }

    fn lost(&self, what: &str, mut failed: TrySendError<Request<Outgoing>>) -> Lost {
        let unsent = failed.take_message().map(|mut request| {
            // As it was before it was addressed.
            let path = request.uri().path().parse::<Uri>();
            *request.uri_mut() = path.expect("the path of a request is one");
            request
        });
        let error = failed.into_error();
        let message = format!("{what}: the connection failed before the answer: {}", innermost(&error));
        Lost { error: Error::new(Kind::Unavailable { message, retry_after: None }), unsent, broken: true }
    }

    /// HTTP/2 wants the whole address, HTTP/1.1 the path and the host apart.
    fn address_to(&self, lease: &Lease, head: &mut request::Parts) {
        let authority = self.address.authority();
        match lease {
            Lease::One(_) => {
                let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a header value");
                head.headers.insert(header::HOST, host);
            }
            Lease::Many(_) => {
                head.headers.remove(header::HOST);
                let whole = Uri::builder().scheme(self.address.scheme()).authority(authority.clone());
                head.uri = whole.path_and_query(head.uri.path()).build().expect("its parts are valid");
            }
        }
    }

    /// What `call` gives, if something moves at least once in the idle time-out, and before the context's deadline.
    async fn patient<T>(
        &self,
        context: &Context,
        progress: &Progress,
        call: impl Future<Output = T>,
    ) -> Result<T> {
        let mut call = pin!(call);
        loop {
            let idle = progress.last() + self.options.idle_timeout;
            let until = context.deadline.map_or(idle, |deadline| deadline.min(idle));
            if let Ok(answer) = tokio::time::timeout_at(until.into(), &mut call).await {
                return Ok(answer);
            }
            let now = Instant::now();
            if context.deadline.is_some_and(|deadline| deadline <= now) {
                return Err(self.too_late());
            }
            if progress.last() + self.options.idle_timeout <= now {
                return Err(self.silent());
            }
        }
    }

    fn too_late(&self) -> Error {
        let message = format!("the cache at `{}` did not answer before the deadline", self.address);
        Error::new(Kind::DeadlineExceeded { message })
    }

    fn silent(&self) -> Error {
        let limit = self.options.idle_timeout.as_secs_f64();
        let message = format!("nothing came from the cache at `{}` for {limit:.1} s", self.address);
        Error::new(Kind::Unavailable { message, retry_after: None })
    }

    /// The next bytes of an answer; none at its end.
    pub(super) async fn chunk(&self, context: &Context, answer: &mut Answer) -> Result<Option<Bytes>> {
        loop {
            let frame = self.patient(context, &Progress::default(), answer.body.frame()).await?;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    // Trailers.
                    Err(_) => {}
                },
                Some(Err(error)) => {
                    let message = format!("{}: the answer broke off: {}", answer.what, innermost(&error));
                    return Err(Error::new(Kind::Unavailable { message, retry_after: None }));
                }
                None => {
                    if let Some(Lease::One(alone)) = answer.lease.take() {
                        alone.give_back();
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// A whole answer of at most `limit` bytes.
    pub(super) async fn whole(&self, context: &Context, answer: &mut Answer, limit: usize) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk(context, answer).await? {
            if whole.len() + chunk.len() > limit {
                let message =
                    format!("{}: the answer has more than the {limit} bytes that are taken", answer.what);
                return Err(Error::internal(message));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads what is left of an answer that nobody wants, if that is little.
    pub(super) async fn done(&self, context: &Context, mut answer: Answer) {
        // What fails here has been answered already; the connection goes.
        let _ = self.whole(context, &mut answer, DREGS).await;
    }

    /// The answer, if it is a success; what is not there is "not found", of the path.
    pub(super) async fn success(&self, context: &Context, mut answer: Answer) -> Result<Answer> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let text = self.whole(context, &mut answer, DREGS).await.unwrap_or_default();
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(Error::not_found("address", answer.what.trim_matches('`')));
        }
        Err(refusal(&answer.what, answer.status, &answer.headers, &String::from_utf8_lossy(&text)))
    }
}

impl Answer {
    /// Whether reading it to its end is less than making another connection.
    pub(super) fn is_short(&self) -> bool {
        self.body.size_hint().upper().is_some_and(|upper| upper <= DREGS as u64)
    }
}

impl Lease {
    /// Whether it may have died since it was used.
    fn was_used(&self) -> bool {
        match self {
            Lease::One(alone) => alone.was_used,
            Lease::Many(_) => true,
        }
    }
}

/// When something was last sent.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn touch(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }
}

/// The innermost reason, which is the one that people understand.
fn innermost(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}
