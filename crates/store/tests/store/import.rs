//! Imports of directories of other caches, made by hand.

use crate::fixture::{context, files};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, BlobStoreExt, Codec, Context, Digest,
    DigestFunction, DigestSet, Directory, FileNode, OutputDirectory, OutputFile, Range, Result, Tree,
};
use mortar_store::{
    Completeness, MemoryStore, Results,
    import::{self, Kind, Progress, Report, Target},
};
use mortar_testkit::{codec::TableCodec, conformance::Random, faults::FailsAfter};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A directory of another cache, and a store to import it into.
struct Scene {
    source: tempfile::TempDir,
    codec: Arc<TableCodec>,
    blobs: Arc<MemoryStore>,
    actions: Arc<dyn ActionCache>,
    random: Random,
}

impl Scene {
    fn new() -> Self {
        let (codec, blobs) = (Arc::new(TableCodec::default()), MemoryStore::new(1 << 30));
        let results = Arc::new(Results::new(MemoryStore::new(1 << 30), codec.clone()));
        let actions = Arc::new(Completeness::new(results, blobs.clone(), codec.clone()));
        let source = tempfile::tempdir().unwrap();
        Self { source, codec, blobs, actions, random: Random::seeded(7) }
    }

    fn put(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = self.source.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn blob(&mut self, function: DigestFunction, length: usize) -> (Digest, Bytes) {
        self.random.blob(function, length)
    }

    /// The bytes of a result that names these files.
    fn naming(&self, digests: &[Digest]) -> Bytes {
        let file = |digest: &Digest| OutputFile {
            path: digest.hex(),
            digest: *digest,
            is_executable: false,
            contents: Bytes::new(),
            properties: None,
        };
        let files = digests.iter().map(file).collect();
        self.codec.encode_result(&ActionResult { files, ..ActionResult::default() })
    }

    fn target(&self) -> Target {
        let (blobs, actions, codec) = (self.blobs.clone(), self.actions.clone(), self.codec.clone());
        Target { blobs, actions, codec, context: context() }
    }

    async fn import(&self) -> Report {
        let before = contents(self.source.path());
        let seen = Mutex::new(Vec::new());
        let note = |progress| seen.lock().unwrap().push(progress);
        let report = import::run(self.source.path(), self.target(), &note).await.unwrap();
        assert_eq!(contents(self.source.path()), before, "the source was changed");
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len() as u64, report.progress.files, "each file is told of once");
        assert_eq!(seen.iter().map(|progress| progress.skipped).max().unwrap_or(0), report.progress.skipped);
        report
    }

    async fn expect(&self, blobs: &[(Digest, Bytes)]) {
        for (digest, bytes) in blobs {
            let read = self.blobs.read_all(&context(), *digest, u64::MAX).await;
            assert!(read.unwrap() == bytes, "`{digest}`");
        }
    }

    async fn result(&self, key: Digest) -> Option<ActionResult> {
        self.actions.get(&context(), ActionKey::from(key)).await.unwrap()
    }
}

fn contents(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let read = |path: PathBuf| {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        (path.clone(), (fs::read(&path).unwrap(), modified))
    };
    files(root).into_iter().map(read).collect()
}

fn why<'a>(report: &'a Report, path: &str) -> &'a str {
    let found = report.skipped.iter().find(|skipped| skipped.path.to_str().unwrap().contains(path));
    &found.unwrap_or_else(|| panic!("`{path}` is not named: {report:?}")).why
}

/// `ab/abcd…`
fn sharded(hex: &str) -> String {
    format!("{}/{hex}", &hex[..2])
}

