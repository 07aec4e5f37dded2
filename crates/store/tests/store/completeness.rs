//! Which results `Completeness` keeps and serves.

use crate::fixture::{context, fresh, put};
use bytes::Bytes;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStoreExt, Digest, DigestFunction, Directory, DirectoryNode,
    FileNode, KeptResult, OutputDirectory, OutputFile, ResultStore, Tree,
};
use mortar_store::{Completeness, CompletenessStats, MemoryStore, Results, SizeLimit};
use mortar_testkit::{
    codec::TableCodec,
    faults::{FailsAfter, Forgetful},
};
use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

struct House {
    blobs: Arc<Forgetful>,
    codec: Arc<TableCodec>,
    inner: Arc<Results>,
    actions: Completeness,
    key: ActionKey,
}

impl House {
    fn new() -> Self {
        let (store, codec) = (MemoryStore::new(1 << 30), Arc::new(TableCodec::default()));
        let blobs = Arc::new(Forgetful::new(store.clone()));
        let inner = Arc::new(Results::new(store, codec.clone()));
        let actions = Completeness::new(inner.clone(), blobs.clone(), codec.clone());
        Self { blobs, codec, inner, actions, key: fresh(10).0.into() }
    }

    /// Whether a result is served that is put in place of whatever was there.
    async fn serves(&self, result: &ActionResult) -> bool {
        self.inner.remove(&context(), self.key).await.unwrap();
        self.actions.put(&context(), self.key, result.clone()).await.unwrap();
        let served = self.actions.get(&context(), self.key).await.unwrap();
        assert!(served.is_none() || served.as_ref() == Some(result));
        served.is_some()
    }

    async fn blob(&self) -> Digest {
        put(&*self.blobs, 100).await.0
    }

    /// Stores a tree with this file, below a directory, which has this digest.
    async fn tree(&self, file: Digest, below: Digest) -> Digest {
        let file = FileNode { name: "f".into(), digest: file, is_executable: false, properties: None };
        let child = Directory { files: vec![file], ..Default::default() };
        let node = DirectoryNode { name: "d".into(), digest: below };
        let root = Directory { directories: vec![node], ..Default::default() };
        let bytes = self.codec.encode_tree(&Tree { root, children: vec![child] });
        self.keep(bytes).await
    }

    /// Stores a directory of these files and directories.
    async fn directory(&self, files: &[Digest], directories: &[Digest]) -> Digest {
        let name = |index: usize| format!("{index:03}");
        let file = |(index, digest): (usize, &Digest)| FileNode {
            name: format!("f{}", name(index)),
            digest: *digest,
            is_executable: false,
            properties: None,
        };
        let node = |(index, digest): (usize, &Digest)| DirectoryNode { name: name(index), digest: *digest };
        let directory = Directory {
            files: files.iter().enumerate().map(file).collect(),
            directories: directories.iter().enumerate().map(node).collect(),
            ..Default::default()
        };
        self.keep(self.codec.encode_directory(&directory)).await
    }

    async fn keep(&self, bytes: Bytes) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &bytes);
        self.blobs.write_bytes(&context(), digest, bytes).await.unwrap();
        digest
    }
}

fn with_file(digest: Digest) -> ActionResult {
    let file = OutputFile {
        path: "out".into(),
        digest,
        is_executable: false,
        contents: Default::default(),
        properties: None,
    };
    ActionResult { files: vec![file], ..Default::default() }
}

fn with_directory(tree: Option<Digest>, root: Option<Digest>) -> ActionResult {
    let directory = OutputDirectory {
        path: "out".into(),
        tree_digest: tree,
        is_topologically_sorted: false,
        root_directory_digest: root,
    };
    ActionResult { directories: vec![directory], ..Default::default() }
}

fn with_logs(stdout: Digest, stderr: Digest) -> ActionResult {
    ActionResult { stdout_digest: Some(stdout), stderr_digest: Some(stderr), ..Default::default() }
}

