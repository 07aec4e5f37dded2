//! A machine that loses its power: directories as that may leave them, at random moments of a run. All that was made
//! durable is there; of all that was done since, anything may be: writes in part, sector by sector, in any order; names or
//! not; pages of the index as they are or as they were.

use crate::fixture::{MIB, balanced, context, invocation, open_with, quick_directory};
use bytes::Bytes;
use mortar_model::{BlobStoreExt, Context, Digest, DigestFunction};
use mortar_store::{DiskStore, Gate, Policy, Record, RecordKind, Records, Step};
use mortar_testkit::conformance::Random;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

const SIZE: u64 = 4 * MIB;
const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// Images are made in runs of so many.
const IMAGES: u64 = 10;
const RUNS: u64 = 20;
const MORE_RUNS: &str = "MORTAR_CRASH_RUNS";
const SEED: &str = "MORTAR_CRASH_SEED";

/// One file, whatever its name.
#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// Since then.
    writes: Vec<(u64, Bytes)>,
    /// Where it is mapped, its content when it lost its name.
    mapped: Option<Vec<u8>>,
}

/// What a disk has been told.
#[derive(Clone, Default)]
struct Platter {
    inodes: Vec<Inode>,
    /// As the processes see them.
    names: BTreeMap<PathBuf, usize>,
    /// As they are sure to be after a crash.
    durable: BTreeMap<PathBuf, usize>,
    /// What became of names since their directory was made durable; the last one may be the present one, or none.
    pending: BTreeMap<PathBuf, Vec<Option<usize>>>,
    directories: BTreeSet<PathBuf>,
}

