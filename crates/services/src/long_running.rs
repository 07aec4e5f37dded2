//! `google.longrunning.Operations` for executions: lists them, looks them up, waits for them, and cancels them. Looking
//! does not keep an execution alive that nobody watches; waiting does.

use crate::{
    call,
    inline::Hints,
    limits,
    operation_message::{outline, whole},
    operations::Operations,
};
use mortar_model::{BlobStore, Error, InstanceName, Kind, Result};
use mortar_wire::{
    duration_from_wire,
    longrunning::{self as wire, operations_server},
};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// The longest that one call waits; it answers then with what is known.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Operations by name.
pub(crate) struct Service {
    operations: Operations,
    blobs: Arc<dyn BlobStore>,
}

impl Service {
    pub(crate) fn new(operations: Operations, blobs: Arc<dyn BlobStore>) -> Self {
        Self { operations, blobs }
    }

    fn list(&self, request: &wire::ListOperationsRequest) -> Result<wire::ListOperationsResponse> {
        let instance = instance(&request.name)?;
        let over = match request.filter.as_str() {
            "" | "done=false" => false,
            "done=true" => true,
            other => {
                let message = format!("the filter is `{other}`; expected `done=false`, `done=true` or none");
                return Err(Error::invalid("filter", message));
            }
        };
        let size = match usize::try_from(request.page_size) {
            Ok(0) => limits::OPERATIONS_PAGE,
            Ok(size) => size.min(limits::OPERATIONS_PAGE),
            Err(_) => {
                let message = format!("the page size is {}; expected 0 or more", request.page_size);
                return Err(Error::invalid("page_size", message));
            }
        };
        let (page, more) = self.operations.page(over, instance.as_ref(), &request.page_token, size);
        let next_page_token = page.last().filter(|_| more).map(|(last, _)| last.name.clone());
        Ok(wire::ListOperationsResponse {
            operations: page.iter().map(|(operation, state)| outline(operation, state)).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
            ..Default::default()
        })
    }
}

/// The instance whose operations are asked for: `operations`, `INSTANCE/operations`; nothing means those of all.
fn instance(parent: &str) -> Result<Option<InstanceName>> {
    match parent.strip_suffix("operations") {
        _ if parent.is_empty() => Ok(None),
        Some("") => Ok(Some(InstanceName::default())),
        Some(instance) if instance.len() > 1 && instance.ends_with('/') => {
            InstanceName::parse(&instance[..instance.len() - 1]).map(Some)
        }
        _ => {
            let message = format!(
                "the name is `{parent}`; expected `operations` or `INSTANCE/operations`, or nothing for all"
            );
            Err(Error::invalid("name", message))
        }
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Service {
    async fn list_operations(
        &self,
        request: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        self.list(request.get_ref()).map(Response::new).map_err(call::refuse)
    }

    async fn get_operation(
        &self,
        request: Request<wire::GetOperationRequest>,
    ) -> Result<Response<wire::Operation>, Status> {
        let (operation, state) = self.operations.look(&request.get_ref().name).map_err(call::refuse)?;
        Ok(Response::new(whole(&operation, &state, &Hints::default(), self.blobs.as_ref()).await))
    }

    async fn cancel_operation(
        &self,
        request: Request<wire::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let name = &request.get_ref().name;
        self.operations.cancel(name).map_err(call::refuse)?;
        tracing::info!(operation = name, "was told to cancel an operation");
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<wire::WaitOperationRequest>,
    ) -> Result<Response<wire::Operation>, Status> {
        let request = request.into_inner();
        let timeout = request.timeout.map(|timeout| duration_from_wire("timeout", timeout)).transpose();
        let timeout = timeout.map_err(call::refuse)?.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let mut watch = self.operations.watch(&request.name).map_err(call::refuse)?;
        // Whether it ended or the time did, the answer is what is known by then.
        let over = watch.states.wait_for(|state| state.done.is_some());
        let _ = tokio::time::timeout(timeout, over).await.map(|over| over.is_ok());
        let state = watch.states.borrow().clone();
        Ok(Response::new(whole(&watch.operation, &state, &Hints::default(), self.blobs.as_ref()).await))
    }

    async fn delete_operation(
        &self,
        _: Request<wire::DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let message =
            "operations are not deleted: one that is over is forgotten after two minutes".to_owned();
        let error = Error::new(Kind::Unimplemented { message });
        Err(call::refuse(error.hint("use CancelOperation to end one that is not over")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        for (parent, expected) in [
            ("", None),
            ("operations", Some("")),
            ("a/operations", Some("a")),
            ("a/b/operations", Some("a/b")),
        ] {
            let found = instance(parent).unwrap();
            assert_eq!(found.as_ref().map(InstanceName::as_str), expected, "{parent}");
        }
        for parent in ["a", "/operations", "xoperations", "a//operations", "operations/1", "blobs/operations"]
        {
            assert!(instance(parent).is_err(), "{parent}");
        }
    }
}