#[tokio::test]
async fn a_result_is_served_if_all_that_it_names_is_there() {
    let house = House::new();
    let (here, gone) = (house.blob().await, fresh(100).0);
    let empty = Digest::empty(DigestFunction::Sha256);
    let whole = house.tree(here, here).await;
    let no_file = house.tree(gone, here).await;
    let no_directory = house.tree(here, gone).await;
    for (what, result, served) in [
        ("nothing", ActionResult::default(), true),
        ("a file", with_file(here), true),
        ("an empty file", with_file(empty), true),
        ("a missing file", with_file(gone), false),
        ("logs", with_logs(here, empty), true),
        ("missing stdout", with_logs(gone, here), false),
        ("missing stderr", with_logs(here, gone), false),
        ("a tree", with_directory(Some(whole), None), true),
        ("a missing tree", with_directory(Some(gone), None), false),
        ("a tree with a missing file", with_directory(Some(no_file), None), false),
        ("a tree whose directories are no blobs", with_directory(Some(no_directory), None), true),
        ("a tree and a missing root", with_directory(Some(whole), Some(gone)), false),
        ("something that is no tree", with_directory(Some(here), None), false),
    ] {
        assert_eq!(house.serves(&result).await, served, "{what}");
    }
}

#[tokio::test]
async fn a_result_that_names_a_root_is_served_if_all_below_it_is_there() {
    let house = &House::new();
    let (here, gone) = (house.blob().await, fresh(100).0);
    let empty = Digest::empty(DigestFunction::Sha256);
    let tree = house.tree(here, here).await;
    let leaf = house.directory(&[here, here], &[]).await;
    let whole = house.directory(&[here], &[leaf, empty, leaf]).await;
    let lacks_file = house.directory(&[here, gone], &[leaf]).await;
    let lacks_directory = house.directory(&[here], &[leaf, gone]).await;
    let above = |root| async move { house.directory(&[], &[leaf, root]).await };
    for (what, root, served) in [
        ("a whole one", whole, true),
        ("an empty one", empty, true),
        ("a missing one", gone, false),
        ("no directory", here, false),
        ("a file is missing", lacks_file, false),
        ("a directory is missing", lacks_directory, false),
        ("a whole one below", above(whole).await, true),
        ("a file is missing below", above(lacks_file).await, false),
        ("a directory is missing below", above(lacks_directory).await, false),
        ("no directory below", above(here).await, false),
        ("a file of the same content as a directory", house.directory(&[leaf], &[leaf]).await, true),
        ("a file that is a directory which lacks one", house.directory(&[lacks_file], &[]).await, true),
    ] {
        assert_eq!(house.serves(&with_directory(None, Some(root))).await, served, "{what}");
        assert_eq!(house.serves(&with_directory(Some(tree), Some(root))).await, served, "a tree, {what}");
    }
}

#[tokio::test]
async fn directories_that_occur_often_are_read_once() {
    let house = House::new();
    // Written out, these are 2^40 directories.
    let mut root = house.directory(&[house.blob().await], &[]).await;
    for _ in 0..40 {
        root = house.directory(&[], &[root, root]).await;
    }
    assert!(house.serves(&with_directory(None, Some(root))).await);
}

fn kept(result: ActionResult) -> KeptResult {
    let closure = Arc::new(result.named_blobs());
    KeptResult { result, closure, invocation: String::new(), stored: SystemTime::UNIX_EPOCH }
}

