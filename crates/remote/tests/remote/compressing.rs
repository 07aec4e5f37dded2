//! Blobs that travel as zstd: only where both sides want it, checked when they are decompressed, and resumed by offsets of
//! their content.

use crate::fake::{Fake, Fault, content, context, options, streamed};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{Blame, Blob, BlobStore, BlobStoreExt, Digest, Kind, Range};
use mortar_remote::{Options, Remote};
use std::time::Duration;
use tonic::Status;

const SIZE: usize = 100_000;

async fn serve(fake: &Fake) -> Remote {
    fake.0.lock().zstd = true;
    fake.serve_with(Options { compression: true, ..options() }).await
}

/// What was called but for GetCapabilities.
fn calls(fake: &Fake) -> Vec<String> {
    fake.log().into_iter().filter(|call| call != "GetCapabilities").collect()
}

async fn read(remote: &Remote, digest: Digest, range: Range) -> mortar_model::Result<Bytes> {
    remote.read(&context(), digest, range).await?.into_bytes().await
}

#[tokio::test]
async fn broken_reads_go_on_where_their_content_was() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes.clone());
    let refused = Fault::Refuse(Status::unavailable("not yet"));
    fake.fail("Read", [refused, Fault::Break(1_500), Fault::EndEarly(2_100), Fault::Break(0)]);
    let remote = serve(&fake).await;
    assert!(read(&remote, digest, Range::ALL).await.unwrap() == bytes);
    let offsets: Vec<usize> = calls(&fake)
        .iter()
        .map(|call| call.strip_prefix("Read zstd ").unwrap().strip_suffix("+0").unwrap().parse().unwrap())
        .collect();
    assert_eq!((offsets.len(), &offsets[..2]), (5, &[0, 0][..]));
    // Further each time, but for the call that brought nothing.
    assert!(0 < offsets[2] && offsets[2] < offsets[3] && offsets[3] == offsets[4], "{offsets:?}");
}

#[tokio::test]
async fn ends_of_blobs_are_compressed_and_parts_with_an_end_are_not() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.keep(digest, bytes.clone());
    let remote = serve(&fake).await;
    let end = Range { offset: 60_000, limit: None };
    assert!(read(&remote, digest, end).await.unwrap() == bytes.slice(60_000..));
    let part = Range { offset: 500, limit: Some(40_000) };
    assert!(read(&remote, digest, part).await.unwrap() == bytes.slice(500..40_500));
    assert_eq!(calls(&fake), ["Read zstd 60000+0", "Read 500+40000"]);
}

#[tokio::test]
async fn wrong_content_is_never_whole_and_blames_the_server() {
    let (digest, bytes) = content(SIZE);
    let other = content(SIZE + 1).1.slice(1..);
    for (fault, kept) in [(Some(Fault::Corrupt), &bytes), (Some(Fault::TooMuch), &bytes), (None, &other)] {
        let fake = Fake::default();
        fake.keep(digest, kept.clone());
        fake.fail("Read", fault);
        let remote = serve(&fake).await;
        let mut seen = 0;
        let error = match remote.read(&context(), digest, Range::ALL).await {
            Err(error) => error,
            Ok(blob) => {
                let mut stream = blob.into_stream();
                loop {
                    match stream.next().await {
                        Some(Ok(chunk)) => seen += chunk.len(),
                        Some(Err(error)) => break error,
                        None => panic!("wrong content passed"),
                    }
                }
            }
        };
        assert!(matches!(error.kind(), Kind::Mismatch { source_of_content: Blame::Server, .. }), "{error}");
        assert!(seen <= SIZE);
        assert_eq!(calls(&fake).len(), 1, "what is wrong is not asked for again");
    }
}

#[tokio::test]
async fn broken_writes_go_on_where_their_content_was() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    let refused = Fault::Refuse(Status::unavailable("not yet"));
    fake.fail("Write", [refused, Fault::Break(30_000), Fault::Break(64_500)]);
    let remote = serve(&fake).await;
    remote.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert!(fake.0.lock().blobs[&digest] == bytes);
    let writes: Vec<String> = calls(&fake).into_iter().filter(|call| call.starts_with("Write")).collect();
    assert_eq!(writes, ["Write zstd 0", "Write zstd 0", "Write zstd 30000", "Write zstd 65000"]);
}

