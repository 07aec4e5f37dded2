//! Writes over ByteStream.

use crate::fake::{Fake, Fault, content, context, streamed};
use futures::StreamExt;
use mortar_model::{Blob, BlobStore, BlobStoreExt, Encoding, Error, Kind, UploadId, UploadSessions};
use tonic::Status;

const SIZE: usize = 100_000;

#[tokio::test]
async fn content_at_hand_is_resumed() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    fake.fail(
        "Write",
        [
            Fault::Refuse(Status::unavailable("not yet")),
            Fault::Break(20_000),
            Fault::EndEarly(50_000),
            Fault::Break(SIZE),
        ],
    );
    let remote = fake.serve().await;
    remote.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert!(fake.0.lock().blobs[&digest] == bytes);
    let writes: Vec<String> = fake.log().into_iter().filter(|call| call.starts_with("Write")).collect();
    assert_eq!(writes, ["Write 0", "Write 0", "Write 20000", "Write 50000", "Write 100000"]);
}

#[tokio::test]
async fn streams_are_sent_and_are_tried_again_only_from_the_start() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    let remote = fake.serve().await;
    remote.write(&context(), digest, streamed(&bytes, 3_333)).await.unwrap();
    assert!(fake.0.lock().blobs[&digest] == bytes);

    let fake = Fake::default();
    fake.fail("Write", [Fault::Break(50_000)]);
    let remote = fake.serve().await;
    let error = remote.write(&context(), digest, streamed(&bytes, 3_333)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    assert!(fake.0.lock().blobs.is_empty());

    let fake = Fake::default();
    fake.fail("Write", [Fault::Refuse(Status::unavailable("not yet"))]);
    let remote = fake.serve().await;
    remote.write(&context(), digest, streamed(&bytes, SIZE)).await.unwrap();
    assert!(fake.0.lock().blobs[&digest] == bytes);
    assert_eq!(fake.log()[..], ["Write 0", "Write 0"]);
}

#[tokio::test]
async fn a_server_that_has_enough_is_believed() {
    let (digest, bytes) = content(16 << 20);
    for fault in [Fault::Enough, Fault::Refuse(Status::already_exists("known"))] {
        let fake = Fake::default();
        fake.fail("Write", [fault]);
        let remote = fake.serve().await;
        let endless = futures::stream::iter([Ok(bytes.slice(..1000))]).chain(futures::stream::pending());
        remote.write(&context(), digest, Blob::stream(digest.size(), endless)).await.unwrap();
        assert_eq!(fake.log()[..], ["Write 0"]);
    }
}

#[tokio::test]
async fn wrong_content_is_refused_and_not_sent_again() {
    let (fake, (digest, _)) = (Fake::default(), content(SIZE));
    let other = content(SIZE + 1).1.slice(1..);
    let remote = fake.serve().await;
    let error = remote.write_bytes(&context(), digest, other.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
    for wrong in [other.slice(..SIZE - 1), content(SIZE + 5).1] {
        let error = remote.write_bytes(&context(), digest, wrong.clone()).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Mismatch { .. }), "{error}");
        // A stream that does not have the length that it claims.
        for piece in [999, 1000, SIZE] {
            let pieces: Vec<_> = wrong.chunks(piece).map(|piece| Ok(wrong.slice_ref(piece))).collect();
            let blob = Blob::stream(digest.size(), futures::stream::iter(pieces));
            let error = remote.write(&context(), digest, blob).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::Mismatch { .. }), "{error}");
        }
    }
    assert!(fake.0.lock().blobs.is_empty());
}

#[tokio::test]
async fn a_source_that_fails_fails_the_write() {
    let (fake, (digest, bytes)) = (Fake::default(), content(SIZE));
    let remote = fake.serve().await;
    let pieces = [Ok(bytes.slice(..30_000)), Err(Error::internal("the source is broken"))];
    let blob = Blob::stream(digest.size(), futures::stream::iter(pieces));
    let error = remote.write(&context(), digest, blob).await.unwrap_err();
    assert!(error.to_string().contains("the source is broken"), "{error}");
    assert!(fake.0.lock().blobs.is_empty());
}

#[tokio::test]
async fn an_upload_in_pieces_survives_broken_calls() {
    let (fake, (digest, bytes)) = (Fake::default(), content(10_000));
    let faults = [Fault::Refuse(Status::unavailable("not yet")), Fault::Break(3_000), Fault::Break(10_000)];
    fake.fail("Write", faults);
    let uploads = fake.serve().await.uploads();
    let id = UploadId("some-id".into());
    let mut upload = uploads.open(&context(), &id, digest, Encoding::Identity).await.unwrap();
    upload.write(bytes.slice(..4_500)).await.unwrap();
    assert_eq!(uploads.committed(&context(), &id).await.unwrap(), Some(4_500));
    upload.write(bytes.slice(4_500..)).await.unwrap();
    assert!(fake.0.lock().blobs.is_empty());
    upload.finish().await.unwrap();
    assert!(fake.0.lock().blobs[&digest] == bytes);
    let writes: Vec<String> = fake.log().into_iter().filter(|call| call.starts_with("Write")).collect();
    assert_eq!(writes[..4], ["Write 0", "Write 0", "Write 1000", "Write 2000"]);
    assert_eq!(writes[4..6], ["Write 3000", "Write 4000"]);
}
