//! Decorators of a far store and a far action cache that remember the sizes of what passes by, and find blobs by hash with
//! them. For fronts whose clients tell no sizes, before servers that must be told them.

use crate::bounded::{Bounded, bounded};
use async_trait::async_trait;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Blob, BlobStore, Codec, Context, Digest, DigestFunction, DigestSet,
    HashIndex, Range, Result,
};
use quick_cache::UnitWeighter;
use std::sync::Arc;

/// Trees up to this many bytes are looked into.
const LARGEST_TREE: u64 = 16 << 20;

/// Sizes by hash, as far as they were seen: in results that were got or put, in the trees that these name once the trees
/// are read, and of blobs that were written.
///
/// Bazel's HTTP cache asks for `/cas/HASH`, and a REAPI server cannot be asked without the size. Bazel asks for nothing
/// but what a result names, which it asked for before, so this is enough for it while this is remembered; who asks for a
/// hash out of the blue is told that it is not there. Where a local store stands in between, its index knows more: then
/// this comes second.
pub struct SizesSeen {
    sizes: Arc<Bounded<(DigestFunction, [u8; 32]), u64, UnitWeighter>>,
    trees: Arc<Bounded<Digest, (), UnitWeighter>>,
    codec: Arc<dyn Codec>,
}

impl SizesSeen {
    /// Remembers at most `max_blobs` sizes (some 100 bytes each), those not asked for first to go.
    pub fn new(max_blobs: u64, codec: Arc<dyn Codec>) -> Arc<Self> {
        let trees = bounded((max_blobs / 16).max(1), 1, UnitWeighter);
        Arc::new(Self { sizes: bounded(max_blobs, 1, UnitWeighter), trees, codec })
    }

    /// `inner`, with its writes and trees looked at. No powers are forwarded.
    pub fn blobs(self: &Arc<Self>, inner: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        Arc::new(Blobs { seen: self.clone(), inner })
    }

    /// `inner`, with its results looked at.
    pub fn actions(self: &Arc<Self>, inner: Arc<dyn ActionCache>) -> Arc<dyn ActionCache> {
        Arc::new(Actions { seen: self.clone(), inner })
    }

    /// Finds what was seen, and asks `blobs` whether it is there.
    pub fn index(self: &Arc<Self>, blobs: Arc<dyn BlobStore>) -> Arc<dyn HashIndex> {
        Arc::new(Index { seen: self.clone(), blobs })
    }

    fn note(&self, digest: Digest) {
        self.sizes.insert((digest.function(), *digest.hash()), digest.size());
    }

    fn note_result(&self, result: &ActionResult) {
        result.named_blobs().iter().for_each(|digest| self.note(digest));
        let trees = result.directories.iter().filter_map(|directory| directory.tree_digest);
        trees.filter(|tree| tree.size() <= LARGEST_TREE).for_each(|tree| self.trees.insert(tree, ()));
    }

    /// The blob, read whole and looked into.
    async fn note_tree(&self, digest: Digest, blob: Blob) -> Result<Blob> {
        let bytes = blob.into_bytes().await?;
        // What is named a tree and is none is for whoever reads it to find out.
        if let Ok(tree) = self.codec.decode_tree(digest.function(), bytes.clone()) {
            let directories = tree.children.iter().chain([&tree.root]);
            directories.flat_map(|directory| &directory.files).for_each(|file| self.note(file.digest));
        }
        Ok(Blob::bytes(bytes))
    }
}

struct Blobs {
    seen: Arc<SizesSeen>,
    inner: Arc<dyn BlobStore>,
}

#[async_trait]
impl BlobStore for Blobs {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let blob = self.inner.read(context, digest, range).await?;
        if range.is_all_of(digest) && self.seen.trees.get(&digest).is_some() {
            return self.seen.note_tree(digest, blob).await;
        }
        Ok(blob)
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await?;
        self.seen.note(digest);
        Ok(())
    }

    /// What is there already is not written by who asked, and read by others.
    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let missing = self.inner.find_missing(context, digests).await?;
        digests.iter().filter(|digest| !missing.contains(digest)).for_each(|digest| self.seen.note(digest));
        Ok(missing)
    }
}

struct Actions {
    seen: Arc<SizesSeen>,
    inner: Arc<dyn ActionCache>,
}

#[async_trait]
impl ActionCache for Actions {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        let result = self.inner.get(context, key).await?;
        if let Some(result) = &result {
            self.seen.note_result(result);
        }
        Ok(result)
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        self.seen.note_result(&result);
        self.inner.put(context, key, result).await
    }
}

struct Index {
    seen: Arc<SizesSeen>,
    blobs: Arc<dyn BlobStore>,
}

#[async_trait]
impl HashIndex for Index {
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        let empty = Digest::empty(function);
        if hash == empty.hash() {
            return Ok(Some(empty));
        }
        let Some(size) = self.seen.sizes.get(&(function, *hash)) else { return Ok(None) };
        let digest = Digest::new(function, *hash, size);
        let missing = self.blobs.find_missing(context, &[digest].into_iter().collect()).await?;
        Ok(missing.is_empty().then_some(digest))
    }
}
