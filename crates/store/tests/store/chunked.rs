//! Blobs that are kept as chunks: the conformance suite, what the store holds, and what becomes of damage.

use crate::fixture::{context, open};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Blob, BlobStore, BlobStoreExt, ChunkMapping, ChunkingFunction, ChunkingParameters, Chunks, Context,
    Digest, DigestFunction, DigestSet, FastCdc2020, Forget, HashIndex, Kind, LocalFiles, Range, RepMaxCdc,
    Result,
};
use mortar_store::{ChunkedBlobs, ChunkedFiles, ChunkedHashes, MemoryStore};
use mortar_testkit::{
    conformance::{Random, Subject, assert_conforms},
    faults::FailsAfter,
};
use std::sync::Arc;

/// Small, so that the suite's blobs are large.
fn small() -> ChunkingParameters {
    ChunkingParameters {
        fast_cdc_2020: FastCdc2020 { average: 4 << 10, seed: 0 },
        rep_max_cdc: RepMaxCdc { minimum: 2 << 10, horizon: 16 << 10 },
    }
}

fn over_memory() -> (ChunkedBlobs, Arc<MemoryStore>) {
    let store = MemoryStore::new(1 << 30);
    let blobs = ChunkedBlobs::new(store.clone(), store.clone(), Some(store.clone()), small()).unwrap();
    (blobs, store)
}

/// Splits whatever is written.
struct Splitting(ChunkedBlobs);

#[async_trait]
impl BlobStore for Splitting {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.0.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.0.write(context, digest, blob).await?;
        let function = match digest.size() % 2 {
            0 => ChunkingFunction::FastCdc2020,
            _ => ChunkingFunction::RepMaxCdc,
        };
        self.0.split(context, digest, Some(function)).await.map(drop)
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.0.find_missing(context, digests).await
    }
}