#[tokio::test]
async fn failed_results_are_neither_stored_nor_served() {
    let house = House::new();
    let failed = ActionResult { exit_code: 1, ..Default::default() };
    assert!(!house.serves(&failed).await);
    assert_eq!(house.inner.get(&context(), house.key).await.unwrap(), None);
    // Not even if somebody else stored it.
    house.inner.put(&context(), house.key, kept(failed)).await.unwrap();
    assert_eq!(house.actions.get(&context(), house.key).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_result_does_not_replace_a_good_one() {
    let house = House::new();
    assert!(house.serves(&ActionResult::default()).await);
    let failed = ActionResult { exit_code: 1, ..Default::default() };
    house.actions.put(&context(), house.key, failed).await.unwrap();
    assert!(house.actions.get(&context(), house.key).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_needed_is_found_once_and_kept() {
    let house = House::new();
    let (file, tree_file, root_file) = (house.blob().await, house.blob().await, house.blob().await);
    let tree = house.tree(tree_file, fresh(1).0).await;
    let leaf = house.directory(&[root_file], &[]).await;
    let root = house.directory(&[], &[leaf]).await;
    let mut result = with_directory(Some(tree), Some(root));
    result.files = with_file(file).files;
    assert!(house.serves(&result).await);
    let kept = house.inner.get(&context(), house.key).await.unwrap().unwrap();
    let needed: BTreeSet<_> = kept.closure.iter().collect();
    assert_eq!(needed, BTreeSet::from([file, tree, tree_file, root, leaf, root_file]));
    // Nothing is read, and there is one search.
    let blobs = Arc::new(FailsAfter::new(house.blobs.clone(), 1));
    let actions = Completeness::new(house.inner.clone(), blobs, house.codec.clone());
    assert_eq!(actions.get(&context(), house.key).await.unwrap(), Some(result));
    assert!(actions.get(&context(), house.key).await.is_err());
}

#[tokio::test]
async fn a_result_goes_with_any_blob_that_it_needs() {
    let house = House::new();
    let (file, below) = (house.blob().await, house.blob().await);
    let root = house.directory(&[below], &[]).await;
    let mut result = with_directory(None, Some(root));
    result.files = with_file(file).files;
    for lost in [file, below, root] {
        let bytes = house.blobs.read_all(&context(), lost, 1 << 20).await.unwrap();
        assert!(house.serves(&result).await);
        house.blobs.lose(lost);
        assert_eq!(house.actions.get(&context(), house.key).await.unwrap(), None);
        assert_eq!(house.inner.get(&context(), house.key).await.unwrap(), None, "it was not removed");
        house.blobs.write_bytes(&context(), lost, bytes).await.unwrap();
    }
    let expected = CompletenessStats { served: 3, incomplete: 3, removed: 3, not_kept: 0 };
    assert_eq!(house.actions.stats(), expected);
}

#[tokio::test]
async fn where_blobs_are_made_again_a_result_outlives_their_loss() {
    let house = House::new();
    let (file, bytes) = put(&*house.blobs, 100).await;
    let actions =
        Completeness::new(house.inner.clone(), house.blobs.clone(), house.codec.clone()).with_remakes();
    actions.put(&context(), house.key, with_file(file)).await.unwrap();
    house.blobs.lose(file);
    assert_eq!(actions.get(&context(), house.key).await.unwrap(), None);
    house.blobs.write_bytes(&context(), file, bytes).await.unwrap();
    assert_eq!(actions.get(&context(), house.key).await.unwrap(), Some(with_file(file)));
    assert_eq!(actions.stats(), CompletenessStats { served: 1, incomplete: 1, removed: 0, not_kept: 0 });
}

#[tokio::test]
async fn a_result_that_cannot_be_used_is_not_kept() {
    let house = House::new();
    assert!(house.serves(&ActionResult::default()).await);
    let gone = with_file(fresh(10).0);
    house.actions.put(&context(), house.key, gone).await.unwrap();
    assert_eq!(house.actions.stats().not_kept, 1);
    // The one before it is as good as it was.
    assert_eq!(house.actions.get(&context(), house.key).await.unwrap(), Some(ActionResult::default()));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_an_error_not_a_miss() {
    let house = House::new();
    let here = house.blob().await;
    let result = with_directory(Some(house.tree(here, here).await), None);
    // The result's own blobs are asked for, the tree is read, all of it is asked for.
    for (calls, answers) in [(0, false), (1, false), (2, false), (3, true)] {
        let blobs = Arc::new(FailsAfter::new(house.blobs.clone(), calls));
        let actions = Completeness::new(house.inner.clone(), blobs, house.codec.clone());
        let put = actions.put(&context(), house.key, result.clone()).await;
        assert_eq!(put.is_ok(), answers, "after {calls} calls");
    }
    let blobs = Arc::new(FailsAfter::new(house.blobs.clone(), 0));
    let actions = Completeness::new(house.inner.clone(), blobs, house.codec.clone());
    assert!(actions.get(&context(), house.key).await.is_err());
    assert!(house.actions.get(&context(), house.key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_size_limit_refuses_what_is_larger() {
    let store = SizeLimit::new(MemoryStore::new(1 << 20), 1000);
    put(&store, 1000).await;
    let (digest, bytes) = fresh(1001);
    let error = store.write_bytes(&context(), digest, bytes).await.unwrap_err();
    assert!(error.to_string().contains("1000 bytes") && error.retry_after().is_none(), "{error}");
}
