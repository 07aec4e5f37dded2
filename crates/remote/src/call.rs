//! What every call has: headers made from the context, a time limit, and an answer whose failure is our one error.

use crate::{Inner, Lease, credentials::ONCE_MORE, retry::Untaken};
use h2::Reason;
use mortar_model::{Blame, Context, Digest, Error, Kind, RequestMetadata, Result};
use mortar_wire::{metadata, status};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tonic::{Code, Request, Response, Status};

impl Inner {
    /// A request with the caller's metadata and deadline.
    pub(crate) fn request<T>(&self, context: &Context, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if *context.request != RequestMetadata::default() {
            metadata::to_headers(&context.request, request.metadata_mut());
        }
        metadata::lost_to_headers(context.lost, request.metadata_mut());
        if let Some(deadline) = context.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        request
    }

    /// The answer of a call that has a single one.
    pub(crate) async fn unary<T>(
        &self,
        context: &Context,
        _lease: Lease,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.timely(context, Some(self.options.call_timeout), call).await.map(Response::into_inner)
    }

    /// What `call` gives, if it does within `limit` and before the context's deadline.
    pub(crate) async fn timely<T>(
        &self,
        context: &Context,
        limit: Option<Duration>,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        let limit = limit.map(|limit| Instant::now() + limit);
        let until = match (limit, context.deadline) {
            (Some(limit), Some(deadline)) => Some(limit.min(deadline)),
            (limit, deadline) => limit.or(deadline),
        };
        let answer = match until {
            Some(until) => tokio::time::timeout_at(until.into(), call).await,
            None => Ok(call.await),
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.error(context, status)),
            Err(_) => Err(self.too_late(context)),
        }
    }

    /// The error in a status: one that the server sent, or one of the way to it.
    pub(crate) fn error(&self, context: &Context, status: Status) -> Error {
        if status.metadata().contains_key(ONCE_MORE) {
            let message = format!(
                "the server at `{}` refused credentials in the middle of a call: {}",
                self.endpoint,
                status.message()
            );
            return Error::new(Kind::Aborted { message });
        }
        if is_of_the_way(&status) {
            if context.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return self.too_late(context);
            }
            let (cause, untaken) = (cause(&status), is_untaken(&status));
            if untaken {
                let message = format!("the server at `{}` did not take the call", self.endpoint);
                return Error::new(Kind::Unavailable { message, retry_after: None })
                    .with_source(Untaken(cause));
            }
            let message = format!("the server at `{}` cannot be reached: {cause}", self.endpoint);
            return Error::new(Kind::Unavailable { message, retry_after: None });
        }
        if status.message().is_empty() {
            let text =
                format!("the server at `{}` answered without a word: {}", self.endpoint, status.code());
            let details = bytes::Bytes::copy_from_slice(status.details());
            return status::from_status(&Status::with_details(status.code(), text, details));
        }
        status::from_status(&status)
    }

    fn too_late(&self, context: &Context) -> Error {
        if context.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let message = format!("the server at `{}` did not answer before the deadline", self.endpoint);
            return Error::new(Kind::DeadlineExceeded { message });
        }
        let message = format!("the server at `{}` does not answer", self.endpoint);
        Error::new(Kind::Unavailable { message, retry_after: None })
    }

    /// An answer that cannot be understood is the server's fault, whatever the conversion says.
    pub(crate) fn garbled(&self, error: Error) -> Error {
        let message = format!("the answer of the server at `{}` makes no sense", self.endpoint);
        Error::internal(message).with_source(error)
    }
}

/// Content that the server sent and that is not what was asked for.
pub(crate) fn wrong_content(digest: Digest, actual: String) -> Error {
    Error::mismatch(digest, actual, Blame::Server)
}

/// Whether no server said this: the connection could not be made or broke. Of such a status tonic keeps the cause; where
/// an answer just ends, or its dispatcher is gone, there is only the text.
fn is_of_the_way(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || status.code() == Code::Unknown
            && ["protocol error: missing grpc-status", "Service was not ready"]
                .iter()
                .any(|start| status.message().starts_with(start))
}

/// Whether the call was not begun with: the connection was closed before it was sent, or the server said that it would
/// not look at it.
fn is_untaken(status: &Status) -> bool {
    causes(status).any(|cause| {
        let unsent = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        let refused = cause.downcast_ref::<h2::Error>().is_some_and(|error| match error.reason() {
            Some(Reason::REFUSED_STREAM) => true,
            Some(Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            _ => false,
        });
        unsent || refused
    })
}

/// The innermost reason, which is the one that people understand.
fn cause(status: &Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), |cause| cause.to_string())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}
