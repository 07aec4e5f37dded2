//! Credentials on gRPC calls: a connection whose every call carries them, and which repeats a call once, with others,
//! when the server refuses them.
//!
//! What is refused without having been kept for a second try, or after the answer has begun, is marked; the loops that
//! repeat and resume calls (`retry`) take it up.

use super::{
    Proof,
    kept::{Held, Kept},
    replay::Original,
};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use mortar_model::Result;
use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

/// Marks a status of which the next try may be spared: other credentials are to be had.
pub(crate) const ONCE_MORE: &str = "mortar-once-more";

/// A connection whose calls carry credentials, if there are any.
#[derive(Clone, Debug)]
pub struct Authorized {
    channel: Channel,
    /// The server as credentials know it.
    origin: Uri,
    attached: Attached,
}

impl Authorized {
    pub(crate) fn new(channel: Channel, origin: Uri, attached: Attached) -> Self {
        Self { channel, origin, attached }
    }
}

/// What is kept of each source for one server.
#[derive(Clone)]
pub(crate) struct Attached(Arc<[Arc<Kept>]>);

impl Attached {
    pub(super) fn new(kept: Vec<Arc<Kept>>) -> Self {
        Self(kept.into())
    }

    /// No credentials.
    pub(crate) fn none() -> Self {
        Self::new(Vec::new())
    }

    /// What serves now, of each source.
    pub(super) async fn proofs(&self) -> Result<Carried> {
        let mut carried = Vec::with_capacity(self.0.len());
        for kept in self.0.iter() {
            carried.push((kept.clone(), kept.get().await?));
        }
        Ok(Carried(carried))
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sources of credentials", self.0.len())
    }
}

/// What one call carries.
#[derive(Clone)]
pub(super) struct Carried(Vec<(Arc<Kept>, Arc<Held>)>);

impl Carried {
    /// Of two headers of one name, that of the first source.
    pub(super) fn headers(&self, method: &Method, uri: &Uri) -> Result<HeaderMap> {
        let mut all = HeaderMap::new();
        for (_, held) in &self.0 {
            let headers = match &held.proof {
                Proof::Headers(headers) => headers.clone(),
                signature => signature.headers(method, uri)?,
            };
            let earlier: HashSet<HeaderName> = all.keys().cloned().collect();
            let mut current = None;
            for (name, value) in headers {
                // A name is told once for all its values.
                current = name.or(current);
                if let Some(name) = current.as_ref().filter(|name| !earlier.contains(*name)) {
                    all.append(name.clone(), value);
                }
            }
        }
        Ok(all)
    }

    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.0.iter().filter_map(|(_, held)| held.expires()).min()
    }

    fn worked(&self) {
        self.0.iter().for_each(|(_, held)| held.worked());
    }

    /// The server refused these. Whether others may do better.
    fn refused(&self) -> bool {
        self.0.iter().fold(false, |any, (kept, held)| kept.refuse(held) || any)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|((_, one), (_, other))| one.proof == other.proof)
    }
}

impl Service<Request<Body>> for Authorized {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, tower::BoxError>>;

    /// Always: a place in the connection is taken only when there are credentials, not held while they are fetched.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.attached.0.is_empty() {
            return send(self.channel.clone(), request).boxed();
        }
        self.clone().call_with_credentials(request).boxed()
    }
}

async fn send(mut channel: Channel, request: Request<Body>) -> Result<Response<Body>, tower::BoxError> {
    Ok(channel.ready().await?.call(request).await?)
}

impl Authorized {
    async fn call_with_credentials(self, request: Request<Body>) -> Result<Response<Body>, tower::BoxError> {
        let carried = match self.attached.proofs().await {
            Ok(carried) => carried,
            Err(error) => return Ok(mortar_wire::status::to_status(&error).into_http()),
        };
        let (head, body) = request.into_parts();
        let original = Original::new(body);
        let first = original.replay().expect("nothing was sent yet");
        let response = self.try_once(&head, first, &carried).await?;
        if !is_refusal(&response) {
            original.forget();
            carried.worked();
            return Ok(response.map(|body| Body::new(Heard { body, carried })));
        }
        if !carried.refused() {
            return Ok(response);
        }
        let Some(again) = original.replay() else { return Ok(marked(response)) };
        // Where there are no others, what the server said is what the caller hears.
        let Ok(others) = self.attached.proofs().await else { return Ok(response) };
        if others.is_same(&carried) {
            return Ok(response);
        }
        tracing::debug!(path = head.uri.path(), "credentials were refused; trying once more with others");
        let response = self.try_once(&head, again, &others).await?;
        original.forget();
        if is_refusal(&response) {
            others.refused();
            return Ok(response);
        }
        others.worked();
        Ok(response.map(|body| Body::new(Heard { body, carried: others })))
    }

    async fn try_once(
        &self,
        head: &http::request::Parts,
        body: Body,
        carried: &Carried,
    ) -> Result<Response<Body>, tower::BoxError> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers.clone();
        *request.extensions_mut() = head.extensions.clone();
        let headers = match carried.headers(&head.method, &self.absolute(&head.uri)) {
            Ok(headers) => headers,
            Err(error) => return Ok(mortar_wire::status::to_status(&error).into_http()),
        };
        for (name, value) in &headers {
            request.headers_mut().insert(name, value.clone());
        }
        send(self.channel.clone(), request).await
    }

    /// The whole address of a call, of which clients give the path.
    fn absolute(&self, uri: &Uri) -> Uri {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = uri.path_and_query().cloned();
        Uri::from_parts(parts).unwrap_or_else(|_| self.origin.clone())
    }
}

/// Whether this says that credentials are wrong: as gRPC does, or as proxies do.
fn is_refusal(response: &Response<Body>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED || says_so(response.headers())
}

fn says_so(headers: &HeaderMap) -> bool {
    headers.get(Status::GRPC_STATUS).is_some_and(|code| code == "16")
}

fn marked(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(ONCE_MORE, HeaderValue::from_static("1"));
    response
}

/// An answer whose end is listened to.
struct Heard {
    body: Body,
    carried: Carried,
}

impl http_body::Body for Heard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
            && says_so(trailers)
            && this.carried.refused()
        {
            trailers.insert(ONCE_MORE, HeaderValue::from_static("1"));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
