//! How one lost blob is made again.

use super::{Demand, End, MAX_DEPTH, Maker, RETRY_AFTER, Rewinder, count, running::Joined};
use futures::{FutureExt, future::BoxFuture};
use mortar_model::{
    Context, Digest, DigestSet, Error, ExecuteRequest, Kind, Outcome, Result, Termination, context::Lost,
};
use std::sync::Arc;
use tracing::Instrument;

/// How often one action is run for one blob: a run that was on its way may have come too early.
const RUNS: usize = 3;

impl Rewinder {
    /// Makes a lost blob again. None if nobody knows how.
    pub(super) async fn remake(
        &self,
        context: &Context,
        digest: Digest,
        demand: &Demand,
    ) -> Result<Option<End>> {
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

    /// Has the blob made by the first action that can. If none can, none of their results is of any use.
    async fn by_any_of(
        &self,
        context: &Context,
        digest: Digest,
        makers: Vec<Maker>,
        demand: &Demand,
    ) -> Result<End> {
        let (mut gone, mut not_now) = (Vec::new(), None);
        // The oldest first: those that came later may have copied what it made.
        for maker in makers.iter().rev() {
            let why = match self.by(context, digest, maker, demand).await? {
                End::Made => return Ok(End::Made),
                End::Gone(why) => why,
                End::NotNow(kind) => {
                    not_now = Some(End::NotNow(kind));
                    continue;
                }
            };
            gone.push(format!("action `{}`, which made it, {why}", maker.1.hex()));
        }
        if let Some(not_now) = not_now {
            return Ok(not_now);
        }
        let why = gone.join("; ");
        tracing::warn!("blob `{digest}` was lost and cannot be made again: {why}");
        for maker in makers {
            self.disown(context, maker, digest).await?;
        }
        Ok(End::Gone(why.into()))
    }

    /// Has the blob made by this action.
    async fn by(&self, context: &Context, digest: Digest, maker: &Maker, demand: &Demand) -> Result<End> {
        for _ in 0..RUNS {
            match self.run(context, maker, demand).await {
                End::Made if self.is_here(context, digest).await? => return Ok(End::Made),
                // It made the blob and did not store it: the damaged one still counted as present then.
                End::Made if self.claims(context, maker, digest).await? => {}
                End::Made => break,
                end => return Ok(end),
            }
        }
        Ok(End::Gone("was run again and made something else".into()))
    }

    /// Whether the result of an action names the blob.
    async fn claims(&self, context: &Context, (instance, key): &Maker, digest: Digest) -> Result<bool> {
        let context = context.clone().with_instance(instance.clone());
        let kept = self.0.parts.results.get(&context, *key).await?;
        Ok(kept.is_some_and(|kept| kept.closure.contains(&digest)))
    }

    /// Drops the result of an action that cannot make this blob again, unless it does not name it any more.
    async fn disown(&self, context: &Context, maker: Maker, digest: Digest) -> Result<()> {
        if self.claims(context, &maker, digest).await? {
            self.0.parts.results.remove(&context.clone().with_instance(maker.0), maker.1).await?;
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
            Joined::Circle => End::Gone("needs it itself".into()),
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
        let context = Context { deadline: None, lost: Lost::Told, operation: None, ..context };
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
                kind => {
                    tracing::info!("could not be run again now: {error}");
                    End::NotNow(Arc::new(kind.clone()))
                }
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
