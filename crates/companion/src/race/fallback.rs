//! What the upstream cannot take runs here: offline work.

use super::Local;
use async_trait::async_trait;
use mortar_model::{Context, Error, ExecuteRequest, Executor, Kind, Outcome, Progress, Result};
use std::sync::Arc;

/// The upstream first; this machine when the upstream is not there or does not take it.
pub struct Fallback {
    remote: Arc<dyn Executor>,
    local: Local,
}

impl Fallback {
    /// Over both places. `remote` is expected to fail at once while its breaker is open.
    pub fn new(remote: Arc<dyn Executor>, local: Local) -> Self {
        Self { remote, local }
    }
}

/// Whether an error says that the upstream is not there, does not know us, has no room, or cannot set the action up (as
/// it says of workers whose disk is full), rather than something about the action.
pub(super) fn is_away(error: &Error) -> bool {
    match error.kind() {
        Kind::Unavailable { .. }
        | Kind::DeadlineExceeded { .. }
        | Kind::Unauthenticated { .. }
        | Kind::ResourceExhausted { .. }
        | Kind::FailedPrecondition { .. } => true,
        Kind::Aborted { .. }
        | Kind::Cancelled { .. }
        | Kind::DataLoss { .. }
        | Kind::Internal { .. }
        | Kind::InvalidArgument { .. }
        | Kind::Io { .. }
        | Kind::Mismatch { .. }
        | Kind::MissingBlobs { .. }
        | Kind::NotFound { .. }
        | Kind::OutOfRange { .. }
        | Kind::PermissionDenied { .. }
        | Kind::Unimplemented { .. } => false,
    }
}

#[async_trait]
impl Executor for Fallback {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let away = match self.remote.execute(context, request.clone(), progress).await {
            Err(error) if is_away(&error) => error,
            answered => return answered,
        };
        tracing::debug!(action = %request.action_digest, error = %away, "the upstream does not take it; the action runs here");
        let ran = self.local.run(context, request, progress).await;
        ran.map_err(|error| match error.kind() {
            Kind::FailedPrecondition { message } => {
                let message = format!("the upstream does not take it ({away}), and {message}");
                Error::new(Kind::FailedPrecondition { message })
            }
            _ => error,
        })
    }
}
