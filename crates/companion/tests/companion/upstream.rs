//! A server in this process that a companion may have as its upstream: it notes what it is asked, in order, and fails as
//! it is told to.

use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet,
    Encoding, Error, ExecuteRequest, ExecutionMetadata, Executor, Kind, Outcome, OutputFile, Progress, Range,
    Result, Stage, Termination, Upload, UploadId, UploadSessions,
};
use mortar_services::{
    Offer, Offers, Operations, Ports,
    listener::{self, Address, Listener},
};
use mortar_store::{Completeness, MemoryStore, Results};
use mortar_wire::Protobuf;
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Something that the server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Read(Digest),
    Missing(DigestSet),
    Wrote(Digest),
    Got(ActionKey),
    Put(ActionKey),
    /// A result before its blobs.
    PutTooEarly(ActionKey),
    Executed(Digest),
}

/// What it does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    Away,
    /// It takes no results.
    NoResults,
    /// It has no room.
    Full,
}

/// The server, for as long as this lives.
pub struct Upstream {
    pub url: String,
    pub watch: Watch,
    pub store: Arc<MemoryStore>,
    serving: JoinHandle<()>,
}

/// What was asked, and what is done about it.
#[derive(Clone, Default)]
pub struct Watch {
    state: Arc<Mutex<(Vec<Asked>, Mood, bool)>>,
    cached: Arc<Mutex<Vec<Digest>>>,
    sizes: Arc<Mutex<Vec<(ActionKey, u64)>>>,
    holds: Arc<tokio::sync::watch::Sender<bool>>,
    writers: Arc<Mutex<BTreeSet<String>>>,
}

impl Watch {
    /// What it was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().0)
    }

    /// Whether it was asked this since then.
    pub fn has(&self, asked: &Asked) -> bool {
        self.state.lock().0.contains(asked)
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state.lock().1 = mood;
    }

    /// From now on this action is one that somebody else had executed before.
    pub fn answer_as_cached(&self, action: Digest) {
        self.cached.lock().push(action);
    }

    /// The sizes of actions that it was told with look-ups and results, since this was called last.
    pub fn sizes(&self) -> Vec<(ActionKey, u64)> {
        std::mem::take(&mut self.sizes.lock())
    }

    /// The invocations that wrote blobs or results.
    pub fn writers(&self) -> BTreeSet<String> {
        self.writers.lock().clone()
    }

    fn note_writer(&self, context: &Context) {
        self.writers.lock().insert(context.request.tool_invocation_id.clone());
    }

    fn note_size(&self, context: &Context, key: ActionKey) {
        self.sizes.lock().extend(context.digest_of(key).map(|action| (key, action.size())));
    }

    /// Says that it takes no results.
    pub fn forbid_updates(&self) {
        self.state.lock().2 = true;
    }

    /// While this is so, nothing that is executed ends.
    pub fn hold(&self, hold: bool) {
        self.holds.send_replace(hold);
    }

    async fn let_go(&self) {
        // The sender lives as long as `self`.
        let _ = self.holds.subscribe().wait_for(|hold| !hold).await;
    }

    fn note(&self, asked: Asked) -> Result<()> {
        self.admit(&asked)?;
        self.state.lock().0.push(asked);
        Ok(())
    }

    fn admit(&self, asked: &Asked) -> Result<()> {
        let state = self.state.lock();
        let is_result = matches!(asked, Asked::Put(_) | Asked::PutTooEarly(_));
        let writes = is_result || matches!(asked, Asked::Wrote(_));
        let refused = match state.1 {
            Mood::Well => None,
            Mood::Away => {
                Some(Kind::Unavailable { message: "the upstream is away".into(), retry_after: None })
            }
            Mood::NoResults => is_result.then(|| Kind::PermissionDenied { message: "not for you".into() }),
            Mood::Full => writes.then(|| Kind::ResourceExhausted {
                message: "no room is left".into(),
                retry_after: Some(Duration::from_secs(3600)),
            }),
        };
        refused.map_or(Ok(()), |kind| Err(Error::new(kind)))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A server with this lease; one that tells none is not ours.
pub async fn upstream(lease: Option<Duration>) -> Upstream {
    serve(lease, |operations| operations).await
}

/// A server that waits for inputs which follow an execution.
pub async fn upstream_that_waits(lease: Duration) -> Upstream {
    serve(Some(lease), |operations| operations.with_inputs_following(Duration::from_secs(60))).await
}

async fn serve(lease: Option<Duration>, operations: impl FnOnce(Operations) -> Operations) -> Upstream {
    let store = MemoryStore::new(4 << 30);
    let watch = Watch::default();
    let codec = Arc::new(Protobuf);
    let results = Arc::new(Results::new(store.clone(), codec.clone()));
    let actions = Completeness::new(results, store.clone(), codec);
    let watched = Arc::new(Watched { store: store.clone(), actions, watch: watch.clone() });
    let ports = Ports {
        blobs: watched.clone(),
        actions: watched.clone(),
        encoded: None,
        uploads: watched.clone(),
        index: store.clone(),
        values: store.clone(),
        chunks: None,
        executor: Some(watched.clone()),
        lease,
        offers: Some(watched.clone()),
    };
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".into())).await.expect("a port is free");
    let url = listener.url();
    let operations = operations(Operations::new(watched));
    let router = mortar_services::router(&ports, Some(operations), Default::default());
    let serving = tokio::spawn(listener::serve(listener, router, std::future::pending()));
    Upstream { url, watch, store, serving }
}

struct Watched {
    store: Arc<MemoryStore>,
    actions: Completeness,
    watch: Watch,
}

#[async_trait]
impl BlobStore for Watched {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.watch.note(Asked::Read(digest))?;
        self.store.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.watch.note_writer(context);
        self.watch.admit(&Asked::Wrote(digest))?;
        self.store.write(context, digest, blob).await?;
        self.watch.note(Asked::Wrote(digest))
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.watch.note(Asked::Missing(digests.clone()))?;
        self.store.find_missing(context, digests).await
    }
}

