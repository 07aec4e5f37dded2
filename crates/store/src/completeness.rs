//! A decorator of the action cache: a result is served only if it can be used.

use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Codec, Context, Digest, DigestFunction,
    DigestSet, Error, Kind, OutputDirectory, Result,
};
use std::sync::Arc;

/// The largest Tree message that is read to look into it, in bytes.
const MAX_TREE: u64 = 64 * 1024 * 1024;

/// Serves a result only if it is a success and every blob that it names is present: output files, trees and what
/// they name, root directories, stdout and stderr. Otherwise it is unknown, and the action runs again. Asking
/// extends the promise of all those blobs, so that a client may build on them.
///
/// Stands before every action cache whose results are served to clients. A failed result (a non-zero exit code) is
/// not stored, without an error, since clients may send any result that they have.
pub struct Completeness {
    inner: Arc<dyn ActionCache>,
    blobs: Arc<dyn BlobStore>,
    codec: Arc<dyn Codec>,
}

impl Completeness {
    /// Over `inner`, whose results name blobs in `blobs`; trees are decoded by `codec`.
    pub fn new(inner: Arc<dyn ActionCache>, blobs: Arc<dyn BlobStore>, codec: Arc<dyn Codec>) -> Self {
        Self { inner, blobs, codec }
    }

    async fn is_complete(
        &self,
        context: &Context,
        function: DigestFunction,
        result: &ActionResult,
    ) -> Result<bool> {
        if !self.all_present(context, &result.named_blobs()).await? {
            return Ok(false);
        }
        // One tree at a time, to hold one in memory; what they name is asked for at once.
        let mut named = DigestSet::new();
        for directory in &result.directories {
            let Some(tree) = directory.tree_digest else { continue };
            match self.named_by(context, function, directory, tree).await {
                Ok(digests) => named.extend(digests),
                Err(error) => return refuse_or_fail(tree, error),
            }
        }
        self.all_present(context, &named).await
    }

    async fn all_present(&self, context: &Context, digests: &DigestSet) -> Result<bool> {
        Ok(digests.is_empty() || self.blobs.find_missing(context, digests).await?.is_empty())
    }

    /// The blobs that a tree names. Its directories are in the tree itself; only where the result names the root
    /// directory too does the client expect them as blobs.
    async fn named_by(
        &self,
        context: &Context,
        function: DigestFunction,
        directory: &OutputDirectory,
        tree: Digest,
    ) -> Result<DigestSet> {
        let bytes = self.blobs.read_all(context, tree, MAX_TREE).await?;
        let tree = self.codec.decode_tree(function, bytes)?;
        let all = || tree.children.iter().chain([&tree.root]);
        let mut named: DigestSet = all().flat_map(|level| &level.files).map(|file| file.digest).collect();
        if directory.root_directory_digest.is_some() {
            named.extend(all().flat_map(|level| &level.directories).map(|node| node.digest));
        }
        Ok(named)
    }
}

/// A tree that cannot be looked into makes the result useless; a store that does not answer is an error.
fn refuse_or_fail(tree: Digest, error: Error) -> Result<bool> {
    match error.kind() {
        Kind::NotFound { .. }
        | Kind::DataLoss { .. }
        | Kind::InvalidArgument { .. }
        | Kind::Mismatch { .. }
        | Kind::ResourceExhausted { retry_after: None, .. } => {
            tracing::warn!(%tree, %error, "an action result is not served: its tree cannot be read");
            Ok(false)
        }
        _ => Err(error),
    }
}

#[async_trait]
impl ActionCache for Completeness {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let Some(result) = self.inner.get(context, key).await? else { return Ok(None) };
        let usable = result.is_success() && self.is_complete(context, key.function, &result).await?;
        Ok(usable.then_some(result))
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        match result.is_success() {
            true => self.inner.put(context, key, result).await,
            false => Ok(()),
        }
    }
}