impl Platter {
    fn rename(&mut self, path: &Path, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(path.into(), inode),
            None => self.names.remove(path),
        };
        self.pending.entry(path.into()).or_default().push(inode);
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let inode = self.names[path];
        &mut self.inodes[inode]
    }

    fn note(&mut self, step: &Step<'_>) {
        match *step {
            Step::Create(path) => {
                self.inodes.push(Inode::default());
                self.rename(path, Some(self.inodes.len() - 1));
            }
            Step::Write(path, at, bytes) => self.inode(path).writes.push((at, Bytes::copy_from_slice(bytes))),
            Step::Cut(path, length) => {
                let inode = self.inode(path);
                let content = inode.content();
                inode.durable = content[..content.len().min(length as usize)].to_vec();
                inode.writes.clear();
            }
            Step::Sync(path) => {
                let inode = self.inode(path);
                (inode.durable, inode.writes) = (inode.content(), Vec::new());
            }
            Step::Flush(path, bytes) => self.inode(path).durable = bytes.to_vec(),
            Step::Rename(from, to) => {
                if is_mapped(to)
                    && let Some(old) = self.names.get(to)
                {
                    self.inodes[*old].mapped = fs::read(to).ok();
                }
                // Some renames are tried and find nothing.
                if let Some(inode) = self.names.get(from).copied() {
                    self.rename(from, None);
                    self.rename(to, Some(inode));
                }
            }
            Step::Remove(path) => self.rename(path, None),
            Step::SyncDirectory(directory) => self.sync_directory(directory),
            Step::Read(_) => {}
        }
    }

    fn sync_directory(&mut self, directory: &Path) {
        let of = |path: &Path| path.parent() == Some(directory);
        let synced: Vec<PathBuf> = self.pending.keys().filter(|path| of(path)).cloned().collect();
        for path in synced {
            let last = self.pending.remove(&path).and_then(|inodes| inodes.last().copied()).flatten();
            match last {
                Some(inode) => self.durable.insert(path, inode),
                None => self.durable.remove(&path),
            };
        }
        let inside = fs::read_dir(directory).into_iter().flatten().flatten();
        self.directories.extend(inside.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
}

fn is_mapped(path: &Path) -> bool {
    path.parent().is_some_and(|directory| directory.ends_with("index"))
        && path.extension().is_none_or(|extension| extension == "new")
}

impl Inode {
    fn content(&self) -> Vec<u8> {
        let mut content = self.durable.clone();
        for (at, bytes) in &self.writes {
            let end = *at as usize + bytes.len();
            content.resize(content.len().max(end), 0);
            content[*at as usize..end].copy_from_slice(bytes);
        }
        content
    }

    /// As a crash may leave it. `present`: what is mapped of it.
    fn after_crash(&self, random: &mut Random, present: Option<Vec<u8>>) -> Vec<u8> {
        let mut content = self.durable.clone();
        let thoroughness = random.number() % 5;
        for (at, bytes) in &self.writes {
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                let start = *at as usize + number * SECTOR;
                if random.number() % 4 < thoroughness {
                    content.resize(content.len().max(start + sector.len()), 0);
                    content[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        let full = self.content().len();
        if random.number().is_multiple_of(2) && full > content.len() {
            // The length was written, the content was not.
            content.resize(full, 0);
        }
        if let Some(present) = present.filter(|present| present.len() == content.len()) {
            for at in (0..present.len()).step_by(PAGE) {
                if random.number() % 4 < thoroughness {
                    let end = present.len().min(at + PAGE);
                    content[at..end].copy_from_slice(&present[at..end]);
                }
            }
        }
        content
    }
}

/// Sees all that is done.
#[derive(Default)]
struct Recorder(Mutex<Platter>);

impl Gate for Recorder {
    fn pass(&self, step: Step<'_>) -> io::Result<()> {
        self.0.lock().unwrap().note(&step);
        Ok(())
    }
}

impl Recorder {
    /// Makes an image of the directory `from` as a crash at this moment may leave it.
    fn crash(&self, random: &mut Random, from: &Path, to: &Path) {
        let platter = self.0.lock().unwrap();
        let mut names = platter.durable.clone();
        for (path, inodes) in &platter.pending {
            // Any of its states since, or that before.
            let choice = random.number() as usize % (inodes.len() + 1);
            match choice.checked_sub(1).map(|choice| inodes[choice]) {
                None => {}
                Some(Some(inode)) => drop(names.insert(path.clone(), inode)),
                Some(None) => drop(names.remove(path)),
            }
        }
        for (path, inode) in names {
            let below = path.strip_prefix(from).unwrap();
            let mut above = path.ancestors().skip(1).take_while(|above| *above != from);
            if !above.all(|above| platter.directories.contains(above)) {
                continue;
            }
            let mapped = is_mapped(&path).then(|| {
                let is_present = platter.names.get(&path) == Some(&inode);
                if is_present { fs::read(&path).ok() } else { platter.inodes[inode].mapped.clone() }
            });
            let content = platter.inodes[inode].after_crash(random, mapped.flatten());
            let target = to.join(below);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
        }
    }
}

/// What was acknowledged, and what may be.
#[derive(Clone, Default)]
struct Known {
    blobs: HashMap<Digest, Bytes>,
    records: BTreeMap<u8, History>,
}

/// What became of one record.
#[derive(Clone)]
struct History {
    contents: Vec<Option<Bytes>>,
    /// Up to which of them it was acknowledged.
    acknowledged: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { contents: vec![None], acknowledged: 0 }
    }
}

type Shared = Arc<Mutex<Known>>;

/// Does this and that. Blobs are promised, so that they stay; records are replaced so often that their segments have to
/// be reclaimed.
async fn work(store: Arc<DiskStore>, known: Shared, task: u8, seed: u64) {
    let mut random = Random::seeded(seed * 31 + u64::from(task));
    for step in 0..60 {
        if step % 3 == 0 {
            let length = [300, 3000, 30_000, 140_000][random.number() as usize % 4];
            let (digest, bytes) = random.blob(DigestFunction::Sha256, length);
            let few = known.lock().unwrap().blobs.values().map(Bytes::len).sum::<usize>() < 1_000_000;
            if few && store.write_bytes(&invocation("a build"), digest, bytes.clone()).await.is_ok() {
                known.lock().unwrap().blobs.insert(digest, bytes);
            }
        } else {
            let name = task * 8 + random.number() as u8 % 8;
            let content = (!random.number().is_multiple_of(6)).then(|| random.bytes(20_000));
            known.lock().unwrap().records.entry(name).or_default().contents.push(content.clone());
            let done = match &content {
                Some(content) => {
                    let record =
                        Record { kind: RecordKind::Result, name: [name; 32], content: content.clone() };
                    store.put_records(&Context::internal(), vec![record]).await
                }
                None => store.remove_record(RecordKind::Result, [name; 32]).await.map(drop),
            };
            if done.is_ok() {
                let mut known = known.lock().unwrap();
                let history = known.records.entry(name).or_default();
                history.acknowledged = history.contents.len() - 1;
            }
        }
    }
}

async fn expect_known(store: &DiskStore, known: &Known, what: &str) {
    for (digest, bytes) in &known.blobs {
        let read = store.read_all(&context(), *digest, SIZE).await;
        let read =
            read.unwrap_or_else(|error| panic!("{what}: an acknowledged blob: {error}, {:?}", store.stats()));
        assert_eq!(read, *bytes, "{what}");
    }
    for (name, history) in &known.records {
        let read = store.record(&Context::glance(), RecordKind::Result, [*name; 32]).await.unwrap();
        let is_known = history.contents[history.acknowledged..].contains(&read);
        // Nobody counts on a record, so it may have been evicted.
        assert!(is_known || read.is_none(), "{what}: record {name} is an older one");
    }
    let stats = store.stats();
    assert_eq!((stats.quarantined, stats.lost), (0, 0), "{what}: {stats:?}");
}

async fn run(seed: u64) {
    let directory = quick_directory();
    let own = directory.path().join("own");
    let recorder = Arc::new(Recorder::default());
    let policy = Policy { gate: Some(recorder.clone()), ..Policy::default() };
    let mut store = open_with(&own, SIZE, policy.clone()).await;
    let (mut random, known) = (Random::seeded(seed), Shared::default());
    let mut tasks: Vec<_> = Vec::new();
    for image in 0..IMAGES {
        if image == IMAGES / 2 {
            // A checkpoint, and what comes after one.
            for task in tasks.drain(..) {
                let _: Result<(), tokio::task::JoinError> = task.await;
            }
            drop(store);
            store = open_with(&own, SIZE, policy.clone()).await;
        }
        if tasks.is_empty() {
            let begin = |task| tokio::spawn(work(store.clone(), known.clone(), task, seed + image));
            tasks = (0..3).map(begin).collect();
        }
        for _ in 0..random.number() % 40 {
            tokio::task::yield_now().await;
        }
        let crashed = directory.path().join(image.to_string());
        // First, so that nothing counts as acknowledged that came after the crash.
        let mut acknowledged = known.lock().unwrap().clone();
        recorder.crash(&mut random, &own, &crashed);
        // What was begun before the crash may have become durable.
        for (name, history) in &known.lock().unwrap().records {
            acknowledged.records.entry(*name).or_default().contents = history.contents.clone();
        }
        examine(&crashed, &acknowledged, &format!("seed {seed} image {image}")).await;
        fs::remove_dir_all(crashed).unwrap();
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!known.lock().unwrap().blobs.is_empty());
}

/// Opens an image twice, since what was found again must be found once more.
async fn examine(crashed: &Path, acknowledged: &Known, what: &str) {
    for time in ["first", "second"] {
        let store = open_with(crashed, SIZE, Policy::default()).await;
        expect_known(&store, acknowledged, &format!("{what}, opened a {time} time")).await;
        if time == "second" {
            balanced(&store, crashed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_loss() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first = number(SEED, Random::new().number() % 1_000_000);
    for seed in first..first + number(MORE_RUNS, RUNS) {
        println!("{SEED}={seed}");
        run(seed).await;
    }
}
