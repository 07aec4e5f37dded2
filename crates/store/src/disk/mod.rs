//! The disk store. Small things are appended to segments and made durable in groups, large blobs are files; an index in
//! mapped files tells where each thing lies, so that opening takes no time and memory is the page cache's.
//! `docs/disk-format.md` has the format byte by byte.
//!
//! - `layout`: the directory and its owner · `medium`: all that is done to files · `key`: what is named
//! - `frame`, `segments`, `scan`: records, the files they are in, all of one file · `log`: how they are appended
//! - `table`: the index · `checkpoint`, `replay`: how it survives
//! - `intake`, `files`, `pieces`: how blobs come in · `read`, `buffers`, `made`: how they go out · `records`: what else is kept
//! - `leases`, `pins`: what was promised · `room`, `usage`: what it takes · `keeper`, `sweep`, `reclaim`: making room
//! - `squeeze`: compression of what rests · `uploads`: what outlives the process
//! - `quarantine`, `strays`: what becomes of damaged things, and of files that nothing tells of · `verify`: looking for
//!   them · `purge`: removal on demand ·
//!   `stats`: figures · `probe`: the readers alone, for those who fuzz them
//!
//! Completeness of action results, permissions and limits per request are left to others.

mod buffers;
mod checkpoint;
mod files;
mod frame;
mod holds;
mod intake;
mod keeper;
mod key;
mod layout;
mod leases;
mod log;
mod made;
mod medium;
mod migrate;
mod pieces;
mod pins;
pub mod probe;
mod purge;
mod quarantine;
mod read;
mod reclaim;
mod records;
mod replay;
mod room;
mod scan;
mod segments;
mod squeeze;
mod stats;
mod strays;
mod sweep;
mod table;
mod uploads;
mod usage;
mod verify;

pub use medium::{Gate, Step};
pub use stats::StoreStats;
pub use verify::{Finding, Verdict, VerifyOptions, VerifyReport, VerifyStep};

use crate::{blocking::hop, frames, sessions::Sessions};
use async_trait::async_trait;
use buffers::Buffers;
use bytes::Bytes;
use checkpoint::{Checkpoint, Progress};
use key::Key;
use layout::Layout;
use leases::{Leases, Stamp};
use medium::Medium;
use mortar_model::{
    Blob, BlobStore, ByteStream, Clock, Context, Digest, DigestFunction, DigestSet, EncodedBlobs, Error,
    Forget, HashIndex, Kind, LocalFile, LocalFiles, Range, Result, SystemClock,
};
use parking_lot::Mutex;
use segments::Segments;
use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use table::{Entry, Table};
use uploads::{Leftovers, Uploading};

/// Disk space is given in blocks, in bytes.
const BLOCK: u64 = 4096;
/// Digests that are looked up where they are asked for; more of them are worth a hop to a thread that may block.
const LOOK_AT_ONCE: usize = 32;
/// Segments of large stores; those of small ones are in proportion.
const SEGMENT: u64 = 128 << 20;
const SMALLEST_SEGMENT: u64 = 256 << 10;

/// Where a store lies and how much it may take.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// A directory of the store's own; made if it does not exist.
    pub directory: PathBuf,
    /// What all of it may take on disk, in bytes.
    pub max_size: u64,
}

/// For how long the store keeps what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// What was promised stays so long, unless a write would be refused otherwise.
    pub lease: Duration,
    /// An invocation that makes no call for so long has ended; until then, nothing takes what it was promised.
    pub grace: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(3 * 60 * 60), grace: Duration::from_secs(10 * 60) }
    }
}

