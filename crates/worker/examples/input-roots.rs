//! What an input root of 10,000 files in 1,000 directories costs, beside what the file system alone asks for it: cold,
//! warm, and with one file changed. All figures are of one run on one file system, so that their ratios mean something.
//!
//! Nothing is removed until the end: ext4 takes no inode that was freed in the last minute, and searches long for others.
//! So `TMPDIR` should name a file system on which little was removed lately.
#![allow(clippy::unwrap_used)]

use mortar_model::{
    Action, BlobStoreExt, Command, Context, Digest, DigestFunction, Directory, DirectoryNode,
    ExecutionMetadata, FileNode, LocalFiles,
    session::{ExecutionId, Run},
};
use mortar_store::{Completeness, DiskConfig, DiskStore, Results};
use mortar_wire::{Protobuf, encode_action, encode_command, encode_directory};
use mortar_worker::{Stores, Worker, WorkerConfig};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Directories at the top, and in each of those; with the top ones they are 1,000.
const TOP: usize = 10;
const BELOW: usize = 99;
const FILES: usize = 10_000;
const SIZE: usize = 2048;
/// Rounds, unless the command line names a number.
const ROUNDS: usize = 5;
/// Before them, for what is only slow the first time.
const UNCOUNTED: usize = 1;

fn main() {
    mortar_sandbox::init_if_asked();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(measure());
}

/// The content of a file in one version of the tree.
fn content(version: usize, index: usize) -> Vec<u8> {
    let mut text = format!("{version} {index} ").into_bytes();
    let mut state = (version * FILES + index + 1) as u64;
    while text.len() < SIZE {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(format!("{:016x}", state >> 3).as_bytes());
    }
    text.truncate(SIZE);
    text
}

/// Where a file lies: all leaves hold about ten.
fn place(index: usize) -> (usize, usize) {
    let leaf = index % (TOP * BELOW);
    (leaf / BELOW, leaf % BELOW)
}

fn path(root: &Path, index: usize) -> PathBuf {
    let (top, below) = place(index);
    root.join(format!("t{top}")).join(format!("b{below:02}")).join(format!("f{index:05}"))
}

fn make_directories(root: &Path) {
    for top in 0..TOP {
        for below in 0..BELOW {
            fs::create_dir_all(root.join(format!("t{top}")).join(format!("b{below:02}"))).unwrap();
        }
    }
}

/// What the file system alone takes: to create and write, and to link.
fn bare(within: &Path, round: usize) -> (Duration, Duration) {
    let contents: Vec<_> = (0..FILES).map(|index| content(0, index)).collect();
    let [written, linked] = ["written", "linked"].map(|name| within.join(format!("{name}{round}")));
    rustix::fs::sync();
    let started = Instant::now();
    make_directories(&written);
    for (index, content) in contents.iter().enumerate() {
        fs::write(path(&written, index), content).unwrap();
    }
    let create = started.elapsed();
    rustix::fs::sync();
    let started = Instant::now();
    make_directories(&linked);
    for index in 0..FILES {
        fs::hard_link(path(&written, index), path(&linked, index)).unwrap();
    }
    let link = started.elapsed();
    (create, link)
}

struct Bench {
    disk: Arc<DiskStore>,
    worker: Worker,
}

impl Bench {
    async fn open(directory: &Path) -> Self {
        let store = DiskConfig { directory: directory.join("store"), max_size: 8 << 30 };
        let disk = DiskStore::open(store).expect("the store opens");
        let local = Some(Arc::clone(&disk) as Arc<dyn LocalFiles>);
        let results = Arc::new(Results::new(disk.clone(), Arc::new(Protobuf)));
        let actions = Arc::new(Completeness::new(results, disk.clone(), Arc::new(Protobuf)));
        let stores = Stores { blobs: Arc::clone(&disk) as _, near: None, local, actions };
        let config = WorkerConfig::new("bench", directory.join("work"));
        let worker = Worker::open(config, stores).await.expect("the sandbox works here");
        Self { disk, worker }
    }

