//! Rewinding: a blob that was lost, and whose action is known, is made again when it is read or needed as an input.
//!
//! - [`Rewinder`], here: makes one blob again, by running the actions that made it and, before them, those that make
//!   what they lack; bounded in depth, counted
//! - `blobs`: the store as clients see it · `executor`: the executor that makes the inputs that an action lacks
//! - `running`: what is being made now, so that demands are merged and circles are found
//! - `inputs`: which inputs of an action are lost
//!
//! Stands between the services and the store, and between the look-up and the queue. An execution that lacks inputs has
//! ended before they are made, so no worker is ever kept waiting for another one. What a store finds missing stays the
//! truth for all who write (`context::Lost::Told`).

mod blobs;
mod executor;
mod inputs;
mod running;
#[cfg(test)]
mod tests;

pub(crate) use blobs::Rewinding;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use mortar_model::{
    ActionKey, BlobStore, Context, Digest, DigestSet, Error, ExecuteRequest, Executor, HashIndex,
    InstanceName, Kind, Outcome, Result, ResultStore, Termination, context::Lost,
};
use mortar_scheduler::Scheduler;
use running::{Joined, Running};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tracing::Instrument;

/// An action of an instance.
type Maker = (InstanceName, ActionKey);

/// How many actions may stand in a row, each lacking what the next one makes.
const MAX_DEPTH: u32 = 16;
/// Blobs that are made, or asked for, at the same time for one demand.
const AT_ONCE: usize = 16;
/// When to come again for what could not be made just now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What rewinding needs of a server.
pub(crate) struct Parts {
    /// The store, as it is.
    pub(crate) blobs: Arc<dyn BlobStore>,
    /// The store's blobs by hash: actions are known by their hashes alone.
    pub(crate) index: Arc<dyn HashIndex>,
    /// Which actions made which blobs.
    pub(crate) results: Arc<dyn ResultStore>,
    /// Runs actions; looks nothing up.
    pub(crate) executor: Arc<dyn Executor>,
    /// Whether anybody can run them.
    pub(crate) staff: Arc<dyn Staff>,
}

/// Knows whether there are workers: without any, waiting for one would only delay the bad news.
#[async_trait]
pub(crate) trait Staff: Send + Sync {
    async fn is_there(&self) -> bool;
}

#[async_trait]
impl Staff for Scheduler {
    async fn is_there(&self) -> bool {
        !self.status().await.workers.is_empty()
    }
}

/// What rewinding did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewindStats {
    /// Actions that were run again.
    pub attempted: u64,
    /// Demands for a lost blob that were met.
    pub made: u64,
    /// Demands for a lost blob that were not: it cannot be made again, or not now.
    pub failed: u64,
    /// Demands that were given up since too many actions stood in a row.
    pub too_deep: u64,
}

#[derive(Default)]
struct Counts {
    attempted: AtomicU64,
    made: AtomicU64,
    failed: AtomicU64,
    too_deep: AtomicU64,
}

/// Makes lost blobs again. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Rewinder(Arc<Inner>);

struct Inner {
    parts: Parts,
    running: Arc<Running>,
    counts: Counts,
}

/// For whom a blob is made.
#[derive(Clone, Debug, Default)]
struct Demand {
    /// The action that lacks it; none where a client does.
    by: Option<Maker>,
    /// How many actions in a row wait for it.
    depth: u32,
}

/// How making something ended.
#[derive(Clone, Debug)]
enum End {
    Made,
    /// It cannot be made again, and why.
    Gone(Arc<str>),
    /// It cannot be made just now.
    NotNow(Arc<Kind>),
}

