//! Real actions on a real worker, over stores in memory and on disk: what they get, what becomes of their outputs, and
//! how a server's conversation with a worker goes.
#![allow(clippy::unwrap_used)]

mod inputs;
mod life;
mod near;
mod outputs;
mod refusals;
mod remote;
mod sessions;
mod shared;

use bytes::Bytes;
use mortar_model::{
    Action, ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Command, Context, Digest,
    DigestFunction, Directory, DirectoryNode, ExecutionMetadata, FileNode, LocalFiles, NodeProperties,
    Outcome, Result, SymlinkNode,
    action::Outputs,
    session::{ExecutionId, Run},
};
use mortar_store::{Completeness, DiskConfig, DiskStore, MemoryStore, Results};
use mortar_wire::{Protobuf, encode_action, encode_command, encode_directory};
use mortar_worker::{Stores, Worker, WorkerConfig};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// A worker and its stores.
pub struct Lab {
    pub worker: Worker,
    pub blobs: Arc<dyn BlobStore>,
    pub actions: Arc<Completeness>,
    pub disk: Option<Arc<DiskStore>>,
    pub directory: TempDir,
}

pub fn config(directory: &TempDir) -> WorkerConfig {
    let mut config = WorkerConfig::new("tester", directory.path().join("work"));
    config.slots = 2;
    config.sandbox.helper = env!("CARGO_BIN_EXE_mortar-worker-sandbox").into();
    config.maximum_timeout = Duration::from_secs(100);
    config
}

impl Lab {
    pub async fn memory() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        Self::with(directory, config, MemoryStore::new(1 << 30), None).await
    }

    pub async fn disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
        let disk = DiskStore::open(store).unwrap();
        let config = config(&directory);
        Self::with(directory, config, disk.clone(), Some(disk)).await
    }

    pub async fn both() -> [Self; 2] {
        [Self::memory().await, Self::disk().await]
    }

    pub async fn with(
        directory: TempDir,
        config: WorkerConfig,
        blobs: Arc<dyn BlobStore>,
        disk: Option<Arc<DiskStore>>,
    ) -> Self {
        let results = Arc::new(Results::new(MemoryStore::new(1 << 20), Arc::new(Protobuf)));
        let actions = Arc::new(Completeness::new(results, blobs.clone(), Arc::new(Protobuf)));
        let local = disk.clone().map(|disk| disk as Arc<dyn LocalFiles>);
        let stores = Stores { blobs: blobs.clone(), near: None, local, actions: actions.clone() };
        let worker = Worker::open(config, stores).await.unwrap();
        Self { worker, blobs, actions, disk, directory }
    }

    pub async fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(FUNCTION, &bytes);
        self.blobs.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        digest
    }

    pub async fn get(&self, digest: Digest) -> Bytes {
        self.blobs.read_all(&Context::internal(), digest, 1 << 30).await.unwrap()
    }

    pub async fn text(&self, digest: Option<Digest>) -> String {
        match digest {
            Some(digest) => String::from_utf8(self.get(digest).await.to_vec()).unwrap(),
            None => String::new(),
        }
    }

    /// Uploads an action; its digest.
    pub async fn action(&self, job: &Job) -> Digest {
        let action = Action {
            command_digest: self.put(encode_command(&job.command)).await,
            input_root_digest: self.tree(&job.inputs).await,
            timeout: job.timeout,
            do_not_cache: job.do_not_cache,
            platform: None,
        };
        self.put(encode_action(&action)).await
    }

    /// The messages that an action consists of; all are uploaded.
    pub async fn messages(&self, job: &Job) -> Vec<Digest> {
        let action = self.action(job).await;
        let mut messages = vec![action, self.put(encode_command(&job.command)).await];
        let mut pending = vec![self.tree(&job.inputs).await];
        while let Some(digest) = pending.pop() {
            let directory = mortar_wire::decode_directory(FUNCTION, self.get(digest).await).unwrap();
            pending.extend(directory.directories.iter().map(|node| node.digest));
            messages.push(digest);
        }
        messages
    }

    /// Uploads directories; the root's digest.
    async fn tree(&self, inputs: &Inputs) -> Digest {
        let mut directory = Directory { properties: inputs.properties.clone(), ..Directory::default() };
        for (name, input) in &inputs.entries {
            match input {
                Input::File { content, is_executable, properties } => directory.files.push(FileNode {
                    name: name.clone(),
                    digest: self.put(content.clone()).await,
                    is_executable: *is_executable,
                    properties: properties.clone(),
                }),
                Input::Link(target) => directory.symlinks.push(SymlinkNode {
                    name: name.clone(),
                    target: target.clone(),
                    properties: None,
                }),
                Input::Directory(inputs) => directory
                    .directories
                    .push(DirectoryNode { name: name.clone(), digest: Box::pin(self.tree(inputs)).await }),
            }
        }
        self.put(encode_directory(&directory)).await
    }

    pub async fn run(&self, job: &Job) -> Result<Outcome> {
        let action = self.action(job).await;
        self.worker.run(run(action), Arc::new(()), CancellationToken::new()).await
    }

    /// Runs an action that succeeds.
    pub async fn ok(&self, job: &Job) -> ActionResult {
        let result = self.run(job).await.unwrap().result;
        let (stdout, stderr) = (self.text(result.stdout_digest).await, self.text(result.stderr_digest).await);
        assert_eq!(result.exit_code, 0, "{stdout}{stderr}");
        result
    }

    /// Standard output of an action that succeeds.
    pub async fn stdout(&self, job: &Job) -> String {
        let result = self.ok(job).await;
        self.text(result.stdout_digest).await
    }

    pub async fn cached(&self, action: Digest) -> Option<ActionResult> {
        self.actions.get(&Context::internal(), ActionKey::from(action)).await.unwrap()
    }

    /// What is left in the work directory besides locks and the worker's own directory.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let own = std::fs::read_dir(self.directory.path().join("work"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let inside =
            own.filter(|path| path.is_dir()).flat_map(|path| std::fs::read_dir(path).unwrap().flatten());
        inside
            .map(|entry| entry.path())
            .filter(|path| !path.ends_with("lock") && !path.ends_with("cache"))
            // One that is empty waits for the next run.
            .filter(|path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()))
            .collect()
    }
}

