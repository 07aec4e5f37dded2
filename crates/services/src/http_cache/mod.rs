//! Bazel's HTTP cache, and everything that is no known path: `/ac/HASH` and `/cas/HASH` over HTTP/1.1 and HTTP/2.
//!
//! Under `/ac/`, Bazel's values are action results, shared with gRPC and checked like those. Other clients keep values
//! of their own there: they come back as they were put, to clients other than Bazel. Anything before `ac` or `cas` is
//! the instance; anything between it and the last segment is part of an opaque value's name.

mod blobs;
mod encoding;
mod range;

use crate::{Ports, budget::Budget, call, limits};
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use mortar_model::{
    ActionKey, Blame, Blob, ByteStream, Codec, Context, Digest, DigestFunction, Error, InstanceName, Kind,
    RequestMetadata, Result,
};
use mortar_wire::Protobuf;
use std::{sync::Arc, time::Duration};

/// How long an upload may bring nothing.
const BODY_SILENCE: Duration = Duration::from_secs(60);

/// The HTTP view of the ports.
pub(crate) struct HttpCache {
    ports: Ports,
    budget: Budget,
}

impl HttpCache {
    pub(crate) fn new(ports: &Ports, budget: Budget) -> Self {
        Self { ports: ports.clone(), budget }
    }

    async fn answer(&self, request: Request) -> Result<Response> {
        let Some(item) = Item::parse(request.uri().path())? else {
            return Ok(text(StatusCode::NOT_FOUND, unknown_path(request.uri().path())));
        };
        let context = context(&item, request.headers());
        match (item.space, request.method()) {
            (Space::Cas, &Method::GET | &Method::HEAD) => {
                self.get_blob(&context, &item, request.method(), request.headers()).await
            }
            (Space::Cas, &Method::PUT) => self.put_blob(&context, &item, request).await,
            (Space::Ac, &Method::GET | &Method::HEAD) => {
                self.get_value(&context, &item, request.method(), is_bazel(request.headers())).await
            }
            (Space::Ac, &Method::PUT) => self.put_value(&context, &item, request).await,
            (_, method) => Ok(not_allowed(method)),
        }
    }

    async fn get_value(
        &self,
        context: &Context,
        item: &Item,
        method: &Method,
        bazel: bool,
    ) -> Result<Response> {
        let opaque = if bazel { None } else { self.ports.values.get(context, &item.value_key()).await? };
        let value = match opaque {
            Some(value) => value,
            None => self.get_result(context, item).await?,
        };
        let length = value.len() as u64;
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(value) };
        Ok(content(length, body))
    }

    async fn get_result(&self, context: &Context, item: &Item) -> Result<Bytes> {
        let missing = || Error::not_found("value", &item.name);
        let key = item.hash().map_err(|_| missing())?;
        let result = self.ports.actions.get(context, key).await?.ok_or_else(missing)?;
        Ok(Protobuf.encode_result(&result))
    }

    async fn put_value(&self, context: &Context, item: &Item, request: Request) -> Result<Response> {
        let length = content_length(request.headers())?;
        if length > limits::MAX_VALUE {
            let message =
                format!("the value has {length} bytes; at most {} are kept under `/ac/`", limits::MAX_VALUE);
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        let bazel = is_bazel(request.headers());
        let body = self.body(request);
        let value = Blob::stream(length, body).into_bytes().await?;
        if bazel {
            let result = Protobuf.decode_result(DigestFunction::Sha256, value)?;
            self.ports.actions.put(context, item.hash()?, result).await?;
        } else {
            self.ports.values.put(context, &item.value_key(), value).await?;
        }
        Ok(text(StatusCode::OK, String::new()))
    }

    /// The request's body as it comes. A client that has fallen silent does not hold what was reserved for it.
    fn body(&self, request: Request) -> ByteStream {
        let budget = self.budget.clone();
        // Of the chunk that is being written; given back when the next one is asked for.
        let mut _share = None;
        let chunks = tokio_stream::StreamExt::timeout(request.into_body().into_data_stream(), BODY_SILENCE);
        let chunk = move |chunk: Result<Result<Bytes, axum::Error>, tokio_stream::Elapsed>| match chunk {
            Ok(chunk) => {
                _share = chunk.as_ref().ok().map(|chunk| budget.claim(chunk.len()));
                chunk.map_err(broken_body)
            }
            Err(_) => {
                let message = format!("nothing came of the request body for {} s", BODY_SILENCE.as_secs());
                Err(Error::new(Kind::Cancelled { message }))
            }
        };
        chunks.map(chunk).boxed()
    }
}

/// Answers whatever no other route took.
pub(crate) async fn handle(cache: Arc<HttpCache>, request: Request) -> Response {
    if is_grpc(request.headers()) {
        return unknown_method(request.uri().path());
    }
    match request.method().as_str() {
        // WebDAV clients look for, then make, the collections that they write to.
        "PROPFIND" => return text(StatusCode::NOT_FOUND, String::new()),
        "MKCOL" => return text(StatusCode::CREATED, String::new()),
        _ => {}
    }
    cache.answer(request).await.unwrap_or_else(|error| {
        call::log(&error);
        let status = mortar_wire::status::to_status(&error);
        text(http_status(&error), format!("{}\n", status.message()))
    })
}

