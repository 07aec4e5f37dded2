//! What a build asked for is told to the next one that begins like it.

use crate::serve;
use bytes::Bytes;
use futures::TryStreamExt;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, AheadBounds, BlobStoreExt, Coming, Context, Digest, DigestFunction,
    Foresight, InstanceName, OutputFile, RequestMetadata, Whence,
};
use mortar_remote::{Endpoint, Options, Remote};
use std::{sync::Arc, time::Duration};

const FUNCTION: DigestFunction = DigestFunction::Sha256;
const ALL: AheadBounds = AheadBounds { results: 1_000, blob: 64 << 10, bytes: 1 << 20 };

fn connect(url: &str) -> Remote {
    Endpoint::connect(url, Options::default()).unwrap()
}

fn of(invocation: &str) -> Context {
    let request = RequestMetadata { tool_invocation_id: invocation.into(), ..RequestMetadata::default() };
    Context { request: Arc::new(request), ..Context::default() }
}

pub fn key(number: usize) -> ActionKey {
    Digest::of(FUNCTION, format!("action {number}").as_bytes()).into()
}

fn content(number: usize) -> Bytes {
    format!("output {number}").into()
}

fn output(number: usize) -> Digest {
    Digest::of(FUNCTION, &content(number))
}

pub async fn build(remote: &Remote, invocation: &str, numbers: impl IntoIterator<Item = usize>) {
    let context = of(invocation);
    for number in numbers {
        if remote.get(&context, key(number)).await.unwrap().is_some() {
            continue;
        }
        remote.write_bytes(&context, output(number), content(number)).await.unwrap();
        let (path, digest, contents) = ("out".into(), output(number), Bytes::new());
        let file = OutputFile { path, digest, is_executable: false, contents, properties: None };
        let result = ActionResult { files: vec![file], ..ActionResult::default() };
        remote.put(&context, key(number), result).await.unwrap();
    }
}

async fn follow(remote: &Remote, from: Whence, bounds: AheadBounds) -> Vec<Coming> {
    remote.follow(&of("another"), from, bounds).await.unwrap().try_collect().await.unwrap()
}

/// What follows an action, once so many are known to.
pub async fn follows(remote: &Remote, number: usize, expected: usize) -> Vec<Coming> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let coming = follow(remote, Whence::Action(key(number)), ALL).await;
        if coming.len() == expected {
            return coming;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} instead of {expected}", coming.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn keys(coming: &[Coming]) -> Vec<ActionKey> {
    coming.iter().map(|coming| coming.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_followed_comes_in_order_with_its_small_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let remote = connect(&serve("127.0.0.1:0", directory.path()).await);
    build(&remote, "first", 0..300).await;
    let coming = follows(&remote, 0, 299).await;
    assert_eq!(keys(&coming), (1..300).map(key).collect::<Vec<_>>());
    for (number, coming) in (1..).zip(&coming) {
        assert_eq!(coming.result.files[0].digest, output(number));
        assert_eq!(coming.blobs, [(output(number), content(number))]);
    }

    // In parts, as far as each is wanted.
    let few = AheadBounds { results: 10, blob: 64, bytes: 25 };
    let part = follow(&remote, Whence::Action(key(0)), few).await;
    assert_eq!(keys(&part), (1..11).map(key).collect::<Vec<_>>());
    let blobs: usize = part.iter().map(|coming| coming.blobs.len()).sum();
    assert_eq!(blobs, 3, "eight bytes each");
    let cursor = Whence::Cursor(FUNCTION, part[9].cursor.clone());
    let next = follow(&remote, cursor, AheadBounds { blob: 1, ..few }).await;
    assert_eq!(keys(&next), (11..21).map(key).collect::<Vec<_>>());
    assert!(next.iter().all(|coming| coming.blobs.is_empty()));

    // Those who ask for what nobody asked for, or elsewhere, hear of nothing.
    assert!(follow(&remote, Whence::Action(key(1_000)), ALL).await.is_empty());
    let elsewhere = of("another").with_instance(InstanceName::parse("elsewhere").unwrap());
    let coming = remote.follow(&elsewhere, Whence::Action(key(0)), ALL).await.unwrap();
    assert!(coming.try_collect::<Vec<_>>().await.unwrap().is_empty());
    let bad = Whence::Cursor(FUNCTION, Bytes::from_static(b"somewhere"));
    let refused = remote.follow(&of("another"), bad, ALL).await.err().unwrap().to_string();
    assert!(refused.contains("cursor"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_do_not_replace_what_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let remote = connect(&serve("127.0.0.1:0", directory.path()).await);
    build(&remote, "whole", 0..40).await;
    follows(&remote, 0, 39).await;
    // The next one was told of most, so it asks for little: some of that, and what is new.
    build(&remote, "sparse", [0, 39, 100, 101, 102]).await;
    let new = follows(&remote, 100, 2).await;
    assert_eq!(keys(&new), [key(101), key(102)]);
    assert_eq!(follow(&remote, Whence::Action(key(0)), ALL).await.len(), 39);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_leads_in_circles_ends() {
    let directory = tempfile::tempdir().unwrap();
    let url = serve("127.0.0.1:0", directory.path()).await;
    let remote = connect(&url);
    build(&remote, "first", 0..3).await;
    follows(&remote, 0, 2).await;
    // What the server wrote, by the names that anybody can work out, with itself as its next block.
    let name = |text: &str| Digest::of(FUNCTION, text.as_bytes());
    let block = name("mortar look-ahead block\n\nfirst\n0");
    let mut circle = vec![1_u8];
    circle.extend(block.hash());
    for number in 0..3 {
        circle.push(1);
        circle.extend(key(number).hash);
    }
    let (address, path) = (url.trim_start_matches("grpc://").to_owned(), format!("/ac/{}", block.hex()));
    let put = move || mortar_testkit::http::put(&address, &path, &circle);
    let answer = tokio::task::spawn_blocking(put).await.unwrap().unwrap();
    assert_eq!(answer.status, 200);
    let coming = follow(&remote, Whence::Action(key(0)), ALL).await;
    assert!(coming.len() > 100 && coming.len() <= 1_000, "{}", coming.len());
}