fn subject(blobs: ChunkedBlobs, hashes: Arc<dyn HashIndex>) -> Subject {
    Subject {
        chunks: Some(Arc::new(blobs.clone())),
        hashes: Some(Arc::new(ChunkedHashes::new(blobs.clone(), hashes))),
        ..Subject::new(Arc::new(blobs))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_blobs_conform_over_memory() {
    let (blobs, store) = over_memory();
    assert_conforms(&Subject { uploads: Some(store.clone()), ..subject(blobs, store) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_blobs_conform_where_every_large_blob_is_split() {
    let (blobs, store) = over_memory();
    let subject = Subject { blobs: Arc::new(Splitting(blobs.clone())), ..subject(blobs, store) };
    assert_conforms(&subject).await;
}

/// Over a store that cannot forget, whose blobs have files.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_blobs_conform_over_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let blobs = ChunkedBlobs::new(store.clone(), store.clone(), None, small()).unwrap();
    let files = ChunkedFiles::new(blobs.clone(), store.clone());
    let subject =
        Subject { uploads: Some(store.clone()), files: Some(Arc::new(files)), ..subject(blobs, store) };
    assert_conforms(&subject).await;
}

fn sha(bytes: &Bytes) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

async fn put(store: &dyn BlobStore, bytes: &Bytes) -> Digest {
    store.write_bytes(&context(), sha(bytes), bytes.clone()).await.unwrap();
    sha(bytes)
}

async fn fetch(store: &dyn BlobStore, digest: Digest, range: Range) -> Result<Bytes> {
    store.read(&context(), digest, range).await?.into_bytes().await
}

async fn is_missing(store: &dyn BlobStore, digest: Digest) -> bool {
    !store.find_missing(&context(), &DigestSet::from_iter([digest])).await.unwrap().is_empty()
}

/// What recipes of so many chunks may take.
fn recipes(chunks: usize) -> u64 {
    chunks as u64 * 40 + 100
}

#[tokio::test]
async fn a_split_blob_is_stored_once() {
    let (blobs, store) = over_memory();
    let bytes = Random::seeded(1).bytes(300_000);
    let digest = put(&blobs, &bytes).await;
    assert_eq!(store.size(), 300_000);
    let chunks = blobs.split(&context(), digest, None).await.unwrap().chunks;
    assert!(chunks.len() > 20);
    assert!((300_000..300_000 + recipes(chunks.len())).contains(&store.size()), "{} bytes", store.size());
    put(&blobs, &bytes).await;
    assert!(store.size() < 300_000 + recipes(chunks.len()), "writing it again stored it again");
    assert!(fetch(&*store, digest, Range::ALL).await.unwrap_err().is_not_found(), "the whole is still there");
    assert_eq!(fetch(&blobs, digest, Range::ALL).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_two_blobs_have_in_common_is_stored_once() {
    let (blobs, store) = over_memory();
    let first = Random::seeded(2).bytes(300_000);
    let second = Bytes::from([&first[..150_000], b"something between", &first[150_000..]].concat());
    let mut chunks = 0;
    for bytes in [&first, &second] {
        let digest = put(&blobs, bytes).await;
        chunks += blobs.split(&context(), digest, None).await.unwrap().chunks.len();
        assert_eq!(fetch(&blobs, digest, Range::ALL).await.unwrap(), bytes);
    }
    let limit = 300_000 + 80_000 + recipes(chunks);
    assert!(store.size() < limit, "two blobs that are nearly one take {} bytes", store.size());
}

#[tokio::test]
async fn a_spliced_blob_is_never_stored_whole() {
    let (blobs, store) = over_memory();
    let bytes = Random::seeded(3).bytes(200_000);
    let mut chunks = Vec::new();
    for piece in bytes.chunks(10_000) {
        chunks.push(put(&blobs, &Bytes::copy_from_slice(piece)).await);
    }
    let mapping = ChunkMapping { function: None, chunks };
    blobs.splice(&context(), sha(&bytes), mapping.clone()).await.unwrap();
    assert!(store.size() < 200_000 + recipes(20), "{} bytes", store.size());
    let hashes = ChunkedHashes::new(blobs.clone(), store.clone());
    let found = hashes.lookup(&context(), DigestFunction::Sha256, sha(&bytes).hash()).await.unwrap();
    assert_eq!(found, Some(sha(&bytes)));

    // Wrong ones leave not a byte.
    let before = store.size();
    let other = Digest::new(DigestFunction::Sha256, [7; 32], 200_000);
    assert!(blobs.splice(&context(), other, mapping).await.is_err());
    assert_eq!(store.size(), before);
}

#[tokio::test]
async fn a_blob_whose_chunk_is_gone_is_missing_until_it_comes_back() {
    let (blobs, store) = over_memory();
    let bytes = Random::seeded(4).bytes(100_000);
    let digest = put(&blobs, &bytes).await;
    let split = blobs.split(&context(), digest, None).await.unwrap();
    let lost = split.chunks[3];
    let content = fetch(&blobs, lost, Range::ALL).await.unwrap();
    assert!(store.forget(&context(), lost).await.unwrap());

    assert!(is_missing(&blobs, digest).await);
    assert!(fetch(&blobs, digest, Range::ALL).await.unwrap_err().is_not_found());
    assert!(fetch(&blobs, digest, Range { offset: 0, limit: Some(5) }).await.unwrap_err().is_not_found());
    assert!(blobs.split(&context(), digest, None).await.unwrap_err().is_not_found());

    // The recipe was dropped: the chunk alone does not bring the blob back.
    put(&blobs, &content).await;
    assert!(is_missing(&blobs, digest).await);
    blobs.splice(&context(), digest, split.clone()).await.unwrap();
    assert_eq!(blobs.split(&context(), digest, None).await.unwrap(), split);
    assert_eq!(fetch(&blobs, digest, Range::ALL).await.unwrap(), bytes);
}

/// A store that gives other bytes for one blob.
struct Lying {
    inner: Arc<MemoryStore>,
    about: Digest,
}

#[async_trait]
impl BlobStore for Lying {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let blob = self.inner.read(context, digest, range).await?;
        if digest != self.about {
            return Ok(blob);
        }
        let mut bytes = blob.into_bytes().await?.to_vec();
        bytes[0] ^= 1;
        Ok(Blob::bytes(bytes))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.inner.find_missing(context, digests).await
    }
}

#[tokio::test]
async fn a_damaged_chunk_fails_the_read_before_its_end() {
    let (blobs, store) = over_memory();
    let bytes = Random::seeded(5).bytes(100_000);
    let digest = put(&blobs, &bytes).await;
    let split = blobs.split(&context(), digest, None).await.unwrap();
    for damaged in [split.chunks[0], split.chunks[5], *split.chunks.last().unwrap()] {
        let lying = Arc::new(Lying { inner: store.clone(), about: damaged });
        let blobs = ChunkedBlobs::new(lying, store.clone(), None, small()).unwrap();
        let error = fetch(&blobs, digest, Range::ALL).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Mismatch { expected, .. } if *expected == digest), "{error}");
        // Nor is anything spliced of it.
        let twice = Bytes::from([&bytes[..], &bytes[..]].concat());
        let mapping = ChunkMapping { function: None, chunks: split.chunks.repeat(2) };
        assert!(blobs.splice(&context(), sha(&twice), mapping).await.is_err());
        assert!(is_missing(&blobs, sha(&twice)).await);
    }
}

/// Whichever call to the store fails, a blob that was written stays, and a later attempt succeeds.
#[tokio::test]
async fn a_split_that_fails_loses_nothing() {
    let bytes = Random::seeded(6).bytes(60_000);
    let mut attempts = 0;
    loop {
        let (_, store) = over_memory();
        let digest = put(&*store, &bytes).await;
        let failing = Arc::new(FailsAfter::new(store.clone(), attempts));
        let blobs = ChunkedBlobs::new(failing, store.clone(), Some(store.clone()), small()).unwrap();
        let outcome = blobs.split(&context(), digest, None).await;
        let sound = ChunkedBlobs::new(store.clone(), store.clone(), Some(store.clone()), small()).unwrap();
        assert_eq!(fetch(&sound, digest, Range::ALL).await.unwrap(), bytes, "after {attempts} calls");
        if outcome.is_ok() {
            break;
        }
        assert!(sound.split(&context(), digest, None).await.unwrap().chunks.len() > 1);
        attempts += 1;
    }
    assert!(attempts > 10, "only {attempts} calls were made");
}

#[tokio::test]
async fn too_many_chunks_are_refused() {
    let (blobs, _) = over_memory();
    let piece = put(&blobs, &Bytes::from_static(b"x")).await;
    let digest = Digest::new(DigestFunction::Sha256, [1; 32], 500_001);
    let mapping = ChunkMapping { function: None, chunks: vec![piece; 500_001] };
    let error = blobs.splice(&context(), digest, mapping).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ResourceExhausted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_chunks_gets_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let blobs = ChunkedBlobs::new(store.clone(), store.clone(), None, small()).unwrap();
    let bytes = Random::seeded(7).bytes(100_000);
    let mut chunks = Vec::new();
    for piece in bytes.chunks(30_000) {
        chunks.push(put(&blobs, &Bytes::copy_from_slice(piece)).await);
    }
    blobs.splice(&context(), sha(&bytes), ChunkMapping { function: None, chunks }).await.unwrap();
    assert!(store.local_file(&context(), sha(&bytes)).await.unwrap().is_none());
    let files = ChunkedFiles::new(blobs, store);
    let file = files.local_file(&context(), sha(&bytes)).await.unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}
