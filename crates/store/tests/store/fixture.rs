//! What the tests of the disk store share.

use bytes::Bytes;
use mortar_model::{
    BlobStore, BlobStoreExt, Clock, Context, Digest, DigestFunction, DigestSet, Error, Range,
};
use mortar_store::{DiskConfig, DiskStore};
use mortar_testkit::conformance::Random;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

pub const PLENTY: u64 = 1 << 40;

pub fn config(directory: &Path, max_size: u64) -> DiskConfig {
    DiskConfig { directory: directory.into(), max_size }
}

pub fn open(directory: &Path) -> Arc<DiskStore> {
    DiskStore::open(config(directory, PLENTY)).unwrap()
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
    let glance = Context { promise: mortar_model::context::Promise::Glance, ..context() };
    store.find_missing(&glance, &DigestSet::from_iter([digest])).await.unwrap().is_empty()
}

/// Where the store keeps a blob.
pub fn blob_path(directory: &Path, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    directory.join("blobs").join(digest.function().name()).join(&hex[..2]).join(hex)
}

/// All files below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
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
