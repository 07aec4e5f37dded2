//! Small outputs put into a result where the client asked for them. A hint that cannot be followed is left aside:
//! the digests are there all the same.

use crate::limits;
use bytes::Bytes;
use mortar_model::{ActionResult, BlobStore, BlobStoreExt, Context, Digest};

/// What the client wants to find in the result itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) files: Vec<String>,
}

/// Follows the hints as far as the message may grow.
pub(crate) async fn fill(context: &Context, blobs: &dyn BlobStore, hints: &Hints, result: &mut ActionResult) {
    let mut budget = Budget { context, blobs, left: limits::MAX_INLINE };
    if hints.stdout && result.stdout_raw.is_empty() {
        result.stdout_raw = budget.read(result.stdout_digest).await;
    }
    if hints.stderr && result.stderr_raw.is_empty() {
        result.stderr_raw = budget.read(result.stderr_digest).await;
    }
    for file in result.files.iter_mut().filter(|file| hints.files.contains(&file.path)) {
        file.contents = budget.read(Some(file.digest)).await;
    }
}

struct Budget<'a> {
    context: &'a Context,
    blobs: &'a dyn BlobStore,
    left: u64,
}

impl Budget<'_> {
    async fn read(&mut self, digest: Option<Digest>) -> Bytes {
        let Some(digest) = digest.filter(|digest| digest.size() <= self.left) else { return Bytes::new() };
        let Ok(bytes) = self.blobs.read_all(self.context, digest, self.left).await else {
            return Bytes::new();
        };
        self.left -= digest.size();
        bytes
    }
}
