//! Small blobs, look-ups of many, action results.

use crate::fake::{Fake, Fault, content, context, digest, streamed};
use bytes::Bytes;
use futures::future::join_all;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blame, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    DigestSet, InstanceName, Kind, Range, RequestMetadata,
};
use mortar_remote::GatheredReads;
use std::sync::Arc;
use tonic::Status;

#[tokio::test]
async fn small_blobs_travel_in_batches() {
    let (fake, (digest, bytes)) = (Fake::default(), content(5_000));
    let remote = fake.serve().await;
    fake.fail("BatchUpdateBlobs", [Fault::Refuse(Status::unavailable("not yet"))]);
    remote.write(&context(), digest, streamed(&bytes, 700)).await.unwrap();
    fake.fail("BatchReadBlobs", [Fault::Refuse(Status::aborted("once more"))]);
    assert!(remote.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
    fake.fail("BatchReadBlobs", [Fault::Corrupt]);
    let error = remote.read(&context(), digest, Range::ALL).await.unwrap_err();
    assert_eq!(error.blame(), Blame::Server);
    let error = remote.write_bytes(&context(), digest, content(5_001).1.slice(1..)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
    let (absent, _) = content(77);
    assert!(remote.read(&context(), absent, Range::ALL).await.unwrap_err().is_not_found());
    assert!(!fake.log().iter().any(|call| call.starts_with("Read") || call.starts_with("Write")));
}

#[tokio::test]
async fn servers_without_batches_get_streams() {
    let (fake, (digest, bytes)) = (Fake::default(), content(5_000));
    for method in ["GetCapabilities", "BatchUpdateBlobs", "BatchReadBlobs"] {
        fake.fail(method, [Fault::Refuse(Status::unimplemented("no such call"))]);
    }
    let remote = fake.serve().await;
    remote.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert!(remote.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
    let calls = ["GetCapabilities", "BatchUpdateBlobs 1", "Write 0", "BatchReadBlobs 1", "Read 0+0"];
    assert_eq!(fake.log()[..], calls);
}

#[tokio::test]
async fn reads_at_the_same_time_are_gathered_and_each_has_its_own_result() {
    let fake = Fake::default();
    let blobs: Vec<(Digest, Bytes)> = (0..100).map(|extra| content(1_000 + extra)).collect();
    for (digest, bytes) in &blobs {
        fake.keep(*digest, bytes.clone());
    }
    let reads = GatheredReads::new(fake.serve().await);
    let absent = digest(b"absent");
    let wanted: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).chain([absent]).collect();
    let context = context();
    let read = join_all(wanted.iter().map(|digest| reads.read_all(&context, *digest, 1 << 20))).await;
    for ((_, bytes), read) in blobs.iter().zip(&read) {
        assert!(read.as_ref().unwrap() == bytes);
    }
    assert!(read[100].as_ref().unwrap_err().is_not_found());
    let calls = fake.log().iter().filter(|call| call.starts_with("BatchReadBlobs")).count();
    assert!((1..=3).contains(&calls), "{:?}", fake.log());
    // A call that fails is one for all who are in it.
    fake.fail("BatchReadBlobs", (0..4).map(|_| Fault::Refuse(Status::permission_denied("not for you"))));
    let read = join_all(wanted[..5].iter().map(|digest| reads.read_all(&context, *digest, 1 << 20))).await;
    assert!(
        read.iter().all(|read| matches!(read.as_ref().unwrap_err().kind(), Kind::PermissionDenied { .. }))
    );
}

#[tokio::test]
async fn what_is_gathered_does_not_pass_256_kib_and_one_who_leaves_takes_nobody_along() {
    let fake = Fake::default();
    let blobs: Vec<(Digest, Bytes)> = (0..16).map(|extra| content(40_000 + extra)).collect();
    for (digest, bytes) in &blobs {
        fake.keep(*digest, bytes.clone());
    }
    let reads = GatheredReads::new(fake.serve().await);
    let context = context();
    // From now on the server's limits are known.
    reads.read_all(&context, blobs[0].0, 1 << 20).await.unwrap();
    let mut first = Box::pin(reads.read_all(&context, blobs[0].0, 1 << 20));
    // It has asked, and has the call made for those who come with it.
    assert!(futures::poll!(&mut first).is_pending());
    let others: Vec<_> =
        blobs[1..].iter().map(|(digest, _)| reads.read_all(&context, *digest, 1 << 20)).collect();
    drop(first);
    for ((_, bytes), read) in blobs[1..].iter().zip(join_all(others).await) {
        assert!(read.unwrap() == bytes);
    }
    let sizes: Vec<usize> = fake
        .log()
        .iter()
        .filter_map(|call| call.strip_prefix("BatchReadBlobs "))
        .map(|count| count.parse().unwrap())
        .collect();
    assert!(sizes.iter().all(|count| *count <= 7), "{sizes:?}");
}

#[tokio::test]
async fn what_no_batch_takes_is_read_as_it_is_by_those_who_gather() {
    let (fake, (digest, bytes)) = (Fake::default(), content(5_000));
    for method in ["GetCapabilities", "BatchReadBlobs", "BatchReadBlobs"] {
        fake.fail(method, [Fault::Refuse(Status::unimplemented("no such call"))]);
    }
    fake.keep(digest, bytes.clone());
    let reads = GatheredReads::new(fake.serve().await);
    assert!(reads.read_all(&context(), digest, 1 << 20).await.unwrap() == bytes);
    let part = reads.read(&context(), digest, Range { offset: 10, limit: Some(20) }).await.unwrap();
    assert!(part.into_bytes().await.unwrap() == bytes[10..30]);
    let (large, bytes) = content(3 << 20);
    fake.keep(large, bytes.clone());
    assert!(reads.read_all(&context(), large, 4 << 20).await.unwrap() == bytes);
}

#[tokio::test]
async fn the_limit_of_the_server_cuts_batches() {
    let fake = Fake::default();
    fake.0.lock().max_batch = 2_500;
    let blobs: Vec<(Digest, Bytes)> = (0..5).map(|extra| content(1_000 + extra)).collect();
    let remote = fake.serve().await;
    let capabilities = remote.capabilities(&context()).await.unwrap();
    assert_eq!(capabilities.max_batch_total_size, Some(2_500));
    assert_eq!(capabilities.digest_functions, [DigestFunction::Sha256, DigestFunction::Blake3]);
    let written = remote.write_batch(&context(), &blobs).await.unwrap();
    assert!(written.len() == 5 && written.iter().all(Result::is_ok));
    let mut wanted: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    wanted.push(digest(b"absent"));
    let read = remote.read_batch(&context(), &wanted).await.unwrap();
    for ((_, bytes), read) in blobs.iter().zip(&read) {
        assert!(read.as_ref().unwrap() == bytes);
    }
    assert!(read[5].as_ref().unwrap_err().is_not_found());
    // What one batch cannot hold goes as a stream, small as it is.
    let (large, bytes) = content(3_000);
    remote.write_bytes(&context(), large, bytes).await.unwrap();
    let batches = fake.log().iter().filter(|call| call.starts_with("Batch")).cloned().collect::<Vec<_>>();
    assert_eq!(batches[..3], ["BatchUpdateBlobs 2", "BatchUpdateBlobs 2", "BatchUpdateBlobs 1"]);
    assert_eq!(batches[3..], ["BatchReadBlobs 2", "BatchReadBlobs 2", "BatchReadBlobs 2"]);
    assert_eq!(fake.log().last().unwrap(), "Write 0");
}

#[tokio::test]
async fn many_digests_are_asked_for_in_parts() {
    let fake = Fake::default();
    let digests: DigestSet =
        (0..45_000u32).map(|number| digest(&number.to_le_bytes())).chain([digest(b"")]).collect();
    for digest in digests.iter().step_by(2) {
        fake.keep(digest, Bytes::new());
    }
    fake.fail("FindMissingBlobs", [Fault::Refuse(Status::unavailable("not yet"))]);
    let remote = fake.serve().await;
    let missing = remote.find_missing(&context(), &digests).await.unwrap();
    let expected: DigestSet = digests.iter().skip(1).step_by(2).filter(|digest| !digest.is_empty()).collect();
    assert_eq!(missing, expected);
    let mut log = fake.log();
    log.sort();
    let calls = [
        "FindMissingBlobs 20000",
        "FindMissingBlobs 20000",
        "FindMissingBlobs 20000",
        "FindMissingBlobs 5000",
    ];
    let calls_if_the_small_one_was_refused = [
        "FindMissingBlobs 20000",
        "FindMissingBlobs 20000",
        "FindMissingBlobs 5000",
        "FindMissingBlobs 5000",
    ];
    assert!(log == calls || log == calls_if_the_small_one_was_refused, "{log:?}");
}

#[tokio::test]
async fn results_come_back_with_instance_and_metadata() {
    let fake = Fake::default();
    let remote = fake.serve().await;
    let request =
        RequestMetadata { tool_name: "test".into(), target_id: "//a:b".into(), ..Default::default() };
    let context = Context { request: Arc::new(request.clone()), ..Context::internal() }
        .with_instance(InstanceName::parse("main").unwrap());
    let key = ActionKey::from(digest(b"action"));
    fake.fail("GetActionResult", [Fault::Refuse(Status::unavailable("not yet"))]);
    assert_eq!(remote.get(&context, key).await.unwrap(), None);
    let result = ActionResult { exit_code: 0, stdout_raw: "out".into(), ..Default::default() };
    remote.put(&context, key, result.clone()).await.unwrap();
    assert_eq!(remote.get(&context, key).await.unwrap(), Some(result));
    assert_eq!(fake.log()[..2], ["GetActionResult main", "GetActionResult main"]);
    assert_eq!(fake.0.lock().metadata, Some(request));
}

#[tokio::test]
async fn a_result_that_makes_no_sense_is_the_fault_of_the_server() {
    let fake = Fake::default();
    let remote = fake.serve().await;
    let key = ActionKey::from(digest(b"action"));
    let file = mortar_wire::reapi::OutputFile { path: "../escape".into(), ..Default::default() };
    let result = mortar_wire::reapi::ActionResult { output_files: vec![file], ..Default::default() };
    fake.0.lock().results.insert(key.hex(), result);
    let error = remote.get(&context(), key).await.unwrap_err();
    assert_eq!(error.blame(), Blame::Server, "{error}");
    assert!(error.to_string().contains("escape"), "{error}");
}
