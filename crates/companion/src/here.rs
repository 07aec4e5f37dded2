//! Work on this machine: where an execution goes once there is somebody here who can run it, and what that one is given.

use crate::{
    near::Near,
    race::{Compare, Comparisons, Fallback, Local, Race, StoredPlatforms, Tally},
    results::NearResults,
    upstream::Upstreams,
};
use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Clock, Context, Digest, DigestSet, ExecuteRequest,
    ExecutionMetadata, Executor, Kind, LocalFiles, Outcome, Platform, Progress, Range, Result, Stage,
    Termination,
};
use mortar_store::DiskStore;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// What runs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What the upstream cannot take: while it is away, or where it is a mere cache.
    Fallback,
    /// That, and each action that may be done sooner here than there.
    Race,
    /// That, and every action, to tell which results are not reproducible. Nothing of it is kept.
    Compare,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fallback => "fallback",
            Self::Race => "race",
            Self::Compare => "compare",
        })
    }
}

/// What a worker on this machine reads and writes.
pub struct WorkerPorts {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Files of them.
    pub files: Arc<dyn LocalFiles>,
    /// Results.
    pub actions: Arc<dyn ActionCache>,
}

impl WorkerPorts {
    pub(crate) fn new(mode: Mode, near: &Near, results: &NearResults) -> Self {
        let files = near.disk().clone();
        match mode {
            Mode::Compare => {
                let blobs = Unowed { near: near.clone(), disk: files.clone() };
                Self { blobs: Arc::new(blobs), files, actions: Arc::new(Unrecorded) }
            }
            Mode::Fallback | Mode::Race => {
                let actions = Recorded(results.clone());
                Self { blobs: Arc::new(near.clone()), files, actions: Arc::new(actions) }
            }
        }
    }
}

/// A worker on this machine, in its place in the stack.
pub(crate) struct Here {
    pub mode: Mode,
    pub slots: u32,
    pub local: Local,
    placed: Box<dyn Executor>,
    pub tally: Option<Arc<Tally>>,
    pub comparisons: Option<Arc<Comparisons>>,
}

/// The executor that clients see.
#[derive(Clone)]
pub(crate) struct Places {
    remote: Arc<dyn Executor>,
    results: NearResults,
    near: Near,
    upstreams: Arc<Upstreams>,
    clock: Arc<dyn Clock>,
    here: Arc<OnceLock<Here>>,
}

impl Places {
    /// Upstream alone, until there is a worker here.
    pub fn new(
        remote: Arc<dyn Executor>,
        near: Near,
        results: NearResults,
        upstreams: Arc<Upstreams>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { remote, results, near, upstreams, clock, here: Arc::default() }
    }

    /// From now on there is a worker here, which offers this. The first one stays.
    pub fn work_here(&self, worker: Arc<dyn Executor>, slots: u32, offered: Platform, mode: Mode) {
        let suits = Arc::new(StoredPlatforms::new(Arc::new(self.near.clone()), offered));
        let (local, remote) = (Local::new(worker, suits, slots), self.remote.clone());
        let (mut tally, mut comparisons) = (None, None);
        let placed: Box<dyn Executor> = match mode {
            Mode::Fallback => Box::new(Fallback::new(remote, local.clone())),
            Mode::Race => {
                let race = Race::new(remote, local.clone(), self.clock.clone());
                tally = Some(race.tally());
                Box::new(Fallback::new(Arc::new(race), local.clone()))
            }
            Mode::Compare => {
                let compare = Compare::new(remote, local.clone());
                comparisons = Some(compare.comparisons());
                Box::new(Fallback::new(Arc::new(compare), local.clone()))
            }
        };
        // A second one is not needed.
        let _ = self.here.set(Here { mode, slots, local, placed, tally, comparisons });
    }

    /// The worker here.
    pub fn here(&self) -> Option<&Here> {
        self.here.get()
    }

    async fn known(
        &self,
        context: &Context,
        key: ActionKey,
        upstream_executes: bool,
    ) -> Result<Option<ActionResult>> {
        match upstream_executes {
            // The upstream looks it up itself.
            true => self.results.at_hand(context, key).await,
            false => self.results.get(context, key).await,
        }
    }
}

#[async_trait]
impl Executor for Places {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let Some(here) = self.here.get() else {
            return self.remote.execute(context, request, progress).await;
        };
        let executes = self.upstreams.of(&context.instance)?.terms(context).executes;
        if !request.skip_cache_lookup {
            progress.report(Stage::CacheCheck, &ExecutionMetadata::default());
            if let Some(result) = self.known(context, request.action_digest.into(), executes).await? {
                let (termination, message) = (Termination::Exited, String::new());
                return Ok(Outcome { result, cached: true, termination, message, server_logs: Vec::new() });
            }
        }
        match executes {
            true => here.placed.execute(context, request, progress).await,
            false => here.local.run(context, request, progress).await,
        }
    }
}

/// Results of a worker here, which are kept and owed as a client's are. Where the upstream takes none, an execution has
/// succeeded all the same.
struct Recorded(NearResults);

#[async_trait]
impl ActionCache for Recorded {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.0.get(context, key).await
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        match self.0.put(context, key, result).await {
            Err(error) if matches!(error.kind(), Kind::PermissionDenied { .. }) => {
                tracing::debug!(?key, %error, "a result of this machine is not kept");
                Ok(())
            }
            put => put,
        }
    }
}

/// Results that are only compared.
struct Unrecorded;

#[async_trait]
impl ActionCache for Unrecorded {
    async fn get(&self, _: &Context, _: ActionKey) -> Result<Option<ActionResult>> {
        Ok(None)
    }

    async fn put(&self, _: &Context, _: ActionKey, _: ActionResult) -> Result<()> {
        Ok(())
    }
}

/// Blobs that are read like any others; those that are written stay here.
struct Unowed {
    near: Near,
    disk: Arc<DiskStore>,
}

#[async_trait]
impl BlobStore for Unowed {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.near.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.disk.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.near.find_missing(context, digests).await
    }
}
