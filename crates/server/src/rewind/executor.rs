//! The executor between the look-up and the queue: inputs that were lost are made again, and the action is tried again.

use super::{AT_ONCE, Demand, End, Rewinder, advice, inputs, not_now};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    Blame, Context, Digest, DigestSet, Error, ExecuteRequest, Executor, Kind, Outcome, Progress, Result,
};

/// How often one execution is tried: what it lacks may be found out bit by bit.
const TRIES: usize = 5;

#[async_trait]
impl Executor for Rewinder {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        self.execute_with_inputs(context, request, progress, &Demand::default()).await
    }
}

impl Rewinder {
    /// Runs an action, whose lost inputs are made again.
    pub(super) async fn execute_with_inputs(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
        demand: &Demand,
    ) -> Result<Outcome> {
        let mut tries = 1;
        loop {
            let error = match self.0.parts.executor.execute(context, request.clone(), progress).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // In boxes: what waits in the queue needs no room for them.
            let lost = Box::pin(self.lost_inputs(context, request.action_digest, &error)).await?;
            if lost.is_empty() || tries == TRIES {
                return Err(error);
            }
            Box::pin(self.remake_inputs(context, lost, demand)).await?;
            tries += 1;
        }
    }

    /// The inputs for whose loss an execution failed; none if that was not why.
    async fn lost_inputs(&self, context: &Context, action: Digest, error: &Error) -> Result<DigestSet> {
        match error.kind() {
            Kind::MissingBlobs { missing } => Ok(missing.iter().copied().collect()),
            // One of them turned out to be damaged. Others may be as well, and each try would find but one.
            Kind::DataLoss { .. } | Kind::Mismatch { source_of_content: Blame::Server, .. } => {
                inputs::unreadable(&*self.0.parts.blobs, context, action).await
            }
            _ => Ok(DigestSet::new()),
        }
    }

    /// Makes inputs again. Those that nobody can make are missing: the client is told of them alone, and the others
    /// are made by the time that it comes again, or then.
    async fn remake_inputs(&self, context: &Context, lost: DigestSet, demand: &Demand) -> Result<()> {
        let ends = lost.into_iter().map(|digest| async move {
            Ok::<_, Error>((digest, self.remake(context, digest, demand).await?))
        });
        let ends: Vec<(Digest, Option<End>)> =
            stream::iter(ends.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        let (mut missing, mut hint) = (Vec::new(), None);
        for (digest, end) in &ends {
            match end {
                None => missing.push(*digest),
                Some(End::Gone(why)) => {
                    missing.push(*digest);
                    hint.get_or_insert_with(|| advice(*digest, why));
                }
                Some(End::Made | End::NotNow(_)) => {}
            }
        }
        if !missing.is_empty() {
            let error = Error::new(Kind::MissingBlobs { missing });
            return Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
        match ends.iter().find_map(|(digest, end)| match end {
            Some(End::NotNow(kind)) => Some(not_now(*digest, kind)),
            _ => None,
        }) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