/// What seldom needs to be changed, and the clock.
#[derive(Clone)]
pub struct Policy {
    /// For how long promises hold.
    pub leases: LeaseTerms,
    /// How long an upload that nobody continues is kept, if its room is not needed earlier.
    pub keep_uploads: Duration,
    /// How many of such uploads are kept; each holds a file open.
    pub max_idle_uploads: usize,
    /// What was not used for so long is compressed.
    pub compress_after: Duration,
    /// What pinned blobs may take, in bytes; a quarter of the store's size where that is not given.
    pub pin_quota: Option<u64>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Sees all that is done to files. For tests.
    pub gate: Option<Arc<dyn Gate>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            leases: LeaseTerms::default(),
            keep_uploads: Duration::from_secs(60 * 60),
            max_idle_uploads: 128,
            compress_after: Duration::from_secs(5 * 60),
            pin_quota: None,
            clock: Arc::new(SystemClock),
            gate: None,
        }
    }
}

/// Blobs, uploads and records in one directory, which one process owns. Dropping it waits until all that was begun is
/// on disk.
pub struct DiskStore {
    shared: Arc<Shared>,
    uploads: Arc<Sessions<Uploading>>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskStore {
    /// Opens the store in a directory. Takes no longer for a large one; its methods need a Tokio runtime.
    pub fn open(config: DiskConfig) -> Result<Arc<Self>> {
        Self::open_with(config, Policy::default())
    }

    /// Opens the store with a policy of one's own.
    pub fn open_with(config: DiskConfig, policy: Policy) -> Result<Arc<Self>> {
        let medium = Medium::new(policy.gate.clone());
        let layout = Layout::open(&config.directory, &medium)?;
        let name = config.directory.display().to_string();
        let open = Shared::open(layout, medium, config.max_size, &policy);
        let (shared, sequence) =
            open.map_err(|error| Error::io(format!("opening the store in `{name}`"), error))?;
        let shared = Arc::new(shared);
        let uploads = Sessions::new(policy.keep_uploads, policy.max_idle_uploads, policy.clock.clone());
        let uploads = Arc::new(uploads);
        let _ = shared.uploads.set(Arc::downgrade(&uploads));
        let log = shared.clone();
        let (keeper, squeezer) = (shared.clone(), shared.clone());
        let threads = vec![
            spawn("store-log", move || log::run(&log, sequence))?,
            spawn("store-keeper", move || keeper::run(&keeper))?,
            spawn("store-squeezer", move || squeeze::run(&squeezer))?,
        ];
        Ok(Arc::new(Self { shared, uploads, threads }))
    }

    /// How long what was promised stays, where that does not mean that a write is refused.
    pub fn lease(&self) -> Duration {
        self.shared.leases.lease()
    }
}

impl Drop for DiskStore {
    /// The last of what was acknowledged is durable already; this makes the next start short.
    fn drop(&mut self) {
        self.shared.keeper.stop();
        // The log last: the others wait for it.
        for thread in self.threads.drain(1..).collect::<Vec<_>>() {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.shared.log.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.shared.checkpoint(true);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| Error::io("starting a thread of the store", error))
}

/// What the parts of the store have in common.
struct Shared {
    layout: Layout,
    medium: Medium,
    secret: u64,
    clock: Arc<dyn Clock>,
    max_size: u64,
    segment_size: u64,
    table: Table,
    segments: Segments,
    log: log::Log,
    progress: Mutex<Progress>,
    leases: Leases,
    usage: usage::Usage,
    room: room::Room,
    names: Arc<files::Names>,
    held: holds::Held,
    /// Held while pins are changed.
    pinning: tokio::sync::Mutex<()>,
    pin_quota: u64,
    /// Held while things are evicted, or pins are set.
    sweeping: Mutex<()>,
    /// Held while a segment is reclaimed: one at a time.
    reclaiming: Mutex<()>,
    compress_after: Duration,
    made: made::MadeFiles,
    keeper: keeper::Keeper,
    buffers: Buffers,
    counters: stats::Counters,
    stock_taken: AtomicBool,
    /// Blobs that were purged since the start: a verification that runs must not take them up again.
    purged: Mutex<HashSet<Key>>,
    opened: Instant,
    keep_uploads: Duration,
    leftovers: Leftovers,
    strays: strays::Strays,
    /// The last run did not end in order.
    unclean: bool,
    /// What is in them holds this in turn.
    uploads: OnceLock<Weak<Sessions<Uploading>>>,
}

impl Shared {
    /// Takes up what earlier runs left. With the highest sequence that was given out.
    fn open(layout: Layout, medium: Medium, max_size: u64, policy: &Policy) -> io::Result<(Self, u64)> {
        let secret = layout.secret();
        let segments = Segments::open(&layout.segments(), secret, &medium)?;
        let checkpoint = Checkpoint::load(&layout.checkpoint(), secret);
        let (table, is_new) = open_table(&layout.index(), secret, &medium)?;
        let is_known = checkpoint.is_some();
        let mut known = checkpoint.unwrap_or_default();
        if is_new {
            // All is to be found again in the segments.
            known = Checkpoint { sequence: known.sequence, leases: known.leases, ..Checkpoint::default() };
        }
        let progress = Progress::begun(known.applied, known.sequence);
        let shared = Self {
            secret,
            clock: policy.clock.clone(),
            max_size,
            segment_size: (max_size / 64).clamp(SMALLEST_SEGMENT, SEGMENT),
            table,
            segments,
            log: log::Log::default(),
            progress: Mutex::new(progress),
            leases: Leases::new(policy, known.leases, known.clean),
            usage: usage::Usage::default(),
            room: room::Room::default(),
            names: Arc::default(),
            held: holds::Held::default(),
            pinning: tokio::sync::Mutex::default(),
            pin_quota: policy.pin_quota.unwrap_or(max_size / 4),
            sweeping: Mutex::default(),
            reclaiming: Mutex::default(),
            compress_after: policy.compress_after,
            made: made::MadeFiles::default(),
            keeper: keeper::Keeper::default(),
            buffers: Buffers::default(),
            counters: stats::Counters::default(),
            stock_taken: AtomicBool::new(false),
            purged: Mutex::default(),
            opened: policy.clock.now(),
            keep_uploads: policy.keep_uploads,
            leftovers: Leftovers::default(),
            strays: strays::Strays::default(),
            unclean: !known.clean,
            uploads: OnceLock::new(),
            layout,
            medium,
        };
        shared.room.leave.store(u64::MAX, Relaxed);
        shared.usage.restore(known.files, known.counts);
        shared.count_quarantine();
        shared.leftovers.find(&shared);
        if !known.clean {
            shared.table.distrust(!is_known);
        }
        let highest = match known.clean {
            true => 0,
            false => shared.replay(known.applied)?,
        };
        let sequence = highest.max(known.sequence);
        shared.progress.lock().sequence = sequence;
        // From here on, only a run that ends in order says so.
        if known.clean || highest > known.sequence {
            let last = shared.segments.from(0).last().copied().unwrap_or_default();
            shared.progress.lock().applied = last;
            shared.begin_run()?;
        }
        Ok((shared, sequence))
    }

