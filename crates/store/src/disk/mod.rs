//! The disk store: one file a blob. Durable when acknowledged, bounded in size, checked when read, safe when killed.
//!
//! - `layout`: the directory, its owner, its names · `walk`: what is in it, found after the start
//! - `index`: what is known in memory · `eviction`: staying within the size
//! - `write`, `temp`: how files come in · `read`: how they go out · `quarantine`: what becomes of damaged ones
//! - `records`: action results and opaque values
//!
//! All work on files is done on blocking threads. Completeness of action results, permissions and limits per
//! request are left to others.

mod eviction;
mod index;
mod layout;
mod quarantine;
mod read;
mod records;
mod temp;
mod walk;
mod write;

use crate::{
    blocking::hop,
    sessions::{Sessions, identity_only},
};
use async_trait::async_trait;
use index::{Index, Time};
use layout::{Key, Layout, Space};
use mortar_model::{
    Blob, BlobStore, Clock, Context, Digest, DigestFunction, DigestSet, Encoding, Error, HashIndex,
    LocalFile, LocalFiles, Range, Result, SystemClock, Upload, UploadId, UploadSessions, clock::since_epoch,
    context::Promise,
};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

/// Where a store lies and how much it may take.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// A directory of the store's own; made if it does not exist.
    pub directory: PathBuf,
    /// What all of it may take on disk, in bytes.
    pub max_size: u64,
}

/// What seldom needs to be changed, and the clock.
#[derive(Clone)]
pub struct Policy {
    /// What was called present within this time is evicted only when nothing older, and no idle upload, is left.
    pub grace: Duration,
    /// A use is written to the file, to be known after a restart, when the last one written is this old.
    pub note_use_after: Duration,
    /// How long an upload that nobody continues is kept, if its room is not needed earlier.
    pub keep_uploads: Duration,
    /// How many of such uploads are kept; each holds a file open.
    pub max_idle_uploads: usize,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10 * 60),
            note_use_after: Duration::from_secs(10 * 60),
            keep_uploads: Duration::from_secs(60 * 60),
            max_idle_uploads: 128,
            clock: Arc::new(SystemClock),
        }
    }
}

/// How a store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What it takes on disk, unfinished writes included. Too small until `walked`.
    pub bytes: u64,
    /// What it may take.
    pub max_size: u64,
    /// Blobs of all digest functions. Too few until `walked`.
    pub blobs: u64,
    /// Action results.
    pub results: u64,
    /// Opaque values.
    pub values: u64,
    /// The walk through the directory has ended: the figures are exact.
    pub walked: bool,
    /// Files evicted since the start.
    pub evictions: u64,
    /// Files found damaged since the start.
    pub quarantined: u64,
    /// Uploads begun and not ended.
    pub uploads: u64,
}

/// Blobs, uploads and opaque values in one directory, which one process owns.
pub struct DiskStore {
    shared: Arc<Shared>,
    uploads: Arc<Sessions<write::Sink>>,
}

impl DiskStore {
    /// Opens the store in a directory. Takes no longer for a large one; its methods need a Tokio runtime.
    pub fn open(config: DiskConfig) -> Result<Arc<Self>> {
        Self::open_with(config, Policy::default())
    }

    /// Opens the store with a policy of one's own.
    pub fn open_with(config: DiskConfig, policy: Policy) -> Result<Arc<Self>> {
        let layout = Layout::open(&config.directory)?;
        let uploads = Sessions::new(policy.keep_uploads, policy.max_idle_uploads, policy.clock.clone());
        let uploads = Arc::new(uploads);
        let shared = Arc::new(Shared {
            layout,
            index: Mutex::default(),
            names: Mutex::default(),
            uploads: Arc::downgrade(&uploads),
            max_size: config.max_size,
            policy,
        });
        walk::start(&shared).map_err(|error| Error::io("starting a thread", error))?;
        Ok(Arc::new(Self { shared, uploads }))
    }

    /// How the store is doing, now.
    pub fn stats(&self) -> StoreStats {
        let uploads = self.uploads.len() as u64;
        let index = self.shared.index.lock();
        StoreStats {
            bytes: index.total(),
            max_size: self.shared.max_size,
            blobs: index.count(Space::Sha256) + index.count(Space::Blake3),
            results: index.count(Space::Results),
            values: index.count(Space::Values),
            walked: index.complete,
            evictions: index.evictions,
            quarantined: index.quarantined,
            uploads,
        }
    }
}

/// What the parts of the store have in common.
struct Shared {
    layout: Layout,
    /// Never held during work on files, since it is taken on the reactor too.
    index: Mutex<Index>,
    /// Held by whoever gives a file its name or takes it away, until the index agrees. Taken before `index`, and on
    /// blocking threads only.
    names: Mutex<()>,
    /// What is in them holds this in turn. None of them is dropped while `index` is locked, which that takes.
    uploads: Weak<Sessions<write::Sink>>,
    max_size: u64,
    policy: Policy,
}

impl Shared {
    fn now(&self) -> Time {
        since_epoch(self.policy.clock.wall()).as_nanos() as Time
    }

    /// Takes note that somebody builds on a file (unless not `keep`). None if it is not known, else whether its
    /// name is durable.
    fn touch(&self, key: Key, keep: bool) -> Option<bool> {
        let now = self.now();
        let (settled, due) = {
            let mut index = self.index.lock();
            let settled = index.get(key)?.settled;
            (settled, keep && index.touch(key, now, self.policy.note_use_after.as_nanos() as Time))
        };
        if due {
            self.note_use(key, now);
        }
        Some(settled)
    }

    /// Tells the file itself of its last use, so that it is known after a restart.
    fn note_use(&self, key: Key, now: Time) {
        let seconds = (now / 1_000_000_000) as _;
        let times = Timestamps {
            last_access: Timespec { tv_sec: seconds, tv_nsec: (now % 1_000_000_000) as _ },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        // A file that is gone is found to be so by whoever reads it.
        let _ = utimensat(CWD, self.layout.path(key), &times, AtFlags::empty());
    }
}

fn keeps(context: &Context) -> bool {
    context.promise == Promise::Lease
}

#[async_trait]
impl BlobStore for DiskStore {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.shared.read_blob(digest, range, keeps(context)).await
    }

    async fn write(&self, _: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.shared.write_blob(digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let (shared, digests, keep) = (self.shared.clone(), digests.clone(), keeps(context));
        hop(move || Ok(digests.into_iter().filter(|digest| !shared.present(*digest, keep)).collect())).await
    }
}

#[async_trait]
impl LocalFiles for DiskStore {
    async fn local_file(&self, context: &Context, digest: Digest) -> Result<Option<LocalFile>> {
        self.shared.lend_file(digest, keeps(context)).await
    }
}

#[async_trait]
impl HashIndex for DiskStore {
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        if Digest::new(function, *hash, 0).is_empty() {
            return Ok(Some(Digest::empty(function)));
        }
        let key = Key { space: function.into(), hash: *hash };
        let (shared, keep) = (self.shared.clone(), keeps(context));
        let size = hop(move || Ok(shared.size_of(key, keep))).await?;
        Ok(size.map(|size| Digest::new(function, key.hash, size)))
    }
}

#[async_trait]
impl UploadSessions for DiskStore {
    /// Does not look whether the blob is here already; a caller that wants to end early asks `find_missing`.
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        identity_only(digest, encoding)?;
        let shared = self.shared.clone();
        shared.check_fits(digest.size())?;
        self.uploads.open(context, id, digest, move || write::Sink::create(shared, digest)).await
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        Ok(self.uploads.committed(context, id).await)
    }
}
