//! An HTTP cache in this process that fails by script, counts its connections and notes what it was asked.

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mortar_remote::{HttpOptions, HttpUpstream, Retry};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// What a server does instead of its duty, once.
pub enum Fault {
    /// Answers this.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Sends so many bytes of the body, then breaks the connection.
    Break(usize),
    /// Says that the body has this encoding.
    Encoding(&'static str),
    /// Answers never.
    Hang,
}

/// What a server speaks.
#[derive(Clone, Copy, PartialEq)]
pub enum Speaks {
    Both,
    /// HTTP/1.1, without knowing of another.
    One,
    /// HTTP/1.1, and breaks each connection after an answer without having said so.
    OneOnce,
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, io::Error>>>;

#[derive(Default)]
pub struct State {
    pub values: HashMap<String, Bytes>,
    pub faults: VecDeque<Fault>,
    /// Method, path and range of what it was asked.
    pub log: Vec<String>,
    pub headers: Vec<HeaderMap>,
    /// Bytes of bodies that it sent.
    pub sent: usize,
    pub no_head: bool,
    pub no_range: bool,
    /// It compresses where that is welcome.
    pub zstd: bool,
}

#[derive(Clone, Default)]
pub struct Cache {
    pub state: Arc<Mutex<State>>,
    pub open: Arc<AtomicUsize>,
    pub peak: Arc<AtomicUsize>,
    pub accepted: Arc<AtomicUsize>,
    /// Requests wait until so many are there at once.
    pub gather: Arc<Mutex<Option<Arc<tokio::sync::Barrier>>>>,
}

/// Options that make tests quick.
pub fn options() -> HttpOptions {
    let retry =
        Retry { attempts: 4, first_wait: Duration::from_millis(2), longest_wait: Duration::from_millis(20) };
    HttpOptions { retry, ..HttpOptions::default() }
}

impl Cache {
    pub async fn serve(&self, speaks: Speaks) -> String {
        self.serve_with(speaks, None).await
    }

    /// Serves on a port of its own in this runtime.
    pub async fn serve_with(&self, speaks: Speaks, tls: Option<TlsAcceptor>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, cache) = (listener.local_addr().unwrap().port(), self.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(cache.clone().connection(stream, speaks, tls.clone()));
            }
        });
        format!("{scheme}://localhost:{port}")
    }

    pub async fn upstream(&self, speaks: Speaks) -> HttpUpstream {
        HttpUpstream::new(self.serve(speaks).await.parse().unwrap(), options())
    }

    async fn connection(self, stream: TcpStream, speaks: Speaks, tls: Option<TlsAcceptor>) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.peak.fetch_max(self.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        match tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    self.talk(stream, speaks).await;
                }
            }
            None => self.talk(stream, speaks).await,
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, speaks: Speaks) {
        let (end, cache) = (Arc::new(tokio::sync::Notify::new()), self.clone());
        let ended = end.clone();
        let service = service_fn(move |request| {
            let (cache, end) = (cache.clone(), end.clone());
            async move {
                let answer = cache.answer(request).await;
                end.notify_one();
                Ok::<_, Infallible>(answer)
            }
        });
        // A connection that breaks is part of the script.
        match speaks {
            Speaks::Both => {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            }
            Speaks::One => {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
            Speaks::OneOnce => {
                let mut connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = &mut connection => {}
                    () = async { ended.notified().await; ended.notified().await; } => {}
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let range = head.headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        let gather = self.gather.lock().clone();
        if let Some(gather) = gather {
            gather.wait().await;
        }
        let fault = {
            let mut state = self.state.lock();
            let note = format!("{} {path} {}", head.method, range.as_deref().unwrap_or_default());
            state.log.push(note.trim_end().to_owned());
            state.headers.push(head.headers.clone());
            state.faults.pop_front()
        };
        match fault {
            Some(Fault::Hang) => futures::future::pending().await,
            Some(Fault::Status(status, headers)) => {
                let mut response = said(status);
                for (name, value) in headers {
                    response.headers_mut().insert(*name, value.parse().unwrap());
                }
                response
            }
            fault => match head.method {
                Method::PUT => self.put(path, body).await,
                Method::HEAD if self.state.lock().no_head => said(405),
                Method::GET | Method::HEAD => self.get(&path, range.as_deref(), &head.headers, fault),
                _ => said(405),
            },
        }
    }

    async fn put(&self, path: String, body: Incoming) -> Response<Body> {
        match body.collect().await {
            Ok(whole) => {
                self.state.lock().values.insert(path, whole.to_bytes());
                said(201)
            }
            Err(_) => said(400),
        }
    }

    fn get(
        &self,
        path: &str,
        range: Option<&str>,
        headers: &HeaderMap,
        fault: Option<Fault>,
    ) -> Response<Body> {
        let mut state = self.state.lock();
        let Some(whole) = state.values.get(path).cloned() else { return said(404) };
        let (mut content, mut encoding) = (whole.clone(), None);
        let mut response = said(200);
        if let Some(range) = range.filter(|_| !state.no_range) {
            let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
            if start >= whole.len() {
                return said(416);
            }
            content = whole.slice(start..whole.len().min(end + 1));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {start}-{}/{}", start + content.len() - 1, whole.len());
            response.headers_mut().insert(header::CONTENT_RANGE, value.parse().unwrap());
        } else if state.zstd && headers.get(header::ACCEPT_ENCODING).is_some_and(|value| value == "zstd") {
            content = zstd::encode_all(&whole[..], 1).unwrap().into();
            encoding = Some("zstd");
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, content.len().into());
        let mut breaks = None;
        match fault {
            Some(Fault::Break(after)) => breaks = Some(after.min(content.len())),
            Some(Fault::Encoding(other)) => encoding = Some(other),
            _ => {}
        }
        if let Some(encoding) = encoding {
            response.headers_mut().insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        let length = breaks.unwrap_or(content.len());
        state.sent += length;
        let pieces: Vec<_> = content[..length]
            .chunks(1000)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let end = breaks.map(|_| Err(io::Error::other("as scripted")));
        *response.body_mut() = StreamBody::new(futures::stream::iter(pieces.into_iter().chain(end)).boxed());
        response
    }
}

fn said(status: u16) -> Response<Body> {
    let text = Bytes::from(format!("says {status}\n"));
    let body = futures::stream::iter((status >= 400).then_some(Ok(Frame::data(text)))).boxed();
    let mut response = Response::new(StreamBody::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
