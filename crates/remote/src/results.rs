//! The port of action results over the ActionCache service.
//!
//! An [`ActionKey`] has no size, since the HTTP cache tells none. Where the context does not know it either, the digest
//! that is sent says 0 in its place, which strict servers refuse.

use crate::{Inner, Remote, retry::Backoff};
use async_trait::async_trait;
use mortar_model::{ActionCache, ActionKey, ActionResult, Context, Digest, Result};
use mortar_wire::{digest_to_wire, function_to_wire, reapi, result_from_wire, result_to_wire, small_outputs};

#[async_trait]
impl ActionCache for Remote {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let request = reapi::GetActionResultRequest {
            instance_name: context.instance.to_string(),
            action_digest: Some(action_digest(context, key)),
            digest_function: function_to_wire(key.function).into(),
            ..Default::default()
        };
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        loop {
            match self.0.get_result(context, &request).await {
                Ok(result) => {
                    let result = result_from_wire(key.function, result);
                    return result.map(Some).map_err(|error| self.0.garbled(error));
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        let request = reapi::UpdateActionResultRequest {
            instance_name: context.instance.to_string(),
            action_digest: Some(action_digest(context, key)),
            action_result: Some(result_to_wire(&result)),
            results_cache_policy: None,
            digest_function: function_to_wire(key.function).into(),
        };
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        loop {
            let (mut client, lease) = self.0.action_cache();
            let call = client.update_action_result(self.0.request(context, request.clone()));
            match self.0.unary(context, lease, call).await {
                Ok(_) => return Ok(()),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}

impl Inner {
    async fn get_result(
        &self,
        context: &Context,
        request: &reapi::GetActionResultRequest,
    ) -> Result<reapi::ActionResult> {
        let (mut client, lease) = self.action_cache();
        let mut request = self.request(context, request.clone());
        if let Some(most) = self.options.small_outputs {
            small_outputs::to_headers(most, request.metadata_mut());
        }
        self.unary(context, lease, client.get_action_result(request)).await
    }
}

pub(crate) fn action_digest(context: &Context, key: ActionKey) -> reapi::Digest {
    let unsized_digest = || Digest::new(key.function, key.hash, 0);
    digest_to_wire(context.digest_of(key).unwrap_or_else(unsized_digest))
}
