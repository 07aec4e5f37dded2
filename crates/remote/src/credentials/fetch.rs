//! A few small HTTP requests: token endpoints, discovery, metadata servers. One connection each; no redirects, no proxies.

use crate::tls::{self, Tls};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use mortar_model::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer.
const LARGEST: usize = 1 << 20;

/// A client of such endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetch {
    tls: Tls,
}

/// What an endpoint answered. Its body may hold secrets.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    uri: Uri,
}

impl Fetch {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls }
    }

    pub(super) async fn get(&self, uri: &Uri, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(request(Method::GET, uri, headers, Bytes::new())?).await
    }

    pub(super) async fn put(&self, uri: &Uri, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(request(Method::PUT, uri, headers, Bytes::new())?).await
    }

    /// Sends a form, which holds secrets: only over TLS or within the machine.
    pub(super) async fn post(
        &self,
        uri: &Uri,
        headers: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Result<Answer> {
        if uri.scheme_str() != Some("https") && !tls::is_loopback(uri) {
            let message = format!("`{uri}` would get secrets without TLS; expected an https address");
            return Err(Error::invalid("uri", message));
        }
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        self.send(request(Method::POST, uri, &all, encode(form).into())?).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let uri = request.uri().clone();
        match tokio::time::timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("`{uri}` has not answered within {PATIENCE:?}");
                Err(Error::new(Kind::Unavailable { message, retry_after: None }))
            }
        }
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        let uri = request.uri().clone();
        let unreachable = |error: &dyn std::fmt::Display| {
            let message = format!("`{uri}` cannot be reached: {error}");
            Error::new(Kind::Unavailable { message, retry_after: None })
        };
        let stream = tls::dial(&uri, &self.tls, tls::HTTP_1).await.map_err(|error| unreachable(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>();
        *request.uri_mut() = path.map_err(|error| unreachable(&error))?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await?;
            Ok::<_, tower::BoxError>((status, body.to_bytes()))
        };
        // The connection does its work while the exchange waits, and ends with it.
        let answered = tokio::select! {
            biased;
            answered = exchange => answered,
            ended = connection => Err(match ended {
                Ok(()) => "it closed the connection".into(),
                Err(error) => error.into(),
            }),
        };
        let (status, body) = answered.map_err(|error| unreachable(&error))?;
        Ok(Answer { status, body, uri })
    }
}

impl Answer {
    /// The body, if all went well.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let body = self.ok()?;
        // What is wrong is told by place only: the text may be a secret.
        serde_json::from_slice(body).map_err(|error| {
            let (uri, line, column) = (&self.uri, error.line(), error.column());
            Error::internal(format!("the answer of `{uri}` is wrong at line {line}, column {column}"))
        })
    }

    /// The body of a good answer; an error with what OAuth endpoints tell of theirs otherwise.
    pub(super) fn ok(&self) -> Result<&Bytes> {
        if self.status.is_success() {
            return Ok(&self.body);
        }
        let uri = &self.uri;
        let message = match self.refusal() {
            Some(refusal) => format!("`{uri}` refuses: {refusal}"),
            None => format!("`{uri}` answers {}", self.status),
        };
        Err(Error::new(match self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS {
            true => Kind::Unavailable { message, retry_after: None },
            false => Kind::Unauthenticated { message },
        }))
    }

    /// The code and description of an OAuth error.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// An error of OAuth.
#[derive(serde::Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
    #[serde(default)]
    error_description: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.error_description.as_str() {
            "" => f.write_str(&self.error),
            description => write!(f, "{}: {description}", self.error),
        }
    }
}

/// The address in `text`; `what` names it in messages.
pub(super) fn address(what: &str, text: &str) -> Result<Uri> {
    let uri = text.parse::<Uri>().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    uri.ok_or_else(|| Error::invalid("uri", format!("{what} `{text}` is no http or https address")))
}

fn request(method: Method, uri: &Uri, headers: &[(&str, &str)], body: Bytes) -> Result<Request<Full<Bytes>>> {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("mortar/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        let value = HeaderValue::from_str(value);
        let mut value = value.map_err(|_| {
            Error::invalid("headers", format!("the header `{name}` holds what no header can"))
        })?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    request.body(Full::new(body)).map_err(|error| Error::invalid("uri", format!("`{uri}`: {error}")))
}

/// A form as the body of a request.
fn encode(form: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        form.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
    pairs.join("&")
}

/// Everything but letters, digits and `-._~` as `%XX`.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut all, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(byte.into()),
            byte => all.push_str(&format!("%{byte:02X}")),
        }
        all
    })
}
