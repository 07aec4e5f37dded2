//! What the upstream expects to be asked for next, from a server of ours.

use crate::{MAX_MESSAGE, Remote};
use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use mortar_model::{
    ActionKey, AheadBounds, Coming, Context, DigestFunction, Foresight, Kind, Result, Whence,
};
use mortar_wire::{
    function_to_wire,
    look_ahead::{self as wire, FollowRequest, follow_request::From, look_ahead_client::LookAheadClient},
    required_digest, result_from_wire,
};
use std::sync::atomic::Ordering;

#[async_trait]
impl Foresight for Remote {
    /// A server that does not know the call is asked once and never again.
    async fn follow(
        &self,
        context: &Context,
        from: Whence,
        bounds: AheadBounds,
    ) -> Result<BoxStream<'static, Result<Coming>>> {
        if self.0.foresees_nothing.load(Ordering::Relaxed) {
            return Ok(stream::empty().boxed());
        }
        let (function, from) = match from {
            Whence::Action(key) => {
                (key.function, From::ActionDigest(crate::results::action_digest(context, key)))
            }
            Whence::Cursor(function, cursor) => (function, From::Cursor(cursor)),
        };
        let request = FollowRequest {
            instance_name: context.instance.to_string(),
            digest_function: function_to_wire(function).into(),
            from: Some(from),
            max_results: bounds.results,
            max_blob_bytes: bounds.blob,
            max_bytes: bounds.bytes,
        };
        let lease = self.0.pool.lease();
        let mut client = LookAheadClient::new(lease.channel()).max_decoding_message_size(MAX_MESSAGE);
        let call = client.follow(self.0.request(context, request));
        let answer = match self.0.timely(context, Some(self.0.options.call_timeout), call).await {
            Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => {
                self.0.foresees_nothing.store(true, Ordering::Relaxed);
                return Ok(stream::empty().boxed());
            }
            answer => answer?,
        };
        let (remote, context) = (self.clone(), context.clone());
        let coming = answer.into_inner().map(move |coming| {
            // The connection counts as used for as long as the stream lives.
            let _held = &lease;
            let coming = coming.map_err(|status| remote.0.error(&context, status))?;
            from_wire(function, coming).map_err(|error| remote.0.garbled(error))
        });
        Ok(coming.boxed())
    }
}

fn from_wire(function: DigestFunction, coming: wire::Coming) -> Result<Coming> {
    let digest = required_digest("action_digest", function, coming.action_digest)?;
    let blobs = coming
        .blobs
        .into_iter()
        .map(|blob| Ok((required_digest("blobs.digest", function, blob.digest)?, blob.data)));
    Ok(Coming {
        key: ActionKey::from(digest),
        result: result_from_wire(function, coming.result.unwrap_or_default())?,
        blobs: blobs.collect::<Result<_>>()?,
        cursor: coming.cursor,
    })
}
