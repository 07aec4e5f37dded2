//! A decorator of the action cache: a result is served only if it can be used.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Codec, Context, Digest, DigestSet,
    Directory, Error, Kind, Result,
};
use std::sync::Arc;

/// The largest Tree message that is read to look into it, in bytes.
const MAX_TREE: u64 = 64 * 1024 * 1024;
/// The largest Directory message.
const MAX_DIRECTORY: u64 = 16 * 1024 * 1024;
/// The most different directories that are looked into for one result.
const MAX_DIRECTORIES: usize = 1_000_000;
/// Directories that are read at the same time.
const READS: usize = 16;

/// Serves a result only if it is a success and every blob that it names is present: output files, trees and their
/// files, root directories and everything below them, stdout and stderr. Otherwise it is unknown, and the action runs
/// again. Asking extends the promise of all those blobs, so that a client may build on them.
///
/// Stands before every action cache whose results are served to clients. A failed result (a non-zero exit code) is
/// not stored, without an error, since clients may send any result that they have.
pub struct Completeness {
    inner: Arc<dyn ActionCache>,
    blobs: Arc<dyn BlobStore>,
    codec: Arc<dyn Codec>,
}

impl Completeness {
    /// Over `inner`, whose results name blobs in `blobs`; trees and directories are decoded by `codec`.
    pub fn new(inner: Arc<dyn ActionCache>, blobs: Arc<dyn BlobStore>, codec: Arc<dyn Codec>) -> Self {
        Self { inner, blobs, codec }
    }

    async fn is_complete(&self, context: &Context, result: &ActionResult) -> Result<bool> {
        if !self.all_present(context, &result.named_blobs()).await? {
            return Ok(false);
        }
        // One tree at a time, to hold one in memory; what they name is asked for at once.
        let mut named = DigestSet::new();
        for digest in result.directories.iter().filter_map(|directory| directory.tree_digest) {
            let decode = |bytes| self.codec.decode_tree(digest.function(), bytes);
            let Some(tree) = self.look(context, digest, MAX_TREE, decode).await? else { return Ok(false) };
            let levels = tree.children.iter().chain([&tree.root]);
            named.extend(levels.flat_map(|level| &level.files).map(|file| file.digest));
        }
        let roots = result.directories.iter().filter_map(|directory| directory.root_directory_digest);
        Ok(self.all_present(context, &named).await? && self.all_below(context, roots.collect()).await?)
    }

    async fn all_present(&self, context: &Context, digests: &DigestSet) -> Result<bool> {
        Ok(digests.is_empty() || self.blobs.find_missing(context, digests).await?.is_empty())
    }

    /// Whether everything below these directories is present, as far as a result may name that much. Goes level by
    /// level: each directory is read once, each blob asked for once, those of a level in one call.
    async fn all_below(&self, context: &Context, roots: DigestSet) -> Result<bool> {
        let (mut asked, mut known, mut level) = (roots.clone(), roots.clone(), roots);
        while !level.is_empty() {
            if known.len() > MAX_DIRECTORIES {
                tracing::warn!(
                    "an action result is not served: it has more than {MAX_DIRECTORIES} directories"
                );
                return Ok(false);
            }
            let reads = level.into_iter().map(|digest| {
                let decode = move |bytes| self.codec.decode_directory(digest.function(), bytes);
                self.look(context, digest, MAX_DIRECTORY, decode)
            });
            let read: Vec<Option<Directory>> =
                stream::iter(reads).buffer_unordered(READS).try_collect().await?;
            let (mut next, mut named) = (DigestSet::new(), DigestSet::new());
            for directory in read {
                let Some(directory) = directory else { return Ok(false) };
                let children = directory.directories.iter().map(|node| node.digest);
                let blobs = directory.files.iter().map(|file| file.digest).chain(children.clone());
                named.extend(blobs.filter(|digest| asked.insert(*digest)));
                next.extend(children.filter(|digest| known.insert(*digest)));
            }
            if !self.all_present(context, &named).await? {
                return Ok(false);
            }
            level = next;
        }
        Ok(true)
    }

    /// A message that a result names; none where it cannot be looked into, which makes the result useless.
    async fn look<T>(
        &self,
        context: &Context,
        digest: Digest,
        limit: u64,
        decode: impl FnOnce(Bytes) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.blobs.read_all(context, digest, limit).await.and_then(decode) {
            Ok(message) => Ok(Some(message)),
            Err(error) if is_useless(&error) => {
                tracing::warn!(%digest, %error, "an action result is not served: it names what cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the message is at fault. A store that does not answer is an error and no miss.
fn is_useless(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::NotFound { .. }
            | Kind::DataLoss { .. }
            | Kind::InvalidArgument { .. }
            | Kind::Mismatch { .. }
            | Kind::ResourceExhausted { retry_after: None, .. }
    )
}

#[async_trait]
impl ActionCache for Completeness {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let Some(result) = self.inner.get(context, key).await? else { return Ok(None) };
        let usable = result.is_success() && self.is_complete(context, &result).await?;
        Ok(usable.then_some(result))
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        match result.is_success() {
            true => self.inner.put(context, key, result).await,
            false => Ok(()),
        }
    }
}
