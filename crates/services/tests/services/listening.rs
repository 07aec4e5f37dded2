//! One port for everything, and what happens to those who speak something else.

use crate::support::{server, until};
use mortar_model::Blame;
use mortar_services::listener::{Address, Listener};
use mortar_wire::reapi::{GetCapabilitiesRequest, capabilities_client::CapabilitiesClient};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

#[tokio::test]
async fn tls_on_the_plaintext_port_gets_an_alert() {
    let server = server().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    // The head of a TLS 1.2 ClientHello record.
    stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[..3], [0x15, 3, 1], "an alert record");
    assert_eq!(answer[5], 2, "a fatal one");
    server.assert_alive().await;
}

#[tokio::test]
async fn garbage_does_not_disturb() {
    let server = server().await;
    for garbage in [
        &b"\0\0\0\0\0\0"[..],
        b"GET",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let server = server().await;
    let error = Listener::bind(&Address::Tcp(server.address.clone())).await.err().unwrap();
    assert_eq!(error.blame(), Blame::Server);
    assert!(
        error.to_string().contains(&server.address)
            && error.to_string().contains("Hint: something else listens")
    );
}

#[tokio::test]
async fn an_unknown_method_is_told_by_name() {
    let server = server().await;
    let mut grpc = tonic::client::Grpc::new(server.channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/some.Service/Method");
    let codec = tonic_prost_codec();
    let status =
        grpc.unary(tonic::Request::new(GetCapabilitiesRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("/some.Service/Method"));
}

/// Who has connected and is about to speak when the server ends is answered, over TCP and over a socket file.
#[tokio::test]
async fn who_has_not_spoken_yet_when_the_server_ends_is_answered() {
    fn local(stream: std::net::TcpStream) -> TcpStream {
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }
    fn file(stream: std::os::unix::net::UnixStream) -> UnixStream {
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mortar.sock");
    // An attempt in which the test itself was too slow says nothing.
    let (mut tcp, mut unix) = (false, false);
    for _ in 0..20 {
        let any = Address::Tcp("127.0.0.1:0".into());
        tcp = tcp || answered_at_the_end(&any, |at| std::net::TcpStream::connect(at).map(local)).await;
        let address = Address::Unix(path.clone());
        let connect = |_: &str| std::os::unix::net::UnixStream::connect(&path).map(file);
        unix = unix || answered_at_the_end(&address, connect).await;
    }
    assert!(tcp && unix, "the test was too slow each time");
}

async fn answered_at_the_end<S>(address: &Address, connect: impl Fn(&str) -> std::io::Result<S>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let listener = Listener::bind(address).await.unwrap();
    let at = listener.url().replace("grpc://", "");
    let stop = CancellationToken::new();
    let router = axum::Router::new().fallback(async || "still here");
    let serving =
        tokio::spawn(mortar_services::listener::serve(listener, router, stop.clone().cancelled_owned()));
    let begin = Instant::now();
    let mut accepted = connect(&at).unwrap();
    ask(&mut connect(&at).unwrap()).await.unwrap();
    // The server cannot run between these, so none of them is accepted yet.
    let queued: Vec<_> = (0..8).map(|_| connect(&at).unwrap()).collect();
    stop.cancel();
    until("nobody accepts any more", || connect(&at).is_err()).await;
    // What the server does with its connections when it ends, it does now.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut answers = vec![ask(&mut accepted).await];
    for mut stream in queued {
        answers.push(ask(&mut stream).await);
    }
    let in_time = begin.elapsed() < Duration::from_millis(900);
    serving.await.unwrap();
    for answer in answers.into_iter().filter(|_| in_time) {
        let answer = answer.unwrap();
        assert!(answer.ends_with("still here"), "{answer}");
    }
    in_time
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn tonic_prost_codec() -> tonic_prost::ProstCodec<GetCapabilitiesRequest, GetCapabilitiesRequest> {
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn a_unix_socket_serves_and_a_dead_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mortar.sock");
    let address = Address::Unix(path.clone());
    // A socket file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&address).await.unwrap();
    assert!(Listener::bind(&address).await.is_err(), "a live socket is not taken over");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(mortar_services::listener::serve(listener, axum::Router::new(), async move {
        let _ = stopped.await;
    }));
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    let mut client = CapabilitiesClient::new(channel.connect().await.unwrap());
    // This router serves no method, but it answers.
    assert!(client.get_capabilities(GetCapabilitiesRequest::default()).await.is_err());
    drop(client);
    stop.send(()).unwrap();
    serving.await.unwrap();
    until("the socket file is gone", || !path.exists()).await;
}