    /// The entry of a thing that is here, whose use is noted.
    fn look(&self, key: &Key, stamp: Stamp) -> Option<Entry> {
        loop {
            let entry = self.table.look(key, |touch, _| stamp.apply(touch))?;
            if self.segments.contains(entry.place.segment) {
                return Some(entry);
            }
            // Its segment may have been reclaimed since the index was asked; then it lies elsewhere by now.
            if self.table.get(key) == Some(entry) {
                return None;
            }
        }
    }

    /// Whether a thing of this size is here; if so, its use is noted.
    fn has(&self, key: &Key, size: u64, stamp: Stamp) -> bool {
        self.look(key, stamp).is_some_and(|entry| entry.size == size)
    }

    fn missing(&self, digests: &DigestSet, stamp: Stamp) -> DigestSet {
        let is_missing =
            |digest: &Digest| !digest.is_empty() && !self.has(&Key::of(*digest), digest.size(), stamp);
        digests.iter().filter(is_missing).collect()
    }

    /// What is kept free for copies of what segments hold when they are reclaimed.
    fn compaction_reserve(&self) -> u64 {
        2 * self.segment_size
    }

    fn expire_uploads(&self) {
        if let Some(uploads) = self.uploads.get().and_then(Weak::upgrade) {
            uploads.expire();
        }
        let age = self.clock.now().saturating_duration_since(self.opened);
        while age >= self.keep_uploads && self.leftovers.drop_one(self) {}
    }

