//! Which blobs a result needs: those that it names, and those that its trees and directories name. Reads trees and
//! directories, within bounds; whether files are there is not asked here.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    ActionResult, BlobStore, BlobStoreExt, Codec, Context, Digest, DigestSet, Directory, Error, Kind, Result,
};

/// The largest Tree message that is read to look into it, in bytes.
const MAX_TREE: u64 = 64 * 1024 * 1024;
/// The largest Directory message.
const MAX_DIRECTORY: u64 = 16 * 1024 * 1024;
/// The most different directories that are looked into for one result, and the most blobs that it may need.
const MAX_NAMED: usize = 1_000_000;
/// Directories that are read at the same time.
const READS: usize = 16;

/// The blobs of one result, as far as they are found.
pub(super) struct Closure<'a> {
    context: &'a Context,
    blobs: &'a dyn BlobStore,
    codec: &'a dyn Codec,
    /// What is found by now.
    pub(super) found: DigestSet,
}

impl<'a> Closure<'a> {
    /// Begins with what the result itself names.
    pub(super) fn new(
        context: &'a Context,
        blobs: &'a dyn BlobStore,
        codec: &'a dyn Codec,
        named: DigestSet,
    ) -> Self {
        Self { context, blobs, codec, found: named }
    }

    /// Adds what the trees name: files, since their directories are no blobs. False where one makes the result useless.
    pub(super) async fn add_trees(&mut self, result: &ActionResult) -> Result<bool> {
        // One tree at a time, to hold one in memory.
        for digest in result.directories.iter().filter_map(|directory| directory.tree_digest) {
            let decode = |bytes| self.codec.decode_tree(digest.function(), bytes);
            let Some(tree) = self.look(digest, MAX_TREE, decode).await? else { return Ok(false) };
            let levels = tree.children.iter().chain([&tree.root]);
            self.found.extend(levels.flat_map(|level| &level.files).map(|file| file.digest));
        }
        Ok(self.is_bounded())
    }

    /// Adds everything below the root directories, level by level: each directory is read once. False where one makes
    /// the result useless.
    pub(super) async fn add_roots(&mut self, result: &ActionResult) -> Result<bool> {
        let roots = result.directories.iter().filter_map(|directory| directory.root_directory_digest);
        let mut level: DigestSet = roots.collect();
        let mut known = level.clone();
        while !level.is_empty() {
            let this = &*self;
            let reads = level.into_iter().map(|digest| {
                let decode = move |bytes| this.codec.decode_directory(digest.function(), bytes);
                this.look(digest, MAX_DIRECTORY, decode)
            });
            let read: Vec<Option<Directory>> =
                stream::iter(reads).buffer_unordered(READS).try_collect().await?;
            level = DigestSet::new();
            for directory in read {
                let Some(directory) = directory else { return Ok(false) };
                let children = directory.directories.iter().map(|node| node.digest);
                self.found.extend(directory.files.iter().map(|file| file.digest).chain(children.clone()));
                level.extend(children.filter(|digest| known.insert(*digest)));
            }
            if !self.is_bounded() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_bounded(&self) -> bool {
        let bounded = self.found.len() <= MAX_NAMED;
        if !bounded {
            tracing::warn!("an action result is not kept: it needs more than {MAX_NAMED} blobs");
        }
        bounded
    }

    /// A message that a result names; none where it cannot be looked into, which makes the result useless.
    async fn look<T>(
        &self,
        digest: Digest,
        limit: u64,
        decode: impl FnOnce(Bytes) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.blobs.read_all(self.context, digest, limit).await.and_then(decode) {
            Ok(message) => Ok(Some(message)),
            Err(error) if is_useless(&error) => {
                tracing::warn!(%digest, %error, "an action result is not kept: it names what cannot be read");
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
