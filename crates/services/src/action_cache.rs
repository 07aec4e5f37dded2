//! ActionCache: results by action.

use crate::{call, inline};
use mortar_model::{ActionCache, ActionKey, BlobStore, Error};
use mortar_wire::{
    Functioned,
    reapi::{self, GetActionResultRequest, UpdateActionResultRequest, action_cache_server},
    required_digest, result_from_wire, result_to_wire, small_outputs,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Answers look-ups and updates.
pub(crate) struct Service {
    actions: Arc<dyn ActionCache>,
    blobs: Arc<dyn BlobStore>,
}

impl Service {
    pub(crate) fn new(actions: Arc<dyn ActionCache>, blobs: Arc<dyn BlobStore>) -> Self {
        Self { actions, blobs }
    }

    async fn get(&self, request: Request<GetActionResultRequest>) -> Result<reapi::ActionResult, Status> {
        let (headers, _, request) = request.into_parts();
        let mut context = call::context(&headers, &request.instance_name)?;
        let function = request.function().map_err(call::refuse)?;
        let digest =
            required_digest("action_digest", function, request.action_digest).map_err(call::refuse)?;
        context.action = Some(digest);
        let found = self.actions.get(&context, ActionKey::from(digest)).await.map_err(call::refuse)?;
        let mut result = found.ok_or_else(|| call::refuse(Error::not_found("result of action", digest)))?;
        let hints = inline::Hints {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.into_iter().collect(),
            small: small_outputs::from_headers(&headers),
        };
        inline::fill(&context, self.blobs.as_ref(), &hints, &mut result).await;
        Ok(result_to_wire(&result))
    }

    async fn update(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<reapi::ActionResult, Status> {
        let (headers, _, request) = request.into_parts();
        let mut context = call::context(&headers, &request.instance_name)?;
        let function = request.function().map_err(call::refuse)?;
        let digest =
            required_digest("action_digest", function, request.action_digest).map_err(call::refuse)?;
        context.action = Some(digest);
        let message = request.action_result.ok_or_else(|| {
            call::refuse(Error::invalid("action_result", "the field `action_result` is absent"))
        })?;
        let result = result_from_wire(function, message.clone()).map_err(call::refuse)?;
        self.actions.put(&context, ActionKey::from(digest), result).await.map_err(call::refuse)?;
        Ok(message)
    }
}

#[tonic::async_trait]
impl action_cache_server::ActionCache for Service {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        self.get(request).await.map(Response::new)
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        self.update(request).await.map(Response::new)
    }
}