#[async_trait]
impl UploadSessions for Watched {
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        self.watch.note_writer(context);
        let inner = self.store.open(context, id, digest, encoding).await?;
        Ok(Box::new(WatchedUpload { inner, watch: self.watch.clone(), digest }))
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        self.store.committed(context, id).await
    }
}

struct WatchedUpload {
    inner: Box<dyn Upload>,
    watch: Watch,
    digest: Digest,
}

#[async_trait]
impl Upload for WatchedUpload {
    fn committed(&self) -> u64 {
        self.inner.committed()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.watch.admit(&Asked::Wrote(self.digest))?;
        self.inner.finish().await?;
        self.watch.note(Asked::Wrote(self.digest))
    }
}

#[async_trait]
impl ActionCache for Watched {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.watch.note(Asked::Got(key))?;
        self.watch.note_size(context, key);
        self.actions.get(context, key).await
    }

    /// A result whose blobs are not there would be dropped without a word: here it is noted.
    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.watch.note_writer(context);
        self.watch.note_size(context, key);
        let holes = self.store.find_missing(context, &result.named_blobs()).await?;
        self.watch.note(if holes.is_empty() { Asked::Put(key) } else { Asked::PutTooEarly(key) })?;
        self.actions.put(context, key, result).await
    }
}

/// What an action makes.
pub fn output_of(action: Digest) -> (Digest, Bytes) {
    let bytes = Bytes::from(format!("made by {action}"));
    (Digest::of(action.function(), &bytes), bytes)
}

impl Watched {
    /// Whether an action is there with all that it needs; its root has no directories.
    async fn is_whole(&self, action: Digest) -> bool {
        let (context, function) = (Context::glance(), action.function());
        let Ok(action) = self.store.read_all(&context, action, 1 << 20).await else { return false };
        let action = mortar_wire::decode_action(function, action).expect("what a client sends is an action");
        let root = self.store.read_all(&context, action.input_root_digest, 1 << 20).await;
        let Ok(root) = root else { return false };
        let root = mortar_wire::decode_directory(function, root).expect("what a client sends is a directory");
        let mut needed: DigestSet = root.files.into_iter().map(|file| file.digest).collect();
        needed.extend([action.command_digest]);
        self.store.find_missing(&context, &needed).await.expect("it is in memory").is_empty()
    }
}

#[async_trait]
impl Executor for Watched {
    /// Each action says its own bytes and makes a file of them and some more, once all that it needs is there.
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        self.watch.note(Asked::Executed(request.action_digest))?;
        self.watch.let_go().await;
        if context.inputs_follow.is_some() {
            while !self.is_whole(request.action_digest).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            progress.report(Stage::Executing, &ExecutionMetadata::default());
        }
        let needed = DigestSet::from_iter([request.action_digest]);
        let missing: Vec<Digest> = self.store.find_missing(context, &needed).await?.into_iter().collect();
        if !missing.is_empty() {
            return Err(Error::new(Kind::MissingBlobs { missing }));
        }
        let (digest, bytes) = output_of(request.action_digest);
        self.store.write_bytes(context, digest, bytes).await?;
        let file = OutputFile {
            path: "out".into(),
            digest,
            is_executable: false,
            contents: Bytes::new(),
            properties: None,
        };
        let stdout_digest = Some(request.action_digest);
        let result = ActionResult { files: vec![file], stdout_digest, ..ActionResult::default() };
        Ok(Outcome {
            result,
            cached: self.watch.cached.lock().contains(&request.action_digest),
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        })
    }
}

#[async_trait]
impl Offers for Watched {
    async fn offer(&self, _: &Context) -> Result<Offer> {
        let functions = mortar_model::DigestFunction::ALL.to_vec();
        Ok(Offer { executes: true, updates: !self.watch.state.lock().2, functions })
    }
}
