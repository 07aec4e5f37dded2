//! What the tests of the disk store share.

use bytes::Bytes;
use mortar_model::{
    BlobStore, BlobStoreExt, Clock, Context, Digest, DigestFunction, DigestSet, Error, Range,
    context::{Promise, RequestMetadata},
};
use mortar_store::{DiskConfig, DiskStore, Policy, Record, RecordKind, Records};
use mortar_testkit::codec::TableCodec;
use mortar_testkit::conformance::Random;
use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;

pub const PLENTY: u64 = 1 << 40;
pub const MIB: u64 = 1024 * 1024;
/// The largest blob that is a record in a segment.
pub const SMALL: usize = 128 * 1024;

pub fn config(directory: &Path, max_size: u64) -> DiskConfig {
    DiskConfig { directory: directory.into(), max_size }
}

pub fn open(directory: &Path) -> Arc<DiskStore> {
    DiskStore::open(config(directory, PLENTY)).unwrap()
}

/// A directory where nothing waits for a disk, if there is such a place: for tests that open hundreds of stores.
pub fn quick_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub async fn open_with(directory: &Path, max_size: u64, policy: Policy) -> Arc<DiskStore> {
    let store = DiskStore::open_with(config(directory, max_size), policy).unwrap();
    walked(&store).await;
    store
}

/// A policy whose time is told.
pub fn held(clock: &Arc<HeldClock>) -> Policy {
    Policy { clock: clock.clone(), ..Policy::default() }
}

/// Waits until the store has looked through its directory.
pub async fn walked(store: &DiskStore) {
    until("the walk has ended", || store.stats().walked).await;
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn context() -> Context {
    Context::internal()
}

/// A call of a build.
pub fn invocation(name: impl ToString) -> Context {
    let request = RequestMetadata { tool_invocation_id: name.to_string(), ..RequestMetadata::default() };
    Context { request: Arc::new(request), ..Context::internal() }
}

pub fn fresh(length: usize) -> (Digest, Bytes) {
    Random::new().blob(DigestFunction::Sha256, length)
}

pub async fn put(store: &dyn BlobStore, length: usize) -> (Digest, Bytes) {
    let (digest, bytes) = fresh(length);
    store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    (digest, bytes)
}

pub async fn fetch(store: &dyn BlobStore, digest: Digest, range: Range) -> Result<Bytes, Error> {
    store.read(&context(), digest, range).await?.into_bytes().await
}

/// Asks without extending any promise.
pub async fn is_present(store: &dyn BlobStore, digest: Digest) -> bool {
    let glance = Context { promise: Promise::Glance, ..context() };
    store.find_missing(&glance, &DigestSet::from_iter([digest])).await.unwrap().is_empty()
}

/// Where the store keeps a large blob.
pub fn blob_path(directory: &Path, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    directory.join("blobs").join(digest.function().name()).join(&hex[..2]).join(hex)
}

/// Where the content of a small blob lies: the file, and where in it.
pub fn record_place(directory: &Path, content: &[u8]) -> Option<(PathBuf, u64)> {
    let mut segments = files(&directory.join("segments"));
    segments.sort();
    // The newest copy is the one that counts.
    segments.into_iter().rev().find_map(|path| {
        let bytes = fs::read(&path).ok()?;
        let mut starts = (0..(bytes.len() + 1).saturating_sub(content.len())).step_by(8).rev();
        let at = starts.find(|at| bytes[*at..].starts_with(content))?;
        Some((path, at as u64))
    })
}

/// Where the content of a blob lies, be it large or small.
pub fn content_place(directory: &Path, digest: Digest, content: &[u8]) -> (PathBuf, u64) {
    match content.len() <= SMALL {
        true => record_place(directory, content).expect("its content is in a segment"),
        false => (blob_path(directory, digest), 0),
    }
}

/// Changes one byte of a file in place.
pub fn flip(path: &Path, at: u64, mask: u8) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// Flips bits of a blob where the store keeps it.
pub fn damage(directory: &Path, digest: Digest, content: &[u8], at: usize) {
    let (path, start) = content_place(directory, digest, content);
    flip(&path, start + at as u64, 4);
}

/// All files below a directory; some may come and go meanwhile.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// What all things in a store's directory take on disk. Not counted are FORMAT, CHECKPOINT and the lock, of one block
/// each whatever is stored, and directories and what else a file system needs besides content, which none counts alike.
pub fn on_disk(directory: &Path) -> u64 {
    let parts = ["segments", "index", "blobs", "made", "tmp", "uploads", "quarantine"];
    parts.iter().map(|part| blocks(&directory.join(part))).sum()
}

fn blocks(directory: &Path) -> u64 {
    let found = files(directory).into_iter().filter_map(|path| path.metadata().ok());
    // Not by its blocks: a file in many parts may have some for itself.
    found.map(|metadata| metadata.len().next_multiple_of(4096)).sum()
}

/// Waits until the store's accounts agree with the disk, since files that are dropped go in the background.
pub async fn balanced(store: &DiskStore, directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.stats().bytes != on_disk(directory) {
        if Instant::now() >= deadline {
            let parts = ["segments", "index", "blobs", "made", "tmp", "uploads", "quarantine"];
            let sizes: Vec<_> = parts.iter().map(|part| (part, blocks(&directory.join(part)))).collect();
            panic!("on disk {sizes:?}, by the accounts {:?}", store.stats());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Files of writes that have not ended.
pub fn unfinished(directory: &Path) -> Vec<PathBuf> {
    ["tmp", "uploads"].iter().flat_map(|part| files(&directory.join(part))).collect()
}

/// Changes a file behind the store's back.
pub fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
}

/// A clock that goes on when it is told to.
pub struct HeldClock {
    start: (Instant, SystemTime),
    seconds: AtomicU64,
}

impl HeldClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: (Instant::now(), SystemTime::now()), seconds: AtomicU64::new(0) })
    }

    pub fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::SeqCst))
    }
}

impl Clock for HeldClock {
    fn now(&self) -> Instant {
        self.start.0 + self.passed()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + self.passed()
    }
}

/// Action results in memory.
pub fn memory_actions() -> Arc<dyn mortar_model::ActionCache> {
    let (blobs, codec) = (mortar_store::MemoryStore::new(1 << 30), Arc::new(TableCodec::default()));
    let results = Arc::new(mortar_store::Results::new(blobs.clone(), codec.clone()));
    Arc::new(mortar_store::Completeness::new(results, blobs, codec))
}

/// Keeps an opaque value.
pub async fn put_value(store: &DiskStore, name: [u8; 32], content: impl Into<Bytes>) {
    let record = Record { kind: RecordKind::Value, name, content: content.into() };
    store.put_records(&Context::internal(), vec![record]).await.unwrap();
}

/// An opaque value.
pub async fn value(store: &DiskStore, name: [u8; 32]) -> Option<Bytes> {
    store.record(&Context::internal(), RecordKind::Value, name).await.unwrap()
}
