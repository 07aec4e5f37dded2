//! The action results that clients see: those that are whole here, else the upstream's, which are kept; those that are
//! put are durable here and owed.
//!
//! A result from here is served only if each blob that it needs is here or known to be upstream; nobody is asked.

use crate::{
    ahead::Ahead,
    debts::Debts,
    deferrals::Deferrals,
    near::{Asks, Near},
    upstream::{Upstream, Upstreams},
};
use async_trait::async_trait;
use futures::{StreamExt, future::try_join_all, stream};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Codec, Coming, Context, Error, Kind,
    Result, ResultStore,
};
use mortar_store::{Completeness, Results};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Outputs up to this size are fetched when a result comes from an execution, before they are asked for.
const SMALL: u64 = 64 << 10;
/// How many of them, and how many at a time.
const MOST: usize = 256;
const FETCHES: usize = 64;
/// Results that are being kept; beyond that, some are not.
const KEEPING: usize = 10_000;

#[derive(Clone)]
pub(crate) struct NearResults(Arc<Inner>);

struct Inner {
    near: Near,
    kept: Arc<Results>,
    /// Of what is here and what is known, and nothing else.
    sure: Completeness,
    /// Of all that can be found out.
    asking: Completeness,
    upstreams: Arc<Upstreams>,
    debts: Arc<Debts>,
    keeping: TaskTracker,
    ahead: Ahead,
    deferrals: Deferrals,
}

impl NearResults {
    /// Over the results that are kept here.
    pub fn new(
        near: Near,
        kept: Arc<Results>,
        codec: Arc<dyn Codec>,
        upstreams: Arc<Upstreams>,
        debts: Arc<Debts>,
    ) -> Self {
        let complete = |asks| Completeness::new(kept.clone(), Arc::new(near.asking(asks)), codec.clone());
        let (sure, asking) = (complete(Asks::Nothing), complete(Asks::Everything));
        let (keeping, ahead, deferrals) = (TaskTracker::new(), Ahead::default(), Deferrals::default());
        Self(Arc::new(Inner { near, kept, sure, asking, upstreams, debts, keeping, ahead, deferrals }))
    }

    /// A result that is whole here.
    pub async fn here(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        self.0.sure.get(context, key).await
    }

    /// A result that is whole here and whose blobs can be had: those that only the upstream has cannot, while nothing can be
    /// had of it. For who would have to execute otherwise; others take what they do not get for a miss.
    pub async fn at_hand(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let found = self.here(context, key).await?;
        if found.is_none() || self.0.upstreams.of(&context.instance)?.gives_blobs() {
            return Ok(found);
        }
        let Some(kept) = self.0.kept.get(context, key).await? else { return Ok(None) };
        let absent = self.0.near.here().find_missing(context, &kept.closure).await?;
        Ok(found.filter(|_| absent.is_empty()))
    }

    /// What an upstream names in a result that it gives, it has.
    pub fn note(&self, context: &Context, result: &ActionResult) {
        if let Ok(upstream) = self.0.upstreams.of(&context.instance) {
            upstream.note(context, result.named_blobs());
        }
    }

    /// Keeps a result that an upstream gave, in the background; with `outputs`, its small ones too.
    pub fn keep(&self, context: &Context, key: ActionKey, result: &ActionResult, outputs: bool) {
        self.note(context, result);
        if self.0.keeping.len() >= KEEPING {
            return;
        }
        let (inner, mut result) = (self.0.clone(), result.clone());
        // They are blobs by now.
        result.files.iter_mut().for_each(|file| file.contents.clear());
        let context = Context { deadline: None, operation: None, ..context.clone() };
        self.0.keeping.spawn(async move {
            if outputs {
                inner.fetch_small(&context, &result).await;
            }
            if let Err(error) = inner.asking.put(&context, key, result).await {
                tracing::debug!(?key, %error, "a result is not kept");
            }
        });
    }

    /// Keeps a result that an upstream sent ahead, with those of its blobs that came along; all of it is durable when this
    /// returns.
    pub async fn keep_ahead(&self, context: &Context, upstream: &Upstream, coming: Coming) -> Result<()> {
        let Coming { key, result, blobs, .. } = coming;
        let disk = self.0.near.disk();
        let writes = blobs.into_iter().map(|(digest, bytes)| disk.write_bytes(context, digest, bytes));
        try_join_all(writes).await?;
        // It would not have sent it otherwise.
        upstream.note(context, result.named_blobs());
        self.0.asking.put(context, key, result).await
    }

    /// The upstream is to execute an action.
    pub fn begins(&self, context: &Context, key: ActionKey) {
        self.0.deferrals.begins(context, key);
    }

    /// It had no need to, or could not.
    pub fn was_not_executed(&self, context: &Context) {
        self.0.deferrals.was_not_executed(context);
    }

    /// Results that were sent ahead, and those of them that were asked for.
    pub fn sent_ahead(&self) -> (u64, u64) {
        self.0.ahead.counts()
    }

    /// Waits for what is being kept.
    pub async fn settle(&self) {
        self.0.ahead.settle().await;
        self.0.keeping.close();
        self.0.keeping.wait().await;
    }
}

impl Inner {
    async fn fetch_small(&self, context: &Context, result: &ActionResult) {
        let small = result.named_blobs().into_iter().filter(|digest| digest.size() <= SMALL).take(MOST);
        let fetches: Vec<_> = small
            .map(|digest| async move { self.near.read_all(context, digest, SMALL).await.is_ok() })
            .collect();
        stream::iter(fetches).buffer_unordered(FETCHES).collect::<Vec<_>>().await;
    }
}

#[async_trait]
impl ActionCache for NearResults {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let found = self.here(context, key).await?;
        let upstream = self.0.upstreams.of(&context.instance)?;
        if found.is_some() {
            self.0.ahead.found(self, upstream, context, key);
            return Ok(found);
        }
        let arrival = self.0.ahead.missed(self, upstream, context, key);
        let terms = upstream.terms(context);
        if terms.ours && terms.executes && self.0.deferrals.defers(context, key) {
            return Ok(None);
        }
        let found = tokio::select! {
            found = upstream.look_up(context, key) => found?,
            () = arrival.come() => self.here(context, key).await?,
        };
        self.0.deferrals.answered(context, key, found.is_some());
        if let Some(result) = &found {
            self.0.near.here().take_in(context, result).await;
            self.keep(context, key, result, false);
        }
        Ok(found)
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        let upstream = self.0.upstreams.of(&context.instance)?;
        if !upstream.terms(context).updates {
            let message = format!("upstream {} takes no action results from clients", upstream.uri);
            return Err(Error::new(Kind::PermissionDenied { message }));
        }
        self.0.deferrals.put(context, key);
        // What is not a success, or lacks blobs, is not kept, and not owed.
        let Some(kept) = self.0.asking.examine(context, key, result).await? else { return Ok(()) };
        // Owed before anybody can see it: who finds it here may take it for done, and whoever puts it may be gone by then.
        self.0.debts.owe_result(context, key, &kept).await?;
        self.0.kept.put(context, key, kept).await
    }
}
