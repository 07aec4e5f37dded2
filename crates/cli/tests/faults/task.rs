//! Small actions, as a build would ask for them, by a client that does not give up while servers are away.

use bytes::Bytes;
use mortar_model::{
    Action, BlobStoreExt, Command, Context, Digest, DigestFunction, Directory, ExecuteRequest,
    ExecutionMetadata, Executor, FileNode, Outcome, Progress, Result, Stage, action,
};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_wire::{encode_action, encode_command, encode_directory};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// A client that comes back until somebody answers.
pub fn client(url: &str) -> Remote {
    let retry = Retry { attempts: 100, longest_wait: Duration::from_millis(500), ..Retry::default() };
    Endpoint::connect(url, Options { retry, ..Options::default() }).unwrap()
}

/// A name that no other process on this machine has, in the 15 bytes that the kernel keeps.
pub fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("act{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A script with its inputs, whose output is the file `out`.
#[derive(Clone, Debug, Default)]
pub struct Task {
    pub script: String,
    /// Files by name, which may be executed.
    pub inputs: Vec<(String, Digest)>,
    /// Properties that it asks for.
    pub platform: Vec<(&'static str, &'static str)>,
}

impl Task {
    /// Runs `sleep` as `marker` for so long before the script. The name can be waited for.
    pub async fn after_a_nap(remote: &Remote, marker: &str, seconds: f32, script: &str) -> Result<Self> {
        let sleep = put(remote, std::fs::read("/bin/sleep").unwrap()).await?;
        let inputs = vec![(marker.to_owned(), sleep)];
        Ok(Self { script: format!("./{marker} {seconds}; {script}"), inputs, ..Self::default() })
    }

    /// Uploads all of it; the action.
    pub async fn upload(&self, remote: &Remote) -> Result<Digest> {
        let file = |(name, digest): &(String, Digest)| FileNode {
            name: name.clone(),
            digest: *digest,
            is_executable: true,
            properties: None,
        };
        let mut files: Vec<_> = self.inputs.iter().map(file).collect();
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let root = put(remote, encode_directory(&Directory { files, ..Default::default() })).await?;
        let pairs = self.platform.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let platform = Some(mortar_model::Platform::new(pairs));
        let command = Command {
            arguments: vec!["/bin/sh".into(), "-c".into(), self.script.clone()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            outputs: action::Outputs::Paths(vec!["out".into()]),
            platform: platform.clone(),
            ..Default::default()
        };
        let action = Action {
            command_digest: put(remote, encode_command(&command)).await?,
            input_root_digest: root,
            timeout: None,
            do_not_cache: false,
            platform,
        };
        put(remote, encode_action(&action)).await
    }

    /// Uploads it and has it executed.
    pub async fn run(&self, remote: &Remote) -> Result<Outcome> {
        self.run_for(&Context::internal(), remote, &()).await
    }

    /// The same for an invocation, and for somebody who hears how it gets on.
    pub async fn run_for(
        &self,
        context: &Context,
        remote: &Remote,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let action_digest = self.upload(remote).await?;
        let request = ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 };
        remote.execute(context, request, progress).await
    }

    /// The same, meanwhile.
    pub fn start(self, remote: &Remote) -> JoinHandle<Result<Outcome>> {
        let remote = remote.clone();
        tokio::spawn(async move { self.run(&remote).await })
    }
}

/// Stores bytes.
pub async fn put(remote: &Remote, bytes: impl Into<Bytes>) -> Result<Digest> {
    let bytes = bytes.into();
    let digest = Digest::of(DigestFunction::Sha256, &bytes);
    remote.write_bytes(&Context::internal(), digest, bytes).await.map(|()| digest)
}

/// The output of an action that has to have succeeded.
pub async fn output(remote: &Remote, outcome: &Outcome) -> Result<Bytes> {
    let result = &outcome.result;
    assert_eq!(result.exit_code, 0, "{outcome:?}");
    let file = result.files.iter().find(|file| file.path == "out");
    let file = file.unwrap_or_else(|| panic!("no output: {outcome:?}"));
    remote.read_all(&Context::internal(), file.digest, 1 << 30).await
}

/// Which worker ran it, by name.
pub fn worker(outcome: &Outcome) -> &str {
    &outcome.result.metadata.worker
}

/// Counts actions that have begun to run, each once for each time that it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Begun {
    all: Arc<AtomicU32>,
    counted: Arc<AtomicBool>,
}

impl Begun {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.all.load(Ordering::SeqCst) as usize
    }

    /// For one more action.
    pub fn next(&self) -> Self {
        Self { all: self.all.clone(), counted: Arc::default() }
    }
}

impl Progress for Begun {
    fn report(&self, stage: Stage, _: &ExecutionMetadata) {
        if stage == Stage::Executing && !self.counted.swap(true, Ordering::SeqCst) {
            self.all.fetch_add(1, Ordering::SeqCst);
        }
    }
}
