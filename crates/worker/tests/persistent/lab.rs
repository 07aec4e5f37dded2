//! A worker with its stores, and actions that ask for a persistent worker.

use bytes::Bytes;
use mortar_model::{
    Action, ActionCache, ActionKey, BlobStoreExt, Command, Context, Digest, DigestFunction, Directory,
    DirectoryNode, ExecutionMetadata, FileNode, InstanceName, LocalFiles, NodeProperties, Outcome, Platform,
    Result,
    action::Outputs,
    session::{ExecutionId, Run},
};
use mortar_store::{Completeness, DiskConfig, DiskStore, MemoryStore, Results};
use mortar_wire::{Protobuf, encode_action, encode_command, encode_directory};
use mortar_worker::{Stores, Worker, WorkerConfig};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
const TOOL: &str = include_str!("tool.py");

pub struct Lab {
    pub worker: Worker,
    pub disk: Arc<DiskStore>,
    pub actions: Arc<Completeness>,
    pub directory: TempDir,
}

/// An action of the tool.
#[derive(Clone)]
pub struct Job {
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub platform: Vec<(String, String)>,
    pub working_directory: String,
    /// Content, and whether it is marked, by path.
    pub inputs: BTreeMap<String, (Bytes, bool)>,
    pub outputs: Vec<String>,
    pub timeout: Option<Duration>,
    pub instance: String,
}

impl Job {
    /// The tool is to do these commands.
    pub fn new(commands: &str) -> Self {
        let arguments = ["/usr/bin/python3", "bin/tool.py", "@args"].map(String::from).to_vec();
        let job = Self {
            arguments,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            platform: vec![("persistentWorkerKey".into(), "key".into())],
            working_directory: String::new(),
            inputs: BTreeMap::new(),
            outputs: Vec::new(),
            timeout: None,
            instance: String::new(),
        };
        job.tool("bin/tool.py", TOOL)
            .tool("bin/data", "of the tool")
            .input("args", &commands.replace("; ", "\n"))
    }

    pub fn json(commands: &str) -> Self {
        let mut job = Self::new(commands).with("persistentWorkerProtocol", "json");
        job.arguments.insert(2, "--json".into());
        job
    }

    pub fn input(mut self, path: &str, content: &str) -> Self {
        self.inputs.insert(path.into(), (Bytes::copy_from_slice(content.as_bytes()), false));
        self
    }

    pub fn tool(mut self, path: &str, content: &str) -> Self {
        self.inputs.insert(path.into(), (Bytes::copy_from_slice(content.as_bytes()), true));
        self
    }

    pub fn output(mut self, path: &str) -> Self {
        self.outputs.push(path.into());
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.platform.push((name.into(), value.into()));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.insert(2, argument.into());
        self
    }

    /// As Bazel sends it where it marks nothing.
    pub fn unmarked(mut self) -> Self {
        self.inputs.values_mut().for_each(|(_, marked)| *marked = false);
        self
    }

    pub fn plain(mut self) -> Self {
        self.platform.clear();
        self
    }
}

fn config(directory: &TempDir) -> WorkerConfig {
    let mut config = WorkerConfig::new("tester", directory.path().join("work"));
    config.slots = 2;
    let helper = std::env::var_os("MORTAR_TEST_HELPER");
    config.sandbox.helper = helper.map_or(env!("CARGO_BIN_EXE_mortar-worker-sandbox").into(), PathBuf::from);
    config.maximum_timeout = Duration::from_secs(100);
    config
}

