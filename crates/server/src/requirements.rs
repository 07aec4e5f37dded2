//! What an action requires, read from its messages in the CAS.

use crate::missing::missing_below;
use async_trait::async_trait;
use mortar_model::{Action, BlobStore, BlobStoreExt, Context, Digest, Error, Kind, Result};
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

    /// A message of the action; none if it is not there.
    async fn read(&self, context: &Context, digest: Digest) -> Result<Option<bytes::Bytes>> {
        match self.blobs.read_all(context, digest, MAX_PROTO_BLOB).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// That the command is missing, and whatever else the client has to upload for this action.
    async fn incomplete(&self, context: &Context, action: &Action) -> Error {
        let mut missing = vec![action.command_digest];
        match missing_below(&*self.blobs, context, action.input_root_digest).await {
            Ok(below) => missing.extend(below.into_iter().filter(|digest| *digest != action.command_digest)),
            Err(error) => return error,
        }
        Error::new(Kind::MissingBlobs { missing })
    }
}

#[async_trait]
impl ActionSource for StoredActions {
    async fn action(&self, context: &Context, action_digest: Digest) -> Result<ActionRequirements> {
        let Some(bytes) = self.read(context, action_digest).await? else {
            return Err(Error::new(Kind::MissingBlobs { missing: vec![action_digest] }));
        };
        let action = mortar_wire::decode_action(action_digest.function(), bytes)?;
        let Some(bytes) = self.read(context, action.command_digest).await? else {
            return Err(self.incomplete(context, &action).await);
        };
        let command = mortar_wire::decode_command(bytes)?;
        Ok(ActionRequirements {
            // Since 2.2 the action's platform counts; older clients have it in the command alone.
            platform: action.platform.or(command.platform).unwrap_or_default(),
            do_not_cache: action.do_not_cache,
            timeout: action.timeout,
        })
    }
}
