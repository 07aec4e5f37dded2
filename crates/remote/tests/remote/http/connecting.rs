//! What an origin speaks, and how many connections it sees.

use super::{
    cache::{Cache, Fault, Speaks, options},
    path,
};
use crate::fake::{content, context};
use mortar_model::{ActionCache, BlobStoreExt, Kind};
use mortar_remote::{HttpOptions, HttpUpstream, Protocol, Retry};
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use std::sync::{Arc, atomic::Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

fn once() -> HttpOptions {
    HttpOptions { retry: Retry::NEVER, ..options() }
}

async fn ask_at_once(cache: &Cache, upstream: &HttpUpstream, requests: usize, at_once: usize) {
    *cache.gather.lock() = Some(Arc::new(tokio::sync::Barrier::new(at_once)));
    let key = content(3).0.into();
    let context = context();
    let asked = (0..requests).map(|_| upstream.get(&context, key));
    for answer in futures::future::join_all(asked).await {
        assert!(answer.unwrap().is_none());
    }
    *cache.gather.lock() = None;
}

/// All requests are with the server at the same time, and come over two connections.
#[tokio::test(flavor = "multi_thread")]
async fn two_connections_carry_two_hundred_requests() {
    let cache = Cache::default();
    let upstream = cache.upstream(Speaks::Both).await;
    ask_at_once(&cache, &upstream, 200, 200).await;
    assert_eq!(upstream.protocol(), Some(Protocol::Http2));
    assert_eq!(cache.accepted.load(Ordering::SeqCst), 2);
}

/// One request after another needs a single one.
#[tokio::test]
async fn one_connection_is_enough_for_who_asks_in_turn() {
    for (speaks, accepted) in [(Speaks::Both, 1), (Speaks::One, 2)] {
        let cache = Cache::default();
        let upstream = cache.upstream(speaks).await;
        let (digest, bytes) = content(2_000_000);
        for _ in 0..5 {
            upstream.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
            assert!(upstream.read_all(&context(), digest, 1 << 24).await.unwrap() == bytes);
            assert!(upstream.get(&context(), digest.into()).await.unwrap().is_none());
        }
        // The trial of HTTP/2 is one of them.
        assert_eq!(cache.accepted.load(Ordering::SeqCst), accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_request_are_few() {
    let cache = Cache::default();
    let url = cache.serve(Speaks::One).await;
    let options = HttpOptions { connections: 8, protocol: Some(Protocol::Http1), ..once() };
    let upstream = HttpUpstream::new(url.parse().unwrap(), options);
    ask_at_once(&cache, &upstream, 200, 8).await;
    assert_eq!(cache.accepted.load(Ordering::SeqCst), 8);
}

/// A server that breaks connections while nobody uses them does not fail a request.
#[tokio::test]
async fn dead_connections_are_no_failures() {
    let cache = Cache::default();
    let url = cache.serve(Speaks::OneOnce).await;
    let upstream = HttpUpstream::new(url.parse().unwrap(), once());
    let (digest, bytes) = content(1000);
    for _ in 0..10 {
        upstream.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert!(upstream.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
    }
}

/// A server that waits for more after the preface of HTTP/2, and never answers it, is spoken to in 1.1; what was given
/// back is trusted, and found out anew where it is wrong.
#[tokio::test]
async fn silence_at_the_trial_means_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if silent.is_empty() {
                silent.push(stream);
                continue;
            }
            // The whole request is one segment on the loopback.
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            silent.push(stream);
        }
    });
    let upstream = HttpUpstream::new(url.parse().unwrap(), once());
    assert!(upstream.get(&context(), content(3).0.into()).await.unwrap().is_none());
    assert_eq!(upstream.protocol(), Some(Protocol::Http1));
}

#[tokio::test]
async fn what_was_remembered_may_be_wrong() {
    let cache = Cache::default();
    let url = cache.serve(Speaks::One).await;
    let options = HttpOptions { protocol: Some(Protocol::Http2), ..once() };
    let upstream = HttpUpstream::new(url.parse().unwrap(), options);
    assert!(upstream.get(&context(), content(3).0.into()).await.unwrap().is_none());
    assert_eq!(upstream.protocol(), Some(Protocol::Http1));
}

/// An acceptor that offers these protocols, and a client that trusts it.
fn tls(protocols: &[&[u8]]) -> (TlsAcceptor, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server).into(), Arc::new(client))
}

#[tokio::test]
async fn tls_tells_the_protocol() {
    for (offered, spoken) in [
        (&[&b"h2"[..], b"http/1.1"][..], Protocol::Http2),
        (&[b"http/1.1"], Protocol::Http1),
        (&[], Protocol::Http1),
    ] {
        let (cache, (acceptor, client)) = (Cache::default(), tls(offered));
        let url = cache.serve_with(Speaks::Both, Some(acceptor)).await;
        let options = HttpOptions { tls: Some(client), ..once() };
        let upstream = HttpUpstream::new(url.parse().unwrap(), options);
        let (digest, bytes) = content(100_000);
        upstream.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert!(upstream.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
        assert_eq!(upstream.protocol(), Some(spoken));
        assert_eq!(cache.accepted.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn strangers_are_not_trusted() {
    let (cache, (acceptor, _)) = (Cache::default(), tls(&[]));
    let url = cache.serve_with(Speaks::Both, Some(acceptor)).await;
    let options = HttpOptions { tls: Some(tls(&[]).1), ..once() };
    let upstream = HttpUpstream::new(url.parse().unwrap(), options);
    let error = upstream.get(&context(), content(3).0.into()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn passwords_are_sent_and_not_shown() {
    let cache = Cache::default();
    let url = cache.serve(Speaks::Both).await.replace("://", "://me:s3cret@");
    let upstream = HttpUpstream::new(url.parse().unwrap(), once());
    let (digest, bytes) = content(10);
    upstream.write_bytes(&context(), digest, bytes).await.unwrap();
    let headers = cache.state.lock().headers.clone();
    assert!(headers.iter().all(|headers| headers["authorization"] == "Basic bWU6czNjcmV0"));
    cache.fail([Fault::Status(403, &[])]);
    let error = upstream.get(&context(), digest.into()).await.unwrap_err();
    let shown = format!("{upstream:?} {error} {error:?} {}", path(digest));
    assert!(!shown.contains("s3cret") && !shown.contains("bWU6"), "{shown}");
}