impl Lab {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
        let disk = DiskStore::open(store).unwrap();
        let results = Arc::new(Results::new(MemoryStore::new(1 << 20), Arc::new(Protobuf)));
        let actions = Arc::new(Completeness::new(results, disk.clone(), Arc::new(Protobuf)));
        let local = Some(disk.clone() as Arc<dyn LocalFiles>);
        let stores = Stores { blobs: disk.clone(), near: None, local, actions: actions.clone() };
        let mut config = config(&directory);
        change(&mut config);
        let worker = Worker::open(config, stores).await.unwrap();
        Self { worker, disk, actions, directory }
    }

    pub async fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(FUNCTION, &bytes);
        self.disk.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        digest
    }

    pub async fn text(&self, digest: Option<Digest>) -> String {
        let Some(digest) = digest else { return String::new() };
        let bytes = self.disk.read_all(&Context::internal(), digest, 1 << 30).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Uploads an action; its digest.
    pub async fn action(&self, job: &Job) -> Digest {
        let platform = (!job.platform.is_empty()).then(|| Platform::new(job.platform.clone()));
        let command = Command {
            arguments: job.arguments.clone(),
            environment: job.environment.clone(),
            outputs: Outputs::Paths(job.outputs.clone()),
            working_directory: job.working_directory.clone(),
            platform: platform.clone(),
            ..Command::default()
        };
        let inputs: Vec<_> = job.inputs.iter().map(|(path, input)| (path.as_str(), input)).collect();
        let action = Action {
            command_digest: self.put(encode_command(&command)).await,
            input_root_digest: self.tree(&inputs).await,
            timeout: job.timeout,
            do_not_cache: false,
            platform,
        };
        self.put(encode_action(&action)).await
    }

    async fn tree(&self, inputs: &[(&str, &(Bytes, bool))]) -> Digest {
        let (mut directory, mut below) = (Directory::default(), BTreeMap::<&str, Vec<_>>::new());
        for (path, input) in inputs {
            if let Some((first, rest)) = path.split_once('/') {
                below.entry(first).or_default().push((rest, *input));
                continue;
            }
            let (content, marked) = input;
            let other = vec![("bazel_tool_input".to_owned(), String::new())];
            let digest = self.put(content.clone()).await;
            let properties = marked.then(|| NodeProperties { other, ..NodeProperties::default() });
            directory.files.push(FileNode { name: (*path).into(), digest, is_executable: true, properties });
        }
        for (name, inputs) in below {
            let digest = Box::pin(self.tree(&inputs)).await;
            directory.directories.push(DirectoryNode { name: name.into(), digest });
        }
        self.put(encode_directory(&directory)).await
    }

    pub async fn run(&self, job: &Job) -> Result<Outcome> {
        self.run_until(job, CancellationToken::new()).await
    }

    pub async fn run_until(&self, job: &Job, cancelled: CancellationToken) -> Result<Outcome> {
        let instance = InstanceName::parse(&job.instance).unwrap();
        let run = Run {
            execution: ExecutionId("test".into()),
            context: Context::internal().with_instance(instance),
            action_digest: self.action(job).await,
            metadata: ExecutionMetadata::default(),
            default_timeout: Duration::from_secs(60),
        };
        self.worker.run(run, Arc::new(()), cancelled).await
    }

    /// What an action says that is done by a persistent worker, and which request that was to its process.
    pub async fn told(&self, job: &Job) -> (String, u64) {
        let outcome = self.run(job).await.unwrap();
        let text = self.text(outcome.result.stderr_digest).await;
        let persistent = outcome.result.metadata.persistent_worker;
        let requests = persistent.unwrap_or_else(|| panic!("{}: {text}", outcome.message)).requests;
        assert_eq!((outcome.message.as_str(), outcome.cached), ("", false));
        (text, requests)
    }

    pub async fn is_recorded(&self, job: &Job) -> bool {
        let key = ActionKey::from(self.action(job).await);
        self.actions.get(&Context::internal(), key).await.unwrap().is_some()
    }

    /// Directories of runs and processes that are there; one that is empty waits for the next run.
    pub fn directories(&self) -> usize {
        let parents = std::fs::read_dir(self.directory.path().join("work")).unwrap().flatten();
        let inside = parents
            .filter(|entry| entry.path().is_dir())
            .flat_map(|entry| std::fs::read_dir(entry.path()).unwrap().flatten());
        let in_use = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_some());
        inside.map(|entry| entry.path()).filter(|path| !path.ends_with("cache") && in_use(path)).count()
    }
}

/// An argument that only processes of this test have: the same tests may run at the same time as somebody else.
pub fn mark(test: &str) -> String {
    format!("--{test}-{}", std::process::id())
}

/// Processes with this among their arguments.
pub fn processes(mark: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes())).count()
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to pass");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
