//! Whether an action can run on this machine.

use async_trait::async_trait;
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, Platform, Result};
use std::sync::Arc;

/// Knows what this machine can run.
#[async_trait]
pub trait Suits: Send + Sync {
    /// What stands against running this action here, for people; nothing if it can run.
    async fn refused(&self, context: &Context, action: Digest) -> Result<Option<String>>;
}

/// Properties that ask for an amount, which this machine gives as far as it has it.
const AMOUNTS: [&str; 2] = ["cpu_count", "memory"];

/// The largest Action or Command message.
const MESSAGE: u64 = 16 << 20;

/// Reads what the action asks for, and holds it against what this machine offers.
pub struct StoredPlatforms {
    blobs: Arc<dyn BlobStore>,
    offered: Platform,
}

impl StoredPlatforms {
    /// Actions that are in this store, against this offer.
    pub fn new(blobs: Arc<dyn BlobStore>, offered: Platform) -> Self {
        Self { blobs, offered }
    }

    async fn asked(&self, context: &Context, digest: Digest) -> Result<Platform> {
        let bytes = self.blobs.read_all(context, digest, MESSAGE).await?;
        let action = mortar_wire::decode_action(digest.function(), bytes)?;
        if let Some(platform) = action.platform {
            return Ok(platform);
        }
        // Clients before 2.2 have it in the command alone.
        let bytes = self.blobs.read_all(context, action.command_digest, MESSAGE).await?;
        Ok(mortar_wire::decode_command(bytes)?.platform.unwrap_or_default())
    }
}

#[async_trait]
impl Suits for StoredPlatforms {
    async fn refused(&self, context: &Context, action: Digest) -> Result<Option<String>> {
        let asked = self.asked(context, action).await?;
        let unmet = asked.unmet_by(&self.offered).find(|unmet| !AMOUNTS.contains(&unmet.name.as_str()));
        Ok(unmet.map(|unmet| format!("this machine does not offer `{}={}`", unmet.name, unmet.value)))
    }
}
