//! Executions: answered from here where the result is known, else carried out upstream, whose own look-up comes first.
//!
//! What the upstream lacks of the inputs is sent before ([`Inputs::make_available`], the one place to change for
//! upstreams that take inputs after the call). The result is kept, so that what the client reads next is here.

use crate::{inputs::Inputs, results::NearResults, upstream::Upstreams};
use async_trait::async_trait;
use mortar_model::{
    ActionKey, Context, ExecuteRequest, ExecutionMetadata, Executor, Kind, Outcome, Progress, Result, Stage,
    Termination,
};
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
    ) -> Result<(Outcome, bool)> {
        let upstream = self.upstreams.of(&context.instance)?;
        let action = self.inputs.action(context, request.action_digest).await?;
        let there = Context { operation: None, ..upstream.context(context) };
        let mut tries = 1;
        loop {
            self.inputs.make_available(upstream, context, request.action_digest, &action).await?;
            let executed = upstream.remote.execute(&there, request.clone(), progress).await;
            match upstream.heard(executed) {
                Ok(outcome) => return Ok((outcome, action.do_not_cache)),
                Err(error) => match error.kind() {
                    Kind::MissingBlobs { missing } if tries < TRIES => {
                        tracing::debug!(blobs = missing.len(), "the upstream lost what it was known to have");
                        upstream.forget(context, missing.iter().copied());
                        self.inputs.forget(upstream);
                        tries += 1;
                    }
                    _ => return Err(error),
                },
            }
        }
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
            if let Some(result) = self.results.here(context, key).await? {
                return Ok(Outcome {
                    result,
                    cached: true,
                    termination: Termination::Exited,
                    message: String::new(),
                    server_logs: Vec::new(),
                });
            }
        }
        let (outcome, do_not_cache) = self.upstream(context, &request, progress).await?;
        if outcome.result.is_success() && outcome.termination == Termination::Exited && !do_not_cache {
            self.results.keep(context, key, &outcome.result, true);
        } else {
            self.results.note(context, &outcome.result);
        }
        Ok(outcome)
    }
}
