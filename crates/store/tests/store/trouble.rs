//! A disk that is full, or fails, at any moment: the call that met with it gets an error, and nothing else is harmed.

use crate::fixture::{
    HeldClock, MIB, balanced, config, context, files, invocation, open_with, quick_directory, unfinished,
    until,
};
use bytes::Bytes;
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestFunction, Kind, Range, Result};
use mortar_store::{DiskStore, Gate, Policy, Record, RecordKind, Records, Step};
use mortar_testkit::conformance::Random;
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

const FULL: i32 = 28;
const BROKEN: i32 = 5;
const ALL_STEPS: &str = "MORTAR_FAULTS_ALL_STEPS";
/// Little enough that the script below makes room several times.
const SIZE: u64 = 3 * MIB;

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write,
    Sync,
    Read,
    Rename,
    SyncDirectory,
    Flush,
    Remove,
}

impl What {
    const ALL: [Self; 7] =
        [Self::Write, Self::Sync, Self::Read, Self::Rename, Self::SyncDirectory, Self::Flush, Self::Remove];

    fn of(step: &Step<'_>) -> Self {
        match step {
            Step::Create(_) | Step::Write(..) | Step::Cut(..) => Self::Write,
            Step::Read(_) => Self::Read,
            Step::Sync(_) => Self::Sync,
            Step::Flush(..) => Self::Flush,
            Step::Rename(..) => Self::Rename,
            Step::Remove(_) => Self::Remove,
            Step::SyncDirectory(_) => Self::SyncDirectory,
        }
    }
}

/// Refuses the n-th step of a kind, or all from that on.
struct Faulty {
    what: What,
    number: u64,
    lasting: bool,
    errno: i32,
    seen: AtomicU64,
    armed: AtomicBool,
}

impl Faulty {
    fn new(what: What, number: u64, lasting: bool, errno: i32) -> Arc<Self> {
        Arc::new(Self { what, number, lasting, errno, seen: AtomicU64::new(0), armed: AtomicBool::new(true) })
    }

    fn disarm(&self) {
        self.armed.store(false, SeqCst);
    }
}

impl Gate for Faulty {
    fn pass(&self, step: Step<'_>) -> io::Result<()> {
        if What::of(&step) != self.what || !self.armed.load(SeqCst) {
            return Ok(());
        }
        let seen = self.seen.fetch_add(1, SeqCst);
        let refuses = seen == self.number || self.lasting && seen > self.number;
        if refuses { Err(io::Error::from_raw_os_error(self.errno)) } else { Ok(()) }
    }
}

/// What was acknowledged, and what may be.
#[derive(Default)]
struct Known {
    /// On which a running build counts, so that it may not be evicted.
    promised: Vec<(Digest, Bytes)>,
    others: Vec<(Digest, Bytes)>,
    /// The content of a record may be any of these; none of them may be missing where `None` is not among them.
    records: BTreeMap<u8, Vec<Option<Bytes>>>,
}

impl Known {
    fn note(&mut self, name: u8, content: Option<Bytes>, outcome: &Result<()>) {
        let known = self.records.entry(name).or_insert_with(|| vec![None]);
        match outcome {
            Ok(()) => *known = vec![content],
            Err(_) => known.push(content),
        }
    }
}

fn build() -> Context {
    invocation("a build")
}

/// Writes, replaces and removes things of all kinds, so that the store has to make room and reclaims segments.
async fn script(store: &DiskStore, clock: &HeldClock) -> Known {
    let (mut random, mut known) = (Random::seeded(7), Known::default());
    for step in 0..50_u8 {
        let length = [100_000, 1000, 200_000, 90_000][usize::from(step) % 4];
        let (digest, bytes) = random.blob(DigestFunction::Sha256, length);
        let is_promised = step % 3 == 0;
        let context = if is_promised { build() } else { context() };
        let written = store.write_bytes(&context, digest, bytes.clone()).await;
        match (written, is_promised) {
            (Ok(()), true) => known.promised.push((digest, bytes)),
            (Ok(()), false) => known.others.push((digest, bytes)),
            (Err(error), _) => expect_storage_error(&error),
        }
        let content = random.bytes(20_000);
        let record = Record { kind: RecordKind::Result, name: [step % 5; 32], content: content.clone() };
        let put = store.put_records(&Context::internal(), vec![record]).await;
        known.note(step % 5, Some(content), &put);
        if step % 7 == 6 {
            let removed = store.remove_record(RecordKind::Result, [step % 5; 32]).await.map(drop);
            known.note(step % 5, None, &removed);
        }
        if let Some((digest, bytes)) = known.promised.get(usize::from(step) / 6)
            && let Some(read) = read(store, *digest).await
        {
            assert_eq!(read, *bytes);
        }
        clock.advance(if step % 4 == 0 { 60 } else { 0 });
    }
    known
}

