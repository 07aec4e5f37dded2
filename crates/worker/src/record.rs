//! The last step: keeps the result of a success, once all that it names is stored.

use crate::job::Job;
use mortar_model::{Action, ActionCache, Outcome, Result, Termination};

/// Puts the result into the action cache, if it belongs there. A failure is a result, but never a cached one.
pub async fn record(job: &Job, actions: &dyn ActionCache, action: &Action, outcome: &Outcome) -> Result<()> {
    let exited = outcome.termination == Termination::Exited;
    if action.do_not_cache || !exited || !outcome.result.is_success() {
        return Ok(());
    }
    job.unless_cancelled(actions.put(&job.context, job.action.into(), outcome.result.clone())).await
}
