//! Servers that are not there, go away and come back, over TCP and over a socket file.

use crate::fake::{Fake, content, context, digest, options};
use mortar_model::{BlobStore, BlobStoreExt, DigestSet, Kind, Range};
use mortar_remote::{Endpoint, Options, Retry};
use std::{net::SocketAddr, time::Duration};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

/// A server in a runtime of its own: dropping it breaks its connections, as a kill does.
struct Killable(Option<tokio::runtime::Runtime>);

impl Killable {
    fn start(fake: &Fake, address: SocketAddr) -> (Self, SocketAddr) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (router, (sender, receiver)) = (fake.router(), std::sync::mpsc::channel());
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        (Self(Some(runtime)), receiver.recv().unwrap())
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_timeout(Duration::from_secs(10));
    }
}

#[test]
fn a_server_may_be_restarted() {
    let client = tokio::runtime::Runtime::new().unwrap();
    let (fake, (digest, bytes)) = (Fake::default(), content(100_000));
    fake.keep(digest, bytes.clone());
    let (server, address) = Killable::start(&fake, "127.0.0.1:0".parse().unwrap());
    let patient = Retry { attempts: 100, ..options().retry };
    let options = Options { retry: patient, ..options() };
    let _inside = client.enter();
    let remote = Endpoint::connect(&format!("grpc://{address}"), options).unwrap();
    let read = |remote: mortar_remote::Remote| async move {
        remote.read(&context(), digest, Range::ALL).await.unwrap().into_bytes().await.unwrap()
    };
    assert!(client.block_on(read(remote.clone())) == bytes);
    drop(server);
    let waiting = client.spawn(read(remote.clone()));
    let (_server, _) = Killable::start(&fake, address);
    assert!(client.block_on(waiting).unwrap() == bytes);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let remote = Endpoint::connect(&format!("grpc://{free}"), options()).unwrap();
    let error = remote.find_missing(&context(), &DigestSet::from_iter([digest(b"x")])).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&free.to_string()) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_socket_file_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let (fake, (digest, bytes)) = (Fake::default(), content(100_000));
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(fake.router().serve_with_incoming(UnixListenerStream::new(listener)));
    let remote = Endpoint::connect(&format!("unix:{}", path.display()), options()).unwrap();
    remote.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert!(remote.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
}

/// The relay cuts every connection after a while; what is on its way goes on where it was, both ways.
#[tokio::test]
async fn large_blobs_come_through_a_network_that_cuts_connections() {
    use mortar_testkit::network::{Link, Relay};
    let fake = Fake::default();
    let server = fake.serve().await.endpoint().to_string();
    let link = Link { latency: Duration::from_millis(2), cut_after: Some(1 << 20), ..Link::default() };
    let relay = Relay::start(server.trim_start_matches("grpc://"), link).unwrap();
    let options = Options { chunk: 64 << 10, idle_timeout: Duration::from_secs(60), ..options() };
    let remote = Endpoint::connect(&format!("grpc://{}", relay.address()), options).unwrap();
    let (digest, bytes) = content(5 << 20);
    fake.keep(digest, bytes.clone());
    let blob = remote.read(&context(), digest, Range::ALL).await.unwrap();
    assert!(blob.into_bytes().await.unwrap() == bytes);
    let counts = relay.counts();
    assert!(counts.cuts >= 4, "{counts}");
    assert!(counts.bytes_down < 7 << 20, "hardly anything is sent twice: {counts}");
}
