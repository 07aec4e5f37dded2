//! Reads over ByteStream.

use crate::fake::{Fake, Fault, content, context, options};
use futures::StreamExt;
use mortar_model::{Blame, BlobStore, Context, Kind, Range};
use std::time::{Duration, Instant};
use tonic::Status;

const SIZE: usize = 100_000;

#[tokio::test]
async fn broken_reads_go_on_where_they_were() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes.clone());
    fake.fail(
        "Read",
        [
            Fault::Refuse(Status::unavailable("not yet")),
            Fault::Break(10_000),
            Fault::EndEarly(5_500),
            Fault::Break(0),
            Fault::Break(30_000),
        ],
    );
    let remote = fake.serve().await;
    let read = remote.read(&context(), digest, Range::ALL).await.unwrap().into_bytes().await.unwrap();
    assert!(read == bytes);
    assert_eq!(
        fake.log()[..],
        ["Read 0+0", "Read 0+0", "Read 10000+0", "Read 15500+0", "Read 15500+0", "Read 45500+0"]
    );
}

#[tokio::test]
async fn ranges_keep_their_end_when_they_are_resumed() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes.clone());
    fake.fail("Read", [Fault::Break(1_000)]);
    let remote = fake.serve().await;
    let range = Range { offset: 500, limit: Some(40_000) };
    let read = remote.read(&context(), digest, range).await.unwrap().into_bytes().await.unwrap();
    assert!(read == bytes.slice(500..40_500));
    assert_eq!(fake.log()[..], ["Read 500+40000", "Read 1500+39000"]);
}

#[tokio::test]
async fn wrong_content_is_never_whole_and_blames_the_server() {
    let (digest, bytes) = content(SIZE);
    for fault in [Fault::Corrupt, Fault::TooMuch] {
        let fake = Fake::default();
        fake.keep(digest, bytes.clone());
        fake.fail("Read", [fault]);
        let remote = fake.serve().await;
        let mut stream = remote.read(&context(), digest, Range::ALL).await.unwrap().into_stream();
        let mut seen = 0;
        let error = loop {
            match stream.next().await {
                Some(Ok(chunk)) => seen += chunk.len(),
                Some(Err(error)) => break error,
                None => panic!("wrong content passed"),
            }
        };
        assert!(matches!(error.kind(), Kind::Mismatch { source_of_content: Blame::Server, .. }), "{error}");
        assert!(seen <= SIZE);
        assert_eq!(fake.log().len(), 1, "what is wrong is not asked for again");
    }
}

#[tokio::test]
async fn a_server_that_always_breaks_is_given_up() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes);
    fake.fail("Read", (0..9).map(|_| Fault::EndEarly(0)));
    let remote = fake.serve().await;
    let error = remote.read(&context(), digest, Range::ALL).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Aborted { .. }), "{error}");
    assert!(error.to_string().contains("ended the stream"), "{error}");
    assert_eq!(fake.log().len(), 4);
}

#[tokio::test]
async fn a_silent_server_is_asked_again() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes.clone());
    fake.fail("Read", [Fault::Hang]);
    let remote = fake.serve().await;
    let read = remote.read(&context(), digest, Range::ALL).await.unwrap().into_bytes().await.unwrap();
    assert!(read == bytes);
    assert_eq!(fake.log().len(), 2);
}

#[tokio::test]
async fn the_deadline_of_the_caller_ends_the_wait() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes);
    fake.fail("Read", [Fault::Hang]);
    let remote =
        fake.serve_with(mortar_remote::Options { idle_timeout: Duration::from_secs(600), ..options() }).await;
    let context = Context { deadline: Some(Instant::now() + Duration::from_millis(50)), ..context() };
    let error = remote.read(&context, digest, Range::ALL).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::DeadlineExceeded { .. }), "{error}");
}

#[tokio::test]
async fn what_is_missing_is_not_found_at_once() {
    let (fake, (digest, _)) = (Fake::default(), content(SIZE));
    let remote = fake.serve().await;
    for range in [Range::ALL, Range { offset: 7, limit: Some(7) }, Range { offset: SIZE as u64, limit: None }]
    {
        let error = remote.read(&context(), digest, range).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains(&digest.to_string()), "{error}");
    }
    assert_eq!(fake.log()[..], ["Read 0+0", "Read 7+7", "FindMissingBlobs 1"]);
    let past = remote.read(&context(), digest, Range { offset: SIZE as u64 + 1, limit: None }).await;
    assert!(matches!(past.unwrap_err().kind(), Kind::OutOfRange { .. }));
}
