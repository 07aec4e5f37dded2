//! Of which chunks a blob consists, as it is kept: a record under the hash of the blob.
//!
//! A recipe begins with its version and its chunking function, a byte each, and the size of the blob; then, for each
//! chunk, come hash and size. Numbers are little-endian, sizes of eight bytes. All chunks are of the blob's digest function.

use crate::records::{Record, RecordKind, Records};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mortar_model::{ChunkMapping, ChunkingFunction, Context, Digest, DigestFunction, Result};
use std::sync::Arc;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const VERSION: u8 = 1;
const ENTRY: usize = 32 + 8;

/// The recipes of a store.
pub(super) struct Recipes {
    records: Arc<dyn Records>,
    /// Held together by all who keep a recipe, and alone by who drops one, so that none is dropped that was found
    /// broken before it was kept anew. Neither the records nor the store of the chunks ever wait for it.
    changes: RwLock<()>,
}

impl Recipes {
    pub(super) fn new(records: Arc<dyn Records>) -> Self {
        Self { records, changes: RwLock::new(()) }
    }

    /// What this blob consists of, if it is known.
    pub(super) async fn get(&self, context: &Context, digest: Digest) -> Result<Option<ChunkMapping>> {
        let found = self.find(context, digest.function(), digest.hash()).await?;
        Ok(found.filter(|(size, _)| *size == digest.size()).map(|(_, mapping)| mapping))
    }

    /// The size of the blob with this hash, and what it consists of.
    pub(super) async fn find(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<(u64, ChunkMapping)>> {
        let content = self.records.record(context, RecordKind::Recipe, name(function, hash)).await?;
        Ok(content.and_then(|content| decode(function, content)))
    }

    /// Keeps what a blob consists of, durably.
    pub(super) async fn put(&self, context: &Context, digest: Digest, mapping: &ChunkMapping) -> Result<()> {
        let _with_others: RwLockReadGuard<'_, ()> = self.changes.read().await;
        let name = name(digest.function(), digest.hash());
        let content = encode(digest, mapping);
        self.records.put_records(context, vec![Record { kind: RecordKind::Recipe, name, content }]).await
    }

    /// Waits until nobody keeps a recipe, and lets nobody do so for as long as the guard lives.
    pub(super) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.changes.write().await
    }

    /// Drops a recipe. The guard says that the caller knows the recipe as it is.
    pub(super) async fn remove(&self, digest: Digest, _alone: &RwLockWriteGuard<'_, ()>) -> Result<()> {
        let name = name(digest.function(), digest.hash());
        self.records.remove_record(RecordKind::Recipe, name).await.map(drop)
    }
}

/// The name says nothing of the size, so that a blob is found by its hash alone.
fn name(function: DigestFunction, hash: &[u8; 32]) -> [u8; 32] {
    let name = [function.name().as_bytes(), b"\n", hash].concat();
    *Digest::of(DigestFunction::Sha256, &name).hash()
}

fn encode(digest: Digest, mapping: &ChunkMapping) -> Bytes {
    let mut content = BytesMut::with_capacity(10 + mapping.chunks.len() * ENTRY);
    content.put_u8(VERSION);
    content.put_u8(match mapping.function {
        None => 0,
        Some(ChunkingFunction::FastCdc2020) => 1,
        Some(ChunkingFunction::RepMaxCdc) => 2,
    });
    content.put_u64_le(digest.size());
    for chunk in &mapping.chunks {
        content.put_slice(chunk.hash());
        content.put_u64_le(chunk.size());
    }
    content.freeze()
}

/// The size of the blob, and its chunks. None for what a later version wrote, which counts as unknown.
fn decode(digests: DigestFunction, mut content: Bytes) -> Option<(u64, ChunkMapping)> {
    if content.len() < 10 || !(content.len() - 10).is_multiple_of(ENTRY) || content.get_u8() != VERSION {
        return None;
    }
    let function = match content.get_u8() {
        0 => None,
        1 => Some(ChunkingFunction::FastCdc2020),
        2 => Some(ChunkingFunction::RepMaxCdc),
        _ => return None,
    };
    let size = content.get_u64_le();
    let mut chunks = Vec::with_capacity(content.len() / ENTRY);
    while content.has_remaining() {
        let mut hash = [0; 32];
        content.copy_to_slice(&mut hash);
        chunks.push(Digest::new(digests, hash, content.get_u64_le()));
    }
    Some((size, ChunkMapping { function, chunks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_read_as_it_was_written() {
        for digests in DigestFunction::ALL {
            let chunks =
                vec![Digest::of(digests, b"a"), Digest::of(digests, b"bc"), Digest::of(digests, b"a")];
            for function in [None, Some(ChunkingFunction::FastCdc2020), Some(ChunkingFunction::RepMaxCdc)] {
                let mapping = ChunkMapping { function, chunks: chunks.clone() };
                let content = encode(Digest::of(digests, b"abca"), &mapping);
                assert_eq!(decode(digests, content), Some((4, mapping)));
            }
        }
    }

    #[test]
    fn what_is_no_recipe_is_unknown() {
        let digest = Digest::of(DigestFunction::Sha256, b"a");
        let whole = encode(digest, &ChunkMapping { function: None, chunks: vec![digest] });
        for length in (0..whole.len()).filter(|length| *length != 10) {
            assert_eq!(decode(DigestFunction::Sha256, whole.slice(..length)), None, "{length} bytes");
        }
        for (place, byte) in [(0, 2), (1, 3)] {
            let mut other = whole.to_vec();
            other[place] = byte;
            assert_eq!(decode(DigestFunction::Sha256, other.into()), None);
        }
    }
}
