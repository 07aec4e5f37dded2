//! `HttpUpstream` against a cache that fails by script.

pub mod cache;
mod connecting;

use crate::fake::{content, context, streamed};
use bytes::Bytes;
use cache::{Cache, Fault, Speaks, options};
use mortar_model::{
    ActionCache, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestFunction, DigestSet, Error, HashIndex,
    Kind, Range, Result,
};
use mortar_remote::{HttpOptions, HttpUpstream, Retry};
use std::time::{Duration, Instant};

fn path(digest: Digest) -> String {
    format!("/cas/{}", digest.hex())
}

impl Cache {
    fn keep(&self, size: usize) -> (Digest, Bytes) {
        let (digest, bytes) = content(size);
        self.state.lock().values.insert(path(digest), bytes.clone());
        (digest, bytes)
    }

    fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().faults.extend(faults);
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().log)
    }
}

async fn whole(upstream: &HttpUpstream, digest: Digest) -> Result<Bytes> {
    upstream.read(&context(), digest, Range::ALL).await?.into_bytes().await
}

#[tokio::test]
async fn downloads_go_on_where_they_broke() {
    for speaks in [Speaks::One, Speaks::Both] {
        let cache = Cache::default();
        let upstream = cache.upstream(speaks).await;
        let (digest, bytes) = cache.keep(3_000_000);
        cache.fail([1_000_000, 500_000, 10].map(Fault::Break));
        assert!(whole(&upstream, digest).await.unwrap() == bytes);
        let log = cache.log();
        assert_eq!(log.len(), 4, "{log:?}");
        assert!(log[1..].iter().all(|call| call.contains("bytes=") && call.ends_with("-2999999")), "{log:?}");
        // What was sent before a break may be lost with the connection, so more may move than the blob has.
        assert!(cache.state.lock().sent < 2 * bytes.len());
    }
}

#[tokio::test]
async fn servers_without_ranges_are_heard_again() {
    let cache = Cache::default();
    cache.state.lock().no_range = true;
    let upstream = cache.upstream(Speaks::One).await;
    let (digest, bytes) = cache.keep(2_000_000);
    cache.fail([Fault::Break(1_000_000)]);
    assert!(whole(&upstream, digest).await.unwrap() == bytes);
    let part = Range { offset: 1_999_000, limit: Some(500) };
    let part = upstream.read(&context(), digest, part).await.unwrap().into_bytes().await.unwrap();
    assert!(part == bytes[1_999_000..1_999_500]);
}

#[tokio::test]
async fn who_has_no_head_is_asked_for_a_byte() {
    for no_range in [false, true] {
        let cache = Cache::default();
        (cache.state.lock().no_head, cache.state.lock().no_range) = (true, no_range);
        let upstream = cache.upstream(Speaks::One).await;
        let ((small, _), (large, _), (absent, _)) = (cache.keep(100), cache.keep(1_000_000), content(7));
        for digest in [small, large, absent] {
            let missing = upstream.find_missing(&context(), &DigestSet::from_iter([digest])).await.unwrap();
            assert_eq!(missing.contains(&digest), digest == absent);
        }
        let found = upstream.lookup(&context(), DigestFunction::Sha256, large.hash()).await.unwrap();
        assert_eq!(found, Some(large));
        let heads = cache.log().iter().filter(|call| call.starts_with("HEAD")).count();
        assert_eq!(heads, 1, "it is remembered");
        assert!(whole(&upstream, large).await.is_ok());
    }
}

#[tokio::test]
async fn failures_that_may_pass_are_met_with_another_try() {
    let cache = Cache::default();
    let upstream = cache.upstream(Speaks::Both).await;
    let (digest, bytes) = content(1000);
    cache.fail([500, 502, 503].map(|status| Fault::Status(status, &[])));
    upstream.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    assert_eq!(cache.log().len(), 4);
    cache.fail([429, 504].map(|status| Fault::Status(status, &[])));
    assert!(whole(&upstream, digest).await.unwrap() == bytes);
    cache.fail((0..4).map(|_| Fault::Status(503, &[])));
    let key = digest.into();
    let error = upstream.get(&context(), key).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }) && error.to_string().contains("503"), "{error}");
}

