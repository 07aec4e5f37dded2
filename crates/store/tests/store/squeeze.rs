//! Compression of what has come to rest.

use crate::fixture::{PLENTY, config, context, fetch, fresh, until};
use bytes::Bytes;
use futures::TryStreamExt;
use mortar_model::{BlobStoreExt, Digest, DigestFunction, EncodedBlobs, LocalFiles, Range, RequestMetadata};
use mortar_store::{DiskStore, Policy, frames};
use std::{path::Path, sync::Arc, time::Duration};

fn open(directory: &Path, compress_after: Duration) -> Arc<DiskStore> {
    let policy = Policy { compress_after, ..Policy::default() };
    DiskStore::open_with(config(directory, 64 << 20), policy).unwrap()
}

fn eager(directory: &Path) -> Arc<DiskStore> {
    open(directory, Duration::ZERO)
}

/// Text, different for each seed.
fn text(seed: usize, length: usize) -> (Digest, Bytes) {
    let lines =
        (0..).map(|line| format!("int function_{}(int argument) {{ return {line}; }}\n", line * seed % 97));
    let mut text = format!("// {seed}\n");
    lines
        .take_while(|line| {
            text.push_str(line);
            text.len() < length
        })
        .for_each(drop);
    text.truncate(length);
    let bytes = Bytes::from(text);
    (Digest::of(DigestFunction::Sha256, &bytes), bytes)
}

async fn frames_of(store: &DiskStore, digest: Digest, range: Range) -> Vec<u8> {
    let pieces: Vec<Bytes> =
        store.read_zstd(&context(), digest, range).await.unwrap().try_collect().await.unwrap();
    pieces.concat()
}

fn inflate(frames: &[u8], size: usize) -> Vec<u8> {
    let (mut inflate, mut input, mut content) = (frames::Inflate::new(size as u64), frames, Vec::new());
    while let Some(piece) = inflate.next(&mut input).unwrap() {
        content.extend_from_slice(&piece);
    }
    inflate.finish().unwrap();
    content
}

async fn expect_everywhere(store: &DiskStore, digest: Digest, bytes: &Bytes) {
    for (offset, length) in [(0, bytes.len()), (10, 100), (262_140, 10), (bytes.len() - 5, 5)] {
        if offset + length > bytes.len() {
            continue;
        }
        let range = Range { offset: offset as u64, limit: Some(length as u64) };
        let expected = bytes.slice(offset..offset + length);
        assert_eq!(fetch(store, digest, range).await.unwrap(), expected);
        assert_eq!(inflate(&frames_of(store, digest, range).await, length), expected);
    }
    let file = store.local_file(&context(), digest).await.unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), *bytes);
}

#[tokio::test]
async fn a_large_file_shrinks_and_reads_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = eager(directory.path());
    let (digest, bytes) = text(3, 1_000_000);
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    until("it is compressed", || store.stats().squeezed == 1).await;
    assert!(store.stats().file_bytes < 500_000, "{:?}", store.stats());
    let whole = frames_of(&store, digest, Range::ALL).await;
    assert!(whole.len() < 500_000);
    expect_everywhere(&store, digest, &bytes).await;
    drop(store);
    let store = eager(directory.path());
    expect_everywhere(&store, digest, &bytes).await;
    // A file was made of it, which is counted.
    assert_eq!(store.stats().made_bytes, 1_000_000_u64.next_multiple_of(4096));
}

#[tokio::test]
async fn what_does_not_shrink_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = eager(directory.path());
    let (digest, bytes) = fresh(1_000_000);
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    let (other, more) = text(5, 1_000_000);
    store.write_bytes(&context(), other, more.clone()).await.unwrap();
    until("the other is compressed", || store.stats().squeezed == 1).await;
    expect_everywhere(&store, digest, &bytes).await;
    expect_everywhere(&store, other, &more).await;
    assert!(store.stats().file_bytes >= 1_000_000);
}

#[tokio::test]
async fn segments_shrink_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Duration::from_secs(3600));
    let mut kept = Vec::new();
    for seed in 1..400 {
        let (digest, bytes) = text(seed, 10_000);
        store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        kept.push((digest, bytes));
    }
    let before = store.stats().segment_bytes;
    assert!(before > 3_900_000);
    drop(store);
    let store = eager(directory.path());
    until("segments are compressed", || store.stats().segment_bytes < before / 2).await;
    for (digest, bytes) in kept {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
        assert_eq!(inflate(&frames_of(&store, digest, Range::ALL).await, bytes.len()), bytes);
    }
}

#[tokio::test]
async fn what_is_lent_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Duration::from_secs(3600));
    let (digest, bytes) = text(7, 1_000_000);
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    drop(store);
    let store = eager(directory.path());
    let Some(file) = store.local_file(&context(), digest).await.unwrap() else { panic!("it is here") };
    let (other, more) = text(8, 1_000_000);
    store.write_bytes(&context(), other, more).await.unwrap();
    until("the other is compressed", || store.stats().squeezed >= 1).await;
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}

#[tokio::test]
async fn a_batch_is_kept_as_the_frames_that_came() {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(config(directory.path(), PLENTY)).unwrap();
    let (digest, bytes) = text(9, 50_000);
    let sent = Bytes::from(frames::deflate(&bytes).unwrap());
    let context = mortar_model::Context {
        request: Arc::new(RequestMetadata { tool_invocation_id: "1".into(), ..Default::default() }),
        ..context()
    };
    store.write_zstd(&context, digest, sent.clone()).await.unwrap();
    assert_eq!(frames_of(&store, digest, Range::ALL).await, sent);
    assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    let wrong = Digest::new(digest.function(), [1; 32], digest.size());
    let error = store.write_zstd(&context, wrong, sent).await.unwrap_err();
    assert!(error.to_string().contains(&digest.hex()), "{error}");
}