    /// Drops the upload that was left first, if nobody holds it; unless `urgent`, only one that was left for a while.
    fn drop_idle_upload(&self, urgent: bool) -> bool {
        if self.leftovers.drop_one(self) {
            return true;
        }
        let Some(uploads) = self.uploads.get().and_then(Weak::upgrade) else { return false };
        let left_for = uploads.longest_idle();
        let goes = left_for.is_some_and(|idle| urgent || idle > UPLOAD_REST);
        if goes {
            uploads.drop_idlest();
        }
        goes
    }
}

/// An upload that was left may be taken up again within this time, unless room is wanted at once.
const UPLOAD_REST: Duration = Duration::from_secs(10 * 60);

/// The index; made anew if it cannot be read, for all it says is in the segments too.
fn open_table(directory: &Path, secret: u64, medium: &Medium) -> io::Result<(Table, bool)> {
    let is_new = std::fs::read_dir(directory)?.next().is_none();
    match Table::open(directory, secret, medium) {
        Ok(table) => {
            let is_new = is_new || table.is_made_anew;
            Ok((table, is_new))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::error!(%error, "the index is damaged; it is made anew from the segments");
            std::fs::remove_dir_all(directory)?;
            std::fs::create_dir(directory)?;
            Ok((Table::open(directory, secret, medium)?, true))
        }
        Err(error) => Err(error),
    }
}

#[async_trait]
impl BlobStore for DiskStore {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.shared.read_blob(digest, range, self.shared.leases.stamp(context)).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.shared.write_blob(digest, blob, self.shared.leases.stamp(context)).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let stamp = self.shared.leases.stamp(context);
        if digests.len() <= LOOK_AT_ONCE {
            return Ok(self.shared.missing(digests, stamp));
        }
        let (shared, digests) = (self.shared.clone(), digests.clone());
        hop(move || Ok(shared.missing(&digests, stamp))).await
    }
}

#[async_trait]
impl EncodedBlobs for DiskStore {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        self.shared.read_frames(digest, range, self.shared.leases.stamp(context)).await
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        let stamp = self.shared.leases.stamp(context);
        let size = usize::try_from(digest.size()).unwrap_or(usize::MAX);
        self.shared.check_fits(digest.size())?;
        let whole = frames.clone();
        let content = hop(move || frames::grow(&whole, size).map_err(|flaw| flaw.of_upload(digest))).await?;
        self.shared.write_frames(digest, frames, content.into(), stamp).await
    }
}

#[async_trait]
impl LocalFiles for DiskStore {
    async fn local_file(&self, context: &Context, digest: Digest) -> Result<Option<LocalFile>> {
        self.shared.lend_file(digest, self.shared.leases.stamp(context)).await
    }

    fn damage(&self) -> u64 {
        self.shared.counters.quarantined.load(Relaxed)
    }
}

#[async_trait]
impl Forget for DiskStore {
    /// Who reads the blob this moment reads it to its end. One whose file is lent stays.
    async fn forget(&self, _: &Context, digest: Digest) -> Result<bool> {
        match self.shared.forget(Key::of(digest)).await {
            Err(error) if matches!(error.kind(), Kind::Unavailable { .. }) => Ok(false),
            done => done,
        }
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
        let entry = self.shared.look(&Key::new(function, *hash), self.shared.leases.stamp(context));
        Ok(entry.map(|entry| Digest::new(function, *hash, entry.size)))
    }
}
