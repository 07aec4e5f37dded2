//! Executions: answered from here where the result is known, else carried out upstream, whose own look-up comes first.
//!
//! An upstream that waits for inputs is asked at once, and what it lacks follows ([`following`]); to others it is sent before.
//! The result is kept, with all that it brought along, so that what the client reads next is here.

mod following;

use crate::{
    inputs::Inputs,
    results::NearResults,
    upstream::{Upstream, Upstreams},
};
use async_trait::async_trait;
use mortar_model::{
    Action, ActionKey, Context, ExecuteRequest, ExecutionMetadata, Executor, Kind, Outcome, Progress, Result,
    Stage, Termination,
};
use mortar_remote::Inline;
use std::sync::Arc;

/// How often inputs are sent again that the upstream turned out to have lost.
const TRIES: u32 = 3;

pub(crate) struct Executes {
    results: NearResults,
    inputs: Inputs,
    upstreams: Arc<Upstreams>,
}

impl Executes {
    pub fn new(results: NearResults, inputs: Inputs, upstreams: Arc<Upstreams>) -> Self {
        Self { results, inputs, upstreams }
    }

    async fn upstream(
        &self,
        context: &Context,
        request: &ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<(Box<Outcome>, bool)> {
        let upstream = self.upstreams.of(&context.instance)?;
        // Here and below, what is over before the upstream is waited for is in boxes: what waits needs no room for it.
        let action = Box::pin(self.inputs.action(context, request.action_digest)).await?;
        let inline = Box::pin(self.inputs.outputs_of(context, &action)).await;
        let call = Call { upstream, context, request, action: &action, inline: &inline, progress };
        let mut inputs_follow = Box::pin(upstream.takes_inputs_later(context)).await;
        let mut tries = 1;
        loop {
            let executed = match inputs_follow {
                true => self.inputs_following(&call).await?,
                false => self.inputs_first(&call).await?,
            };
            match executed {
                Ok(outcome) => return Ok((outcome, action.do_not_cache)),
                Err(error) => match error.kind() {
                    Kind::MissingBlobs { missing } if tries < TRIES => {
                        tracing::debug!(blobs = missing.len(), "the upstream lost what it was known to have");
                        upstream.forget(context, missing.iter().copied());
                        self.inputs.forget(upstream);
                        inputs_follow = false;
                        tries += 1;
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Sends what is missing, then executes. Only what the inner result tells is the upstream's.
    async fn inputs_first(&self, call: &Call<'_>) -> Result<Result<Box<Outcome>>> {
        Box::pin(self.supply(call)).await?;
        Ok(Box::pin(call.execute(call.context, call.progress)).await)
    }

    async fn supply(&self, call: &Call<'_>) -> Result<()> {
        let Call { upstream, context, request, action, .. } = call;
        self.inputs.make_available(upstream, context, request.action_digest, action).await
    }
}

/// One execution upstream.
struct Call<'a> {
    upstream: &'a Upstream,
    context: &'a Context,
    request: &'a ExecuteRequest,
    action: &'a Action,
    inline: &'a Inline,
    progress: &'a dyn Progress,
}

impl Call<'_> {
    async fn execute(&self, context: &Context, progress: &dyn Progress) -> Result<Box<Outcome>> {
        self.upstream.execute(context, self.request.clone(), self.inline, progress).await
    }
}

#[async_trait]
impl Executor for Executes {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let key = ActionKey::from(request.action_digest);
        if !request.skip_cache_lookup {
            progress.report(Stage::CacheCheck, &ExecutionMetadata::default());
            if let Some(result) = self.results.at_hand(context, key).await? {
                return Ok(Outcome {
                    result,
                    cached: true,
                    termination: Termination::Exited,
                    message: String::new(),
                    server_logs: Vec::new(),
                });
            }
        }
        if !request.skip_cache_lookup {
            self.results.begins(context, key);
        }
        let executed = self.upstream(context, &request, progress).await;
        if executed.as_ref().map_or(true, |(outcome, _)| outcome.cached) {
            self.results.was_not_executed(context);
        }
        let (outcome, do_not_cache) = executed?;
        Box::pin(self.inputs.near().here().take_in(context, &outcome.result)).await;
        if outcome.result.is_success() && outcome.termination == Termination::Exited && !do_not_cache {
            self.results.keep(context, key, &outcome.result, true);
        } else {
            self.results.note(context, &outcome.result);
        }
        Ok(*outcome)
    }
}
