//! What an action requires, read from its messages in the CAS.

use async_trait::async_trait;
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, Error, Kind, Result};
use mortar_scheduler::{ActionRequirements, ActionSource};
use mortar_services::limits::MAX_PROTO_BLOB;
use std::sync::Arc;

/// Reads Action and Command.
pub(crate) struct StoredActions {
    blobs: Arc<dyn BlobStore>,
}

impl StoredActions {
    pub(crate) fn new(blobs: Arc<dyn BlobStore>) -> Self {
        Self { blobs }
    }

    /// A message of the action; one that is not there is something that the client can upload.
    async fn read(&self, context: &Context, digest: Digest) -> Result<bytes::Bytes> {
        self.blobs.read_all(context, digest, MAX_PROTO_BLOB).await.map_err(|error| {
            if error.is_not_found() {
                Error::new(Kind::MissingBlobs { missing: vec![digest] })
            } else {
                error
            }
        })
    }
}

#[async_trait]
impl ActionSource for StoredActions {
    async fn action(&self, context: &Context, action_digest: Digest) -> Result<ActionRequirements> {
        let bytes = self.read(context, action_digest).await?;
        let action = mortar_wire::decode_action(action_digest.function(), bytes)?;
        let command = mortar_wire::decode_command(self.read(context, action.command_digest).await?)?;
        Ok(ActionRequirements {
            // Since 2.2 the action's platform counts; older clients have it in the command alone.
            platform: action.platform.or(command.platform).unwrap_or_default(),
            do_not_cache: action.do_not_cache,
            timeout: action.timeout,
        })
    }
}