/// A file of bazel-remote's: a header, then chunks of so many bytes, or all of the content as it is.
fn cas_blob(content: &[u8], chunk: Option<usize>) -> Vec<u8> {
    let chunks: Vec<_> = match chunk {
        Some(chunk) => content.chunks(chunk).map(|chunk| zstd::encode_all(chunk, 1).unwrap()).collect(),
        None => vec![content.to_vec()],
    };
    let offsets = chunks.len() as u64 + 1;
    let mut file = 0x184d_2a50_u32.to_le_bytes().to_vec();
    file.extend((21 + 8 * offsets as u32).to_le_bytes());
    file.extend((content.len() as u64).to_le_bytes());
    file.push(chunk.is_some().into());
    file.extend(chunk.unwrap_or(1 << 20).to_le_bytes()[..4].iter());
    file.extend(offsets.to_le_bytes());
    let mut at = 29 + 8 * offsets;
    file.extend(at.to_le_bytes());
    for chunk in &chunks {
        at += chunk.len() as u64;
        file.extend(at.to_le_bytes());
    }
    file.extend(chunks.concat());
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_cache_of_bazel() {
    let mut scene = Scene::new();
    let mut blobs = Vec::new();
    for (root, function) in [("", DigestFunction::Sha256), ("blake3/", DigestFunction::Blake3)] {
        for length in [1, 1000, 700_000] {
            let (digest, bytes) = scene.blob(function, length);
            scene.put(format!("{root}cas/{}", sharded(&digest.hex())), &bytes);
            blobs.push((digest, bytes));
        }
        let key = scene.blob(function, 10).0;
        let named: Vec<_> =
            blobs.iter().map(|(digest, _)| *digest).filter(|d| d.function() == function).collect();
        scene.put(format!("{root}ac/{}", sharded(&key.hex())), &scene.naming(&named));
        blobs.push((key, Bytes::new()));
    }
    let keys: Vec<_> = blobs.extract_if(.., |(_, bytes)| bytes.is_empty()).map(|(key, _)| key).collect();
    scene.put(format!("cas/{}", sharded(&Digest::empty(DigestFunction::Sha256).hex())), b"");
    scene.put("tmp/9d3f", b"half a blo");
    scene.put("gc/lock", b"");

    let report = scene.import().await;
    assert_eq!((report.kind, report.progress.skipped), (Kind::BazelDiskCache, 0), "{report:?}");
    assert_eq!((report.blobs, report.known_blobs, report.results, report.known_results), (6, 1, 2, 0));
    assert_eq!(report.progress, Progress { files: 9, bytes: 2 * 701_001, skipped: 0 });
    scene.expect(&blobs).await;
    for key in &keys {
        assert_eq!(scene.result(*key).await.unwrap().files.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_strange_is_named_and_left_out() {
    let mut scene = Scene::new();
    let [(good, bytes), (torn, torn_bytes), (flipped, _), (key, _), (dangling, _), (failed, _)] =
        [0; 6].map(|_| scene.blob(DigestFunction::Sha256, 2000));
    scene.put(format!("cas/{}", sharded(&good.hex())), &bytes);
    scene.put(format!("cas/{}", sharded(&torn.hex())), &torn_bytes[..1000]);
    scene.put(format!("cas/{}", sharded(&flipped.hex())), &bytes);
    scene.put("cas/README", b"hello");
    scene.put(format!("cas/00/{}", good.hex().to_uppercase()), b"hello");
    scene.put("cas/00/0123456789abcdef0123456789abcdef01234567", b"of SHA-1");
    scene.put("notes/todo", b"hello");
    scene.put(format!("ac/{}", sharded(&key.hex())), b"no message");
    scene.put(format!("ac/{}", sharded(&dangling.hex())), &scene.naming(&[good, torn]));
    let failure = scene.codec.encode_result(&ActionResult { exit_code: 3, ..ActionResult::default() });
    scene.put(format!("ac/{}", sharded(&failed.hex())), &failure);
    let (hollow, tree) = (scene.blob(DigestFunction::Sha256, 9).0, hollow_tree(&scene, flipped));
    let directory = OutputDirectory {
        path: "out".into(),
        tree_digest: Some(tree),
        is_topologically_sorted: false,
        root_directory_digest: None,
    };
    let result = ActionResult { directories: vec![directory], ..ActionResult::default() };
    scene.put(format!("ac/{}", sharded(&hollow.hex())), &scene.codec.encode_result(&result));

    let report = scene.import().await;
    assert_eq!((report.blobs, report.results, report.progress.skipped), (2, 0, 10), "{report:?}");
    for (path, needle) in [
        (torn.hex(), "expected"),
        (flipped.hex(), "expected"),
        ("cas/README".into(), "name"),
        (good.hex().to_uppercase(), "name"),
        ("0123456789abcdef01234567".into(), "name"),
        ("notes".into(), "does not belong"),
        (key.hex(), "stand for no message"),
        (dangling.hex(), &torn.hex()),
        (failed.hex(), "failed with 3"),
        (hollow.hex(), "directories"),
    ] {
        let why = why(&report, &path);
        assert!(why.contains(needle), "{path}: {why}");
    }
    scene.expect(&[(good, bytes)]).await;
    for key in [key, dangling, failed, hollow] {
        assert!(scene.result(key).await.is_none());
    }
}

/// A tree in the cache, which names a blob that is not there.
fn hollow_tree(scene: &Scene, missing: Digest) -> Digest {
    let file = FileNode { name: "a".into(), digest: missing, is_executable: false, properties: None };
    let root = Directory { files: vec![file], ..Directory::default() };
    let bytes = scene.codec.encode_tree(&Tree { root, children: Vec::new() });
    let tree = Digest::of(DigestFunction::Sha256, &bytes);
    scene.put(format!("cas/{}", sharded(&tree.hex())), &bytes);
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_bazel_remote() {
    let mut scene = Scene::new();
    let mut blobs = Vec::new();
    for (root, function) in [("", DigestFunction::Sha256), ("blake3/", DigestFunction::Blake3)] {
        for (length, chunk) in [(1, Some(100)), (1000, Some(300)), (700_000, Some(1 << 20)), (800_000, None)]
        {
            let (digest, bytes) = scene.blob(function, length);
            let name = sharded(&digest.hex());
            scene.put(format!("cas.v2/{root}{name}-{length}-8912345"), &cas_blob(&bytes, chunk));
            blobs.push((digest, bytes));
        }
        for infix in ["", "-5000"] {
            let (digest, bytes) = scene.blob(function, 5000);
            let name = sharded(&digest.hex());
            scene.put(format!("cas.v2/{root}{name}{infix}-77.v1"), &bytes);
            blobs.push((digest, bytes));
        }
    }
    let [key, raw, opaque] = [0; 3].map(|_| scene.blob(DigestFunction::Sha256, 10).0);
    scene.put(format!("ac.v2/{}-123", sharded(&key.hex())), &scene.naming(&[blobs[0].0, blobs[4].0]));
    scene.put(format!("raw.v2/{}-123", sharded(&raw.hex())), &scene.naming(&[blobs[1].0]));
    scene.put(format!("raw.v2/{}-124", sharded(&opaque.hex())), &scene.naming(&[]));

    let report = scene.import().await;
    assert_eq!((report.kind, report.blobs, report.results), (Kind::BazelRemote, 12, 2), "{report:?}");
    assert_eq!(report.progress.skipped, 1, "{report:?}");
    assert!(why(&report, &opaque.hex()).contains("no action result"));
    scene.expect(&blobs).await;
    assert!(scene.result(key).await.is_some() && scene.result(raw).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_of_bazel_remote() {
    let mut scene = Scene::new();
    let mut cases = Vec::new();
    let mut case = |needle: &'static str, damage: fn(&mut Vec<u8>)| {
        let (digest, bytes) = scene.blob(DigestFunction::Sha256, 3000);
        let mut file = cas_blob(&bytes, Some(1000));
        damage(&mut file);
        scene.put(format!("cas.v2/{}-3000-1", sharded(&digest.hex())), &file);
        cases.push((digest, needle));
    };
    case("ends within a frame", |file| file.truncate(file.len() - 5));
    case("within its header", |file| file.truncate(50));
    case("within its header", |file| file.truncate(10));
    case("header says", |file| file[0] = 0);
    case("header says", |file| file[8] ^= 1);
    case("too short", |file| file[4..8].fill(0));
    case("within its header", |file| file[4..8].fill(255));
    case("unknown way 9", |file| file[16] = 9);
    case("expected", |file| {
        let last = file.len() - 1;
        file[last] ^= 1;
    });
    case("no valid zstd", |file| file[61..].fill(7));
    let report = scene.import().await;
    assert_eq!((report.blobs, report.progress.skipped), (0, cases.len() as u64), "{report:?}");
    for (digest, needle) in cases {
        let why = why(&report, &digest.hex());
        assert!(why.contains(needle), "{needle}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_layout_of_bazel() {
    let mut scene = Scene::new();
    let (digest, bytes) = scene.blob(DigestFunction::Sha256, 100);
    let key = scene.blob(DigestFunction::Sha256, 10).0;
    scene.put(digest.hex(), &bytes);
    scene.put(format!("ac_{}", key.hex()), &scene.naming(&[digest]));
    scene.put("0c6f7a2e-8d1b-4c1e-9f43-0a5c8e2b7d10", b"half a blo");
    let report = scene.import().await;
    assert_eq!((report.kind, report.blobs, report.results), (Kind::BazelDiskCache, 1, 1), "{report:?}");
    assert!(why(&report, "0c6f7a2e").contains("does not belong"));
    scene.expect(&[(digest, bytes)]).await;
    assert!(scene.result(key).await.is_some());
}

/// A store that may not be written to.
struct ReadOnly(Arc<MemoryStore>);

#[async_trait]
impl BlobStore for ReadOnly {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.0.read(context, digest, range).await
    }

    async fn write(&self, _: &Context, digest: Digest, _: Blob) -> Result<()> {
        panic!("`{digest}` is written")
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.0.find_missing(context, digests).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_writes_nothing_and_changes_nothing() {
    let mut scene = Scene::new();
    let (digest, bytes) = scene.blob(DigestFunction::Sha256, 100);
    let key = scene.blob(DigestFunction::Sha256, 10).0;
    scene.put(format!("cas/{}", sharded(&digest.hex())), &bytes);
    scene.put(format!("ac/{}", sharded(&key.hex())), &scene.naming(&[digest]));
    scene.import().await;
    // What the store has learnt since is not replaced by what the old cache knew.
    let newer = ActionResult { stdout_raw: "newer".into(), ..ActionResult::default() };
    scene.actions.put(&context(), key.into(), newer.clone()).await.unwrap();

    let target = Target { blobs: Arc::new(ReadOnly(scene.blobs.clone())), ..scene.target() };
    let again = import::run(scene.source.path(), target, &|_| {}).await.unwrap();
    assert_eq!((again.blobs, again.known_blobs, again.results, again.known_results), (0, 1, 0, 1));
    assert_eq!(scene.result(key).await, Some(newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_ends_the_import_and_another_run_continues() {
    let mut scene = Scene::new();
    let blobs: Vec<_> = (0..100).map(|_| scene.blob(DigestFunction::Sha256, 500)).collect();
    for (digest, bytes) in &blobs {
        scene.put(format!("cas/{}", sharded(&digest.hex())), bytes);
    }
    let failing = Arc::new(FailsAfter::new(scene.blobs.clone(), 60));
    let target = Target { blobs: failing, ..scene.target() };
    let error = import::run(scene.source.path(), target, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("injected"), "{error}");
    let report = scene.import().await;
    assert!(report.blobs > 0 && report.known_blobs > 0, "{report:?}");
    assert_eq!((report.blobs + report.known_blobs, report.progress.skipped), (100, 0));
    scene.expect(&blobs).await;
}

#[tokio::test]
async fn a_directory_of_no_known_kind_is_refused() {
    let scene = Scene::new();
    scene.put("src/main.rs", b"fn main() {}");
    let error = import::run(scene.source.path(), scene.target(), &|_| {}).await.unwrap_err().to_string();
    for needle in ["neither", "`cas`", "`cas.v2`", scene.source.path().to_str().unwrap()] {
        assert!(error.contains(needle), "{error}");
    }
    let nowhere = scene.source.path().join("nowhere");
    let error = import::run(&nowhere, scene.target(), &|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}