fn expect_storage_error(error: &mortar_model::Error) {
    let wrong = matches!(
        error.kind(),
        Kind::NotFound { .. } | Kind::DataLoss { .. } | Kind::ResourceExhausted { retry_after: None, .. }
    );
    assert!(!wrong, "{error}");
}

/// What is read, if the disk lets us; what is said of it must not be that it is not there.
async fn read(store: &DiskStore, digest: Digest) -> Option<Bytes> {
    let blob = match store.read(&build(), digest, Range::ALL).await {
        Ok(blob) => blob.into_bytes().await,
        Err(error) => Err(error),
    };
    blob.inspect_err(expect_storage_error).ok()
}

/// Without faults by now: all that was promised is there, and nothing wrong.
async fn expect_known(store: &DiskStore, known: &Known, what: &str) {
    for (digest, bytes) in &known.promised {
        let read = store.read_all(&build(), *digest, SIZE).await;
        let read = read.unwrap_or_else(|error| panic!("{what}: promised blob: {error}"));
        assert_eq!(read, *bytes, "{what}");
    }
    for (digest, bytes) in &known.others {
        match store.read_all(&context(), *digest, SIZE).await {
            Ok(read) => assert_eq!(read, *bytes, "{what}"),
            Err(error) => assert!(error.is_not_found(), "{what}: {error}"),
        }
    }
    for (name, contents) in &known.records {
        let read = store.record(&Context::internal(), RecordKind::Result, [*name; 32]).await.unwrap();
        // Nobody counts on a record, so it may have been evicted.
        assert!(read.is_none() || contents.contains(&read), "{what}: record {name} is an older one");
    }
    let stats = store.stats();
    assert_eq!((stats.quarantined, stats.lost, stats.lease_violations), (0, 0, 0), "{what}: {stats:?}");
}

/// Runs the script with a fault, then looks at what is there: at once, as after a crash of the process, and after a
/// restart in order. Returns how many steps of that kind there were.
async fn run(what: What, number: u64, lasting: bool, errno: i32) -> u64 {
    let name = format!("{what:?} {number} lasting {lasting} error {errno}");
    println!("{name}");
    let directory = quick_directory();
    let (own, copy) = (directory.path().join("own"), directory.path().join("copy"));
    let clock = HeldClock::new();
    let policy = |gate| Policy { clock: clock.clone(), gate, ..Policy::default() };
    drop(open_with(&own, SIZE, policy(None)).await);
    let gate = Faulty::new(what, number, lasting, errno);
    let opened = DiskStore::open_with(config(&own, SIZE), policy(Some(gate.clone())));
    let Ok(store) = opened else {
        gate.disarm();
        let store = open_with(&own, SIZE, policy(None)).await;
        expect_known(&store, &Known::default(), &name).await;
        return gate.seen.load(SeqCst);
    };
    let known = script(&store, &clock).await;
    let seen = gate.seen.load(SeqCst);
    if number.is_multiple_of(2) {
        gate.disarm();
        expect_known(&store, &known, &name).await;
        until("unfinished files are gone", || unfinished(&own).is_empty()).await;
        balanced(&store, &own).await;
    }
    copy_tree(&own, &copy);
    drop(store);
    gate.disarm();
    for (directory, when) in [(copy, "after a crash"), (own, "after a restart")] {
        let store = open_with(&directory, SIZE, policy(None)).await;
        expect_known(&store, &known, &format!("{name} {when}")).await;
        balanced(&store, &directory).await;
    }
    seen
}

/// Copies a directory as it is at one moment.
fn copy_tree(from: &Path, to: &Path) {
    loop {
        let found = files(from);
        for path in &found {
            let target = to.join(path.strip_prefix(from).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            let _ = fs::copy(path, target);
        }
        if files(from) == found {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// Each of so many steps, unless all are asked for.
fn every(step: usize) -> usize {
    if std::env::var_os(ALL_STEPS).is_some() { 1 } else { step }
}

async fn run_all(what: What, errno: i32, step: usize) {
    let count = run(what, u64::MAX, false, errno).await;
    assert!(count > 0 || what == What::Flush, "the script does nothing of this kind");
    // Another beginning each time, so that none is never met with.
    let first = Random::new().number() % step as u64;
    for number in (first..count).step_by(step) {
        run(what, number, false, errno).await;
    }
    // What a disk can no longer give is lost, and one that frees nothing is full for good; anything else that it no longer
    // does harms nothing that is there.
    let may_last = !matches!(what, What::Read | What::Remove);
    for number in (0..count).step_by(1 + count as usize / 2).filter(|_| may_last) {
        run(what, number, true, errno).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_any_write() {
    run_all(What::Write, FULL, every(15)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_at_any_step() {
    for what in What::ALL {
        // Those of which there are many, now and then.
        let step = if matches!(what, What::Read | What::Write) { 60 } else { 21 };
        run_all(what, BROKEN, every(step)).await;
    }
}