#[tokio::test]
async fn each_way_to_say_that_all_was_taken_is_understood() {
    let (digest, bytes) = content(SIZE);
    for committed in [None, Some(-1), Some(SIZE as i64)] {
        let fake = Fake::default();
        fake.0.lock().zstd_committed = committed;
        let remote = serve(&fake).await;
        remote.write(&context(), digest, streamed(&bytes, 3_333)).await.unwrap();
        assert!(fake.0.lock().blobs[&digest] == bytes);
        assert_eq!(calls(&fake), ["Write zstd 0"]);
    }
    let fake = Fake::default();
    fake.0.lock().zstd_committed = Some(7);
    let remote = serve(&fake).await;
    let error = remote.write(&context(), digest, streamed(&bytes, 3_333)).await.unwrap_err();
    assert!(error.to_string().contains("took 7 bytes"), "{error}");
    // One that has enough at once.
    let fake = Fake::default();
    fake.fail("Write", [Fault::Enough]);
    let remote = serve(&fake).await;
    let endless = futures::stream::iter([Ok(bytes.slice(..1000))]).chain(futures::stream::pending());
    remote.write(&context(), digest, Blob::stream(digest.size(), endless)).await.unwrap();
}

#[tokio::test]
async fn batches_are_compressed_where_that_is_shorter() {
    let (fake, words, short) = (Fake::default(), Bytes::from(vec![b'w'; 5_000]), content(100).1);
    let mut state = 1u32;
    let noise: Bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(6_000)
    .collect();
    let blobs = [words, short, noise].map(|bytes| (crate::fake::digest(&bytes), bytes));
    let remote = serve(&fake).await;
    for written in remote.write_batch(&context(), &blobs).await.unwrap() {
        written.unwrap();
    }
    assert!(fake.log().contains(&"a compressed blob of 5000 bytes".to_owned()));
    for size in [100, 6_000] {
        assert!(!fake.log().contains(&format!("a compressed blob of {size} bytes")));
    }
    let digests = blobs.each_ref().map(|(digest, _)| *digest);
    for (read, (_, bytes)) in remote.read_batch(&context(), &digests).await.unwrap().iter().zip(&blobs) {
        assert!(read.as_ref().unwrap() == bytes);
    }
    fake.fail("BatchReadBlobs", [Fault::Corrupt]);
    let read = remote.read_batch(&context(), &digests[..1]).await.unwrap();
    assert_eq!(read[0].as_ref().unwrap_err().blame(), Blame::Server);
}

#[tokio::test]
async fn nothing_is_compressed_unless_both_sides_want_it() {
    let (digest, bytes) = content(SIZE);
    for (wanted, served) in [(false, true), (true, false)] {
        let fake = Fake::default();
        fake.0.lock().zstd = served;
        let remote = fake.serve_with(Options { compression: wanted, ..options() }).await;
        remote.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        assert!(read(&remote, digest, Range::ALL).await.unwrap() == bytes);
        assert_eq!(calls(&fake), ["Write 0", "Read 0+0"]);
    }
}

#[tokio::test]
async fn a_lease_is_heard_of() {
    for (told, heard) in [(None, None), (Some(10_800), Some(Duration::from_secs(10_800)))] {
        let fake = Fake::default();
        fake.0.lock().lease = told;
        let capabilities = fake.serve().await.capabilities(&context()).await.unwrap();
        assert_eq!(
            (capabilities.lease, capabilities.zstd_streams, capabilities.zstd_batches),
            (heard, false, false)
        );
    }
    let fake = Fake::default();
    let capabilities = serve(&fake).await.capabilities(&context()).await.unwrap();
    assert!(capabilities.zstd_streams && capabilities.zstd_batches);
}
