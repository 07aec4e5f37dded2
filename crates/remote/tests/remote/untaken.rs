//! Servers that end before they take a call: it is made anew, and is none of the tries. What they may have taken is one.

use crate::fake::{Fake, context, digest, options};
use mortar_model::{BlobStore, DigestSet, Kind, Result};
use mortar_remote::{Endpoint, Options, Retry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_stream::wrappers::TcpListenerStream;

/// Frames of HTTP/2, by their numbers.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// The first stream of a client.
const FIRST: u32 = 1;
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;

fn frame(kind: u8, stream: u32, words: &[u32]) -> Vec<u8> {
    let mut frame = vec![0, 0, (4 * words.len()) as u8, kind, 0];
    frame.extend(stream.to_be_bytes());
    frame.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    frame
}

/// Lets a client make a call, answers it with these frames alone, and is gone.
async fn answer(mut stream: TcpStream, frames: &[Vec<u8>]) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(&frames.concat()).await.unwrap();
    // Until it has been heard, lest what it sent meanwhile makes the end a reset.
    stream.shutdown().await.unwrap();
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// What a single try comes to at a server that answers so many connections like this before it serves.
async fn call(connections: usize, frames: Vec<Vec<u8>>) -> Result<DigestSet> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for _ in 0..connections {
            answer(listener.accept().await.unwrap().0, &frames).await;
        }
        Fake::default().router().serve_with_incoming(TcpListenerStream::new(listener)).await
    });
    let options = Options { retry: Retry::NEVER, connections: 1, ..options() };
    let remote = Endpoint::connect(&format!("grpc://{address}"), options).unwrap();
    remote.find_missing(&context(), &DigestSet::from_iter([digest(b"x")])).await
}

#[tokio::test]
async fn what_a_server_did_not_take_is_called_anew() {
    let before_it = || vec![frame(GOAWAY, 0, &[0, NO_ERROR])];
    let refused = || vec![frame(RST_STREAM, FIRST, &[REFUSED_STREAM]), frame(GOAWAY, 0, &[FIRST, NO_ERROR])];
    for connections in [1, 3] {
        assert_eq!(call(connections, before_it()).await.unwrap().len(), 1);
        assert_eq!(call(connections, refused()).await.unwrap().len(), 1);
    }
    let error = call(4, before_it()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("did not take the call"), "{error}");
}

#[tokio::test]
async fn what_a_server_may_have_taken_is_not() {
    for frames in [vec![], vec![frame(GOAWAY, 0, &[FIRST, NO_ERROR])]] {
        let error = call(1, frames).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}