#[tokio::test]
async fn refusals_are_final() {
    let cache = Cache::default();
    let upstream = cache.upstream(Speaks::Both).await;
    let (digest, bytes) = content(1000);
    for (status, headers, expected, needle) in [
        (401, &[][..], "Unauthenticated", "says 401"),
        (403, &[], "PermissionDenied", "says 403"),
        (404, &[], "FailedPrecondition", "no uploads"),
        (409, &[], "FailedPrecondition", "409"),
        (413, &[], "ResourceExhausted", "413"),
        (507, &[], "ResourceExhausted", "507"),
        (503, &[("retry-after", "3600")], "Unavailable", "503"),
        (302, &[("location", "http://elsewhere/")], "FailedPrecondition", "302"),
    ] {
        cache.fail([Fault::Status(status, headers)]);
        let error = upstream.write_bytes(&context(), digest, bytes.clone()).await.unwrap_err();
        assert!(format!("{:?}", error.kind()).starts_with(expected), "{status}: {error:?}");
        assert!(error.to_string().contains(needle), "{status}: {error}");
        assert_eq!(cache.log().len(), 1, "{status} is final");
    }
}

#[tokio::test]
async fn large_uploads_stream_and_fail_with_their_source() {
    for speaks in [Speaks::One, Speaks::Both] {
        let cache = Cache::default();
        let upstream = cache.upstream(speaks).await;
        let (digest, bytes) = content(3_000_000);
        upstream.write(&context(), digest, streamed(&bytes, 10_000)).await.unwrap();
        assert!(cache.state.lock().values[&path(digest)] == bytes);
        let headers = cache.state.lock().headers.last().unwrap().clone();
        assert_eq!(headers["content-length"], "3000000");

        let other = Digest::of(DigestFunction::Sha256, b"other");
        let other = Digest::new(DigestFunction::Sha256, *other.hash(), 3_000_000);
        let error = upstream.write(&context(), other, streamed(&bytes, 10_000)).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Mismatch { .. }), "{error}");
        let pieces = vec![Ok(bytes.slice(..2_000_000)), Err(Error::internal("the disk is gone"))];
        let broken = Blob::stream(3_000_000, futures::stream::iter(pieces));
        let error = upstream.write(&context(), digest, broken).await.unwrap_err();
        assert!(error.to_string().contains("the disk is gone"), "{error}");
        assert!(!cache.state.lock().values.contains_key(&path(other)));
    }
}

#[tokio::test]
async fn silence_and_deadlines_have_an_end() {
    let cache = Cache::default();
    let url = cache.serve(Speaks::Both).await;
    let idle_timeout = Duration::from_millis(500);
    let once = HttpOptions { retry: Retry::NEVER, idle_timeout, ..options() };
    let upstream = HttpUpstream::new(url.parse().unwrap(), once);
    let (digest, _) = cache.keep(1000);
    cache.fail([Fault::Hang]);
    let error = whole(&upstream, digest).await.unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Unavailable { .. }) && error.to_string().contains("0.5 s"),
        "{error}"
    );
    cache.fail([Fault::Hang]);
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let context = Context { deadline, ..context() };
    let error = upstream.get(&context, digest.into()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::DeadlineExceeded { .. }), "{error}");
}

#[tokio::test]
async fn encodings_come_only_if_asked_for() {
    let cache = Cache::default();
    cache.state.lock().zstd = true;
    let url = cache.serve(Speaks::Both).await;
    let (digest, bytes) = cache.keep(2_000_000);
    for compression in [false, true] {
        let upstream = HttpUpstream::new(url.parse().unwrap(), HttpOptions { compression, ..options() });
        let before = cache.state.lock().sent;
        assert!(whole(&upstream, digest).await.unwrap() == bytes);
        let sent = cache.state.lock().sent - before;
        assert_eq!(sent < bytes.len(), compression, "{sent}");
        // What broke in frames goes on without them.
        cache.fail([Fault::Break(sent / 2)]);
        assert!(whole(&upstream, digest).await.unwrap() == bytes);
        cache.fail([Fault::Encoding("gzip")]);
        let error = whole(&upstream, digest).await.unwrap_err();
        assert!(error.to_string().contains("`gzip`, which was not asked for"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_result_is_an_error() {
    let cache = Cache::default();
    let upstream = cache.upstream(Speaks::Both).await;
    let key = content(5).0.into();
    assert!(upstream.get(&context(), key).await.unwrap().is_none());
    cache.state.lock().values.insert(format!("/ac/{}", key.hex()), "<html>no such thing</html>".into());
    let error = upstream.get(&context(), key).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Internal { .. }) && error.to_string().contains("no action result"));
    let blake = Digest::of(DigestFunction::Blake3, b"x");
    let error = upstream.write_bytes(&context(), blake, "x".into()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unimplemented { .. }), "{error}");
}