/// One thing in the cache, as its path names it.
struct Item {
    instance: InstanceName,
    space: Space,
    /// All that follows `ac` or `cas`.
    name: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Space {
    Ac,
    Cas,
}

impl Item {
    /// None where the path names nothing in the cache.
    fn parse(path: &str) -> Result<Option<Self>> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let Some(at) = segments.iter().position(|segment| ["ac", "cas"].contains(segment)) else {
            return Ok(None);
        };
        let name = segments[at + 1..].join("/");
        if name.is_empty() {
            return Ok(None);
        }
        let space = if segments[at] == "ac" { Space::Ac } else { Space::Cas };
        Ok(Some(Self { instance: InstanceName::parse(&segments[..at].join("/"))?, space, name }))
    }

    fn hash(&self) -> Result<ActionKey> {
        ActionKey::parse(DigestFunction::Sha256, &self.name)
    }

    /// The key of an opaque value: the name itself where it is a hash, else the hash of it.
    fn value_key(&self) -> [u8; 32] {
        match self.hash() {
            Ok(key) => key.hash,
            Err(_) => *Digest::of(DigestFunction::Sha256, self.name.as_bytes()).hash(),
        }
    }
}

fn context(item: &Item, headers: &HeaderMap) -> Context {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (tool_name, tool_version) = agent.split_once('/').unwrap_or((agent, ""));
    let request = RequestMetadata {
        tool_name: tool_name.to_owned(),
        tool_version: tool_version.to_owned(),
        ..RequestMetadata::default()
    };
    Context { instance: item.instance.clone(), request: Arc::new(request), ..Context::default() }
}

/// Whether values under `/ac/` are action results to this client: Bazel, and clients of our own on its behalf.
fn is_bazel(headers: &HeaderMap) -> bool {
    let is_one = |agent: &[u8]| agent.starts_with(b"bazel/") || agent.starts_with(b"mortar/");
    headers.get(header::USER_AGENT).is_some_and(|value| is_one(value.as_bytes()))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn content_length(headers: &HeaderMap) -> Result<u64> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.ok_or_else(|| {
        let message = "the upload has no Content-Length; its size has to be known before it begins";
        Error::invalid(header::CONTENT_LENGTH.as_str(), message)
    })
}

fn broken_body(error: axum::Error) -> Error {
    let message = "the request body broke off before its end".to_owned();
    Error::new(Kind::Cancelled { message }).with_source(error)
}

fn http_status(error: &Error) -> StatusCode {
    match error.kind() {
        Kind::InvalidArgument { field, .. } if field == header::CONTENT_LENGTH.as_str() => {
            StatusCode::LENGTH_REQUIRED
        }
        Kind::InvalidArgument { field, .. } if field == header::CONTENT_ENCODING.as_str() => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        Kind::InvalidArgument { .. } | Kind::OutOfRange { .. } | Kind::Cancelled { .. } => {
            StatusCode::BAD_REQUEST
        }
        Kind::Mismatch { source_of_content: Blame::Client, .. } => StatusCode::BAD_REQUEST,
        Kind::NotFound { .. } => StatusCode::NOT_FOUND,
        Kind::MissingBlobs { .. } | Kind::FailedPrecondition { .. } => StatusCode::PRECONDITION_FAILED,
        Kind::ResourceExhausted { retry_after: None, .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::ResourceExhausted { retry_after: Some(_), .. } => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Unavailable { .. } | Kind::Aborted { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Kind::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
        Kind::PermissionDenied { .. } => StatusCode::FORBIDDEN,
        Kind::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
        Kind::Unimplemented { .. } => StatusCode::NOT_IMPLEMENTED,
        Kind::Mismatch { .. } | Kind::DataLoss { .. } | Kind::Io { .. } | Kind::Internal { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn content(length: u64, body: Body) -> Response {
    let mut response = octets(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// Content whose length is known only at its end.
fn octets(body: Body) -> Response {
    let mut response = Response::new(body);
    let octets = header::HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response
}

fn text(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn not_allowed(method: &Method) -> Response {
    let mut response =
        text(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not served here; GET, HEAD and PUT are\n"));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, PUT"));
    response
}

fn unknown_path(path: &str) -> String {
    format!(
        "`{path}` is nothing here.\nThe HTTP cache is at `/ac/HASH` and `/cas/HASH` (--remote_cache=http://HOST:PORT); \
         gRPC clients say grpc://HOST:PORT; the status page is `/`.\n"
    )
}

/// The answer to a gRPC method that nobody serves.
fn unknown_method(path: &str) -> Response {
    tonic::Status::unimplemented(format!("this server has no method `{path}`")).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (path, instance, is_hash) in [
            (format!("/ac/{hash}"), "", true),
            (format!("/cas/{hash}"), "", true),
            (format!("//cas/{hash}"), "", true),
            (format!("/team/one/cas/{hash}"), "team/one", true),
            (format!("/ac/b/a/7/{hash}"), "", false),
            ("/ac/.check".to_owned(), "", false),
        ] {
            let item = Item::parse(&path).unwrap().unwrap();
            assert_eq!((item.instance.as_str(), item.hash().is_ok()), (instance, is_hash), "{path}");
        }
        for path in ["/", "/ac/", "/cas", "/favicon.ico"] {
            assert!(Item::parse(path).unwrap().is_none(), "{path}");
        }
    }
}
