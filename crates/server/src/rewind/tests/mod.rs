//! Rewinding over a store that loses blobs and a mill that runs no commands: it makes of declared inputs what it was
//! told to make, and counts.

mod executing;
mod reading;

use super::{Parts, RewindStats, Rewinder, Rewinding, Staff};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Action, ActionCache, ActionResult, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    DigestSet, Directory, Error, ExecuteRequest, ExecutionMetadata, Executor, FileNode, Kind, Outcome,
    OutputFile, Progress, Range, Result, Stage, Termination, context::Lost,
};
use mortar_store::{Completeness, MemoryStore, Results};
use mortar_testkit::faults::Forgetful;
use mortar_wire::{Protobuf, encode_action, encode_directory};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::sync::watch;

const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// A client that wants lost blobs made again.
fn client() -> Context {
    Context { lost: Lost::Remade, ..Context::internal() }
}

fn digest_of(bytes: &'static str) -> Digest {
    Digest::of(FUNCTION, bytes.as_bytes())
}

/// How an action goes, by its digest.
#[derive(Clone)]
struct Recipe {
    inputs: Vec<Digest>,
    makes: Vec<&'static str>,
    exit_code: i32,
    refuses: Option<Kind>,
}

/// Stores, and an executor without commands.
struct Mill {
    blobs: Arc<Forgetful>,
    actions: Completeness,
    recipes: Mutex<HashMap<Digest, Recipe>>,
    runs: AtomicU32,
    given_up: AtomicU32,
    open: watch::Sender<bool>,
    staffed: AtomicBool,
}

/// A mill with rewinding around it.
struct House {
    mill: Arc<Mill>,
    rewinder: Rewinder,
    store: Rewinding,
}

impl House {
    fn new() -> Self {
        let memory = MemoryStore::new(1 << 30);
        let blobs = Arc::new(Forgetful::new(memory.clone()));
        let results = Arc::new(Results::new(memory, Arc::new(Protobuf)));
        let actions = Completeness::new(results.clone(), blobs.clone(), Arc::new(Protobuf)).with_remakes();
        let mill = Arc::new(Mill {
            blobs: blobs.clone(),
            actions,
            recipes: Mutex::default(),
            runs: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
            open: watch::channel(true).0,
            staffed: AtomicBool::new(true),
        });
        let rewinder = Rewinder::new(Parts {
            blobs: blobs.clone(),
            index: blobs,
            results: results.clone(),
            executor: mill.clone(),
            staff: mill.clone(),
        });
        Self { store: Rewinding::new(rewinder.clone(), results), rewinder, mill }
    }

    /// Runs an action that makes these of those, as a client does; its digest.
    async fn build(&self, inputs: &[Digest], makes: &[&'static str]) -> Digest {
        let action = self.mill.declare(inputs, makes).await;
        self.rewinder.execute(&Context::internal(), request(action), &()).await.unwrap();
        self.mill.runs.store(0, Ordering::SeqCst);
        action
    }

    async fn keep(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(FUNCTION, &bytes);
        self.mill.blobs.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        digest
    }

    async fn read(&self, bytes: &'static str) -> Result<Bytes> {
        self.store.read_all(&client(), digest_of(bytes), 1 << 20).await
    }

    fn lose(&self, lost: &[&'static str]) {
        lost.iter().for_each(|bytes| self.mill.blobs.lose(digest_of(bytes)));
    }

    /// Changes how an action goes from now on.
    fn change(&self, action: Digest, change: impl FnOnce(&mut Recipe)) {
        change(self.mill.recipes.lock().unwrap().get_mut(&action).unwrap());
    }

    fn runs(&self) -> u32 {
        self.mill.runs.load(Ordering::SeqCst)
    }

    fn stats(&self) -> RewindStats {
        self.rewinder.stats()
    }

    async fn missing(&self, context: &Context, bytes: &[&'static str]) -> Vec<Digest> {
        let digests: DigestSet = bytes.iter().map(|bytes| digest_of(bytes)).collect();
        self.store.find_missing(context, &digests).await.unwrap().into_iter().collect()
    }

    async fn knows_result_of(&self, action: Digest) -> bool {
        self.rewinder.0.parts.results.get(&Context::internal(), action.into()).await.unwrap().is_some()
    }
}

fn request(action_digest: Digest) -> ExecuteRequest {
    ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 }
}

impl Mill {
    /// Uploads an action and the tree of its inputs.
    async fn declare(&self, inputs: &[Digest], makes: &[&'static str]) -> Digest {
        let file = |(index, digest): (usize, &Digest)| FileNode {
            name: format!("{index:03}"),
            digest: *digest,
            is_executable: false,
            properties: None,
        };
        let files = inputs.iter().enumerate().map(file).collect();
        let root = encode_directory(&Directory { files, ..Directory::default() });
        let command = Bytes::from(format!("makes {makes:?}"));
        let action = encode_action(&Action {
            command_digest: Digest::of(FUNCTION, &command),
            input_root_digest: Digest::of(FUNCTION, &root),
            timeout: None,
            do_not_cache: false,
            platform: None,
        });
        let digest = Digest::of(FUNCTION, &action);
        for bytes in [root, command, action] {
            let digest = Digest::of(FUNCTION, &bytes);
            self.blobs.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        }
        let recipe = Recipe { inputs: inputs.into(), makes: makes.into(), exit_code: 0, refuses: None };
        self.recipes.lock().unwrap().insert(digest, recipe);
        digest
    }

    async fn make(&self, context: &Context, action: Digest, recipe: &Recipe) -> Result<ActionResult> {
        let missing = self.blobs.find_missing(context, &recipe.inputs.iter().copied().collect()).await?;
        if !missing.is_empty() {
            return Err(Error::new(Kind::MissingBlobs { missing: missing.into_iter().collect() }));
        }
        for input in &recipe.inputs {
            self.blobs.read_all(context, *input, 1 << 20).await?;
        }
        let mut result = ActionResult { exit_code: recipe.exit_code, ..ActionResult::default() };
        for made in &recipe.makes {
            let digest = digest_of(made);
            self.blobs.write_bytes(context, digest, Bytes::from_static(made.as_bytes())).await?;
            let (path, contents) = (digest.hex(), Bytes::new());
            result.files.push(OutputFile { path, digest, is_executable: false, contents, properties: None });
        }
        self.actions.put(context, action.into(), result.clone()).await?;
        Ok(result)
    }
}

/// Counts an execution that is dropped before its end.
struct Leaves<'a>(Option<&'a AtomicU32>);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Some(given_up) = self.0 {
            given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Executor for Mill {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        assert_eq!(context.lost, Lost::Told, "a worker must not wait for other executions");
        let recipe = self.recipes.lock().unwrap()[&request.action_digest].clone();
        if let Some(kind) = recipe.refuses {
            return Err(Error::new(kind));
        }
        progress.report(Stage::Executing, &ExecutionMetadata::default());
        self.runs.fetch_add(1, Ordering::SeqCst);
        let mut leaves = Leaves(Some(&self.given_up));
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let result = self.make(context, request.action_digest, &recipe).await;
        leaves.0 = None;
        Ok(Outcome {
            result: result?,
            cached: false,
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        })
    }
}

#[async_trait]
impl Staff for Mill {
    async fn is_there(&self) -> bool {
        self.staffed.load(Ordering::SeqCst)
    }
}