pub fn run(action_digest: Digest) -> Run {
    Run {
        execution: ExecutionId("test".into()),
        context: Context::internal(),
        action_digest,
        metadata: ExecutionMetadata { queued: Some(std::time::UNIX_EPOCH), ..ExecutionMetadata::default() },
        default_timeout: Duration::from_secs(60),
    }
}

/// An action as a test tells it.
#[derive(Clone, Default)]
pub struct Job {
    pub command: Command,
    pub inputs: Inputs,
    pub timeout: Option<Duration>,
    pub do_not_cache: bool,
}

#[derive(Clone, Default)]
pub struct Inputs {
    pub entries: BTreeMap<String, Input>,
    pub properties: Option<NodeProperties>,
}

#[derive(Clone)]
pub enum Input {
    File { content: Bytes, is_executable: bool, properties: Option<NodeProperties> },
    Link(String),
    Directory(Inputs),
}

impl Job {
    pub fn new(script: &str) -> Self {
        let arguments = ["/bin/bash", "-c", script].map(String::from).to_vec();
        let environment = vec![("PATH".into(), "/usr/bin:/bin".into())];
        Self { command: Command { arguments, environment, ..Command::default() }, ..Self::default() }
    }

    pub fn input(mut self, path: &str, input: Input) -> Self {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut inputs = &mut self.inputs;
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            let entry =
                inputs.entries.entry(parent.into()).or_insert_with(|| Input::Directory(Inputs::default()));
            let Input::Directory(below) = entry else { panic!("`{parent}` is no directory") };
            inputs = below;
        }
        inputs.entries.insert(name.into(), input);
        self
    }

    /// A file as Bazel declares all of its own: executable.
    pub fn file(self, path: &str, content: &str) -> Self {
        let content = Bytes::copy_from_slice(content.as_bytes());
        self.input(path, Input::File { content, is_executable: true, properties: None })
    }

    pub fn paths(mut self, paths: &[&str]) -> Self {
        self.command.outputs = Outputs::Paths(paths.iter().map(|path| (*path).into()).collect());
        self
    }

    pub fn typed(mut self, files: &[&str], directories: &[&str]) -> Self {
        self.command.outputs = Outputs::Typed {
            files: files.iter().map(|path| (*path).into()).collect(),
            directories: directories.iter().map(|path| (*path).into()).collect(),
        };
        self
    }
}