impl Rewinder {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, running: Arc::default(), counts: Counts::default() }))
    }

    /// What was done since the start.
    pub(crate) fn stats(&self) -> RewindStats {
        let Counts { attempted, made, failed, too_deep } = &self.0.counts;
        RewindStats {
            attempted: attempted.load(Ordering::Relaxed),
            made: made.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
            too_deep: too_deep.load(Ordering::Relaxed),
        }
    }

    /// Those of `lost` that can be made again as far as one can tell without trying: an action is known, its message
    /// is there, and so is a worker.
    async fn promising(&self, context: &Context, lost: &DigestSet) -> Result<DigestSet> {
        let asked = lost.iter().map(|digest| async move {
            for (_, key) in self.makers(digest).await? {
                if self.action(context, key).await?.is_some() {
                    return Ok(Some(digest));
                }
            }
            Ok(None)
        });
        let asked: Vec<Result<Option<Digest>>> =
            stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
        let promising: DigestSet = asked.into_iter().filter_map(Result::transpose).collect::<Result<_>>()?;
        match promising.is_empty() || self.0.parts.staff.is_there().await {
            true => Ok(promising),
            false => Ok(DigestSet::new()),
        }
    }

    async fn makers(&self, digest: Digest) -> Result<Vec<Maker>> {
        self.0.parts.results.producers(digest).await
    }

    /// The digest of an action's message, if that is there.
    async fn action(&self, context: &Context, key: ActionKey) -> Result<Option<Digest>> {
        self.0.parts.index.lookup(context, key.function, &key.hash).await
    }

    /// Makes a lost blob again. None if nobody knows how.
    async fn remake(&self, context: &Context, digest: Digest, demand: &Demand) -> Result<Option<End>> {
        let makers = self.makers(digest).await?;
        if makers.is_empty() {
            return Ok(None);
        }
        if self.is_here(context, digest).await? {
            return Ok(Some(End::Made));
        }
        let counts = &self.0.counts;
        let end = if demand.depth >= MAX_DEPTH {
            count(&counts.too_deep);
            End::Gone(format!("more than {MAX_DEPTH} actions in a row lack what the next one makes").into())
        } else if !self.0.parts.staff.is_there().await {
            End::NotNow(Arc::new(Kind::Unavailable {
                message: "no worker is connected".into(),
                retry_after: Some(RETRY_AFTER),
            }))
        } else {
            self.by_any_of(context, digest, makers, demand).await?
        };
        count(if matches!(end, End::Made) { &counts.made } else { &counts.failed });
        Ok(Some(end))
    }

    /// Has the blob made by the first action that can. One that cannot loses its claim to have made it.
    async fn by_any_of(
        &self,
        context: &Context,
        digest: Digest,
        makers: Vec<Maker>,
        demand: &Demand,
    ) -> Result<End> {
        let (mut gone, mut not_now) = (Vec::new(), None);
        for maker in makers {
            let end = match self.run(context, &maker, demand).await {
                End::Made if self.is_here(context, digest).await? => return Ok(End::Made),
                End::Made => End::Gone("was run again and made something else".into()),
                end => end,
            };
            match end {
                End::NotNow(kind) => not_now = Some(End::NotNow(kind)),
                End::Gone(why) => {
                    let why = format!("action `{}`, which made it, {why}", maker.1.hex());
                    tracing::warn!("blob `{digest}` was lost and is not made again: {why}");
                    self.disown(context, maker, digest).await?;
                    gone.push(why);
                }
                End::Made => {}
            }
        }
        Ok(not_now.unwrap_or_else(|| End::Gone(gone.join("; ").into())))
    }

    /// Drops the result of an action that cannot make this blob again, unless it does not name it any more.
    async fn disown(&self, context: &Context, (instance, key): Maker, digest: Digest) -> Result<()> {
        let (context, results) = (context.clone().with_instance(instance), &self.0.parts.results);
        let kept = results.get(&context, key).await?;
        if kept.is_some_and(|kept| kept.closure.contains(&digest)) {
            results.remove(&context, key).await?;
        }
        Ok(())
    }

    async fn is_here(&self, context: &Context, digest: Digest) -> Result<bool> {
        let missing = self.0.parts.blobs.find_missing(context, &DigestSet::from_iter([digest])).await?;
        Ok(missing.is_empty())
    }

    /// Runs an action again, or joins those who have it run already.
    async fn run(&self, context: &Context, maker: &Maker, demand: &Demand) -> End {
        let begin = || self.clone().run_again(context.clone(), maker.clone(), demand.depth + 1);
        let joined = self.0.running.join(demand.by.as_ref(), maker, begin);
        match joined {
            Joined::Circle => End::Gone("needs it to make it".into()),
            Joined::Run(run) => {
                let end = run.await;
                self.0.running.leave(demand.by.as_ref(), maker);
                end
            }
        }
    }

    /// Boxed, since what an action lacks is made in the same way.
    fn run_again(self, context: Context, maker: Maker, depth: u32) -> BoxFuture<'static, End> {
        let span = tracing::info_span!("rewind", action = maker.1.hex(), depth);
        let running = async move {
            let end = self.execute_maker(&context, maker, depth).await;
            end.unwrap_or_else(|error| End::NotNow(Arc::new(error.kind().clone())))
        };
        running.instrument(span).boxed()
    }

    async fn execute_maker(&self, context: &Context, maker: Maker, depth: u32) -> Result<End> {
        let context = context.clone().with_instance(maker.0.clone());
        let context = Context { deadline: None, lost: Lost::Told, ..context };
        let Some(action_digest) = self.action(&context, maker.1).await? else {
            return Ok(End::Gone("is not here any more".into()));
        };
        tracing::info!("runs again, since an output of it was lost");
        count(&self.0.counts.attempted);
        let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
        let demand = Demand { by: Some(maker), depth };
        Ok(match self.execute_with_inputs(&context, request, &(), &demand).await {
            Ok(outcome) => verdict(&outcome),
            Err(error) => match error.kind() {
                Kind::MissingBlobs { missing } => End::Gone(lacks(missing, &error).into()),
                Kind::InvalidArgument { .. } => End::Gone(format!("is refused: {error}").into()),
                kind => End::NotNow(Arc::new(kind.clone())),
            },
        })
    }
}

fn verdict(outcome: &Outcome) -> End {
    match outcome.termination {
        Termination::Exited if outcome.result.is_success() => End::Made,
        Termination::Exited => {
            End::Gone(format!("was run again and failed with exit code {}", outcome.result.exit_code).into())
        }
        Termination::TimedOut { limit } => {
            End::Gone(format!("was run again and stopped at its time limit of {limit:?}").into())
        }
    }
}

fn lacks(missing: &[Digest], error: &Error) -> String {
    let first = missing.first().map(Digest::to_string).unwrap_or_default();
    match error.get_hint() {
        Some(why) => format!("lacks the input `{first}`: {}", why.lines().next().unwrap_or_default()),
        None => format!("lacks the input `{first}`, which nobody here can make"),
    }
}

/// What a client is told of a blob that cannot be made again, beside the error itself.
fn advice(digest: Digest, why: &dyn fmt::Display) -> String {
    format!(
        "blob `{digest}` was lost: {why}\nA build that runs this action again makes it; Bazel does after `bazel clean`."
    )
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// That a blob is wanted which cannot be made again just now.
fn not_now(digest: Digest, kind: &Kind) -> Error {
    let retry_after = Error::new(kind.clone()).retry_after().or(Some(RETRY_AFTER));
    let message = format!("blob `{digest}` was lost and cannot be made again just now: {kind}");
    Error::new(Kind::Unavailable { message, retry_after })
}