    async fn put(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &bytes);
        self.disk.write_bytes(&Context::internal(), digest, bytes.into()).await.expect("it can be written");
        digest
    }

    /// Uploads the tree of a version in which one file, perhaps, is of another.
    async fn root(&self, version: usize, changed: Option<usize>) -> Digest {
        let mut leaves = vec![vec![Directory::default(); BELOW]; TOP];
        let all: Vec<_> = (0..FILES)
            .map(|index| content(if changed == Some(index) { version + 1000 } else { version }, index))
            .collect();
        for (index, bytes) in all.iter().enumerate() {
            let (top, below) = place(index);
            let digest = Digest::of(DigestFunction::Sha256, bytes);
            let name = format!("f{index:05}");
            leaves[top][below].files.push(FileNode { name, digest, is_executable: true, properties: None });
        }
        let writes = all.into_iter().map(|bytes| self.put(bytes));
        futures::future::join_all(writes).await;
        let mut root = Directory::default();
        for (top, leaves) in leaves.iter().enumerate() {
            let mut middle = Directory::default();
            for (below, leaf) in leaves.iter().enumerate() {
                let digest = self.put(encode_directory(leaf).to_vec()).await;
                middle.directories.push(DirectoryNode { name: format!("b{below:02}"), digest });
            }
            let digest = self.put(encode_directory(&middle).to_vec()).await;
            root.directories.push(DirectoryNode { name: format!("t{top}"), digest });
        }
        self.put(encode_directory(&root).to_vec()).await
    }

    async fn action(&self, input_root_digest: Digest) -> Digest {
        let command = Command { arguments: vec!["/bin/true".into()], ..Command::default() };
        let command_digest = self.put(encode_command(&command).to_vec()).await;
        let action =
            Action { command_digest, input_root_digest, timeout: None, do_not_cache: true, platform: None };
        self.put(encode_action(&action).to_vec()).await
    }

    /// How long the inputs took, and the whole action.
    async fn run(&self, action_digest: Digest) -> (Duration, Duration) {
        let run = Run {
            execution: ExecutionId("roots".into()),
            context: Context::internal(),
            action_digest,
            metadata: ExecutionMetadata::default(),
            default_timeout: Duration::from_secs(60),
        };
        // What was written before is not for this run to wait for.
        rustix::fs::sync();
        let started = Instant::now();
        let outcome = self.worker.run(run, Arc::new(()), Default::default()).await.expect("it runs");
        let all = started.elapsed();
        assert_eq!(outcome.result.exit_code, 0);
        let times = outcome.result.metadata;
        let (from, to) = (times.input_fetch_start.unwrap(), times.input_fetch_completed.unwrap());
        (to.duration_since(from).unwrap_or_default(), all)
    }
}

async fn measure() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let bench = Bench::open(directory.path()).await;
    let empty = bench.action(Digest::empty(DigestFunction::Sha256)).await;
    let mut columns: Vec<[f64; 9]> = Vec::new();
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    for round in 0..rounds + UNCOUNTED {
        let plain = bench.action(bench.root(round, None).await).await;
        let changed = bench.action(bench.root(round, Some(round * 977 + 5)).await).await;
        let (create, link) = bare(directory.path(), round);
        let (_, nothing) = bench.run(empty).await;
        let (cold, cold_all) = bench.run(plain).await;
        let (warm, warm_all) = bench.run(plain).await;
        let (one, one_all) = bench.run(changed).await;
        let row = [create, link, nothing, cold, cold_all, warm, warm_all, one, one_all];
        let row = row.map(|time| time.as_secs_f64() * 1e3);
        eprintln!("round {round}: {row:.1?}");
        if round >= UNCOUNTED {
            columns.push(row);
        }
    }
    let median = |column: usize| {
        let mut values: Vec<_> = columns.iter().map(|row| row[column]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (create, link, nothing) = (median(0), median(1), median(2));
    println!("median of {rounds} rounds: {FILES} files of {SIZE} bytes in {} directories", TOP * BELOW + TOP);
    println!("bare create-and-write     {create:9.2} ms");
    println!("bare hardlinking          {link:9.2} ms");
    println!("an action without inputs  {nothing:9.2} ms");
    for (name, column, beside, of) in [
        ("cold", 3, create, "create-and-write"),
        ("warm", 5, link, "hardlinking"),
        ("one file changed", 7, link, "hardlinking"),
    ] {
        let (inputs, all) = (median(column), median(column + 1));
        let (ratio, whole) = (inputs / beside, (all - nothing) / beside);
        println!(
            "{name:<17} inputs {inputs:9.2} ms = {ratio:5.3} x {of}; action {all:9.2} ms, less that of one without \
             inputs = {whole:5.3} x"
        );
    }
}
