//! What is put into a result itself: outputs where the client asked for them, and short logs in any case, since whoever
//! shows them would fetch them next. A hint that cannot be followed is left aside: the digests are there all the same.

use crate::limits;
use bytes::Bytes;
use mortar_model::{ActionResult, BlobStore, BlobStoreExt, Context, Digest, OutputFile};
use mortar_wire::result_to_wire;
use prost::Message;
use std::collections::HashSet;

/// What the client wants to find in the result itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) files: HashSet<String>,
    /// Files up to this size, whatever their paths.
    pub(crate) small: Option<u64>,
}

impl Hints {
    fn asks_for(&self, file: &OutputFile) -> bool {
        let is_small = self.small.is_some_and(|most| file.digest.size() <= most.min(limits::SMALL_OUTPUT));
        is_small || self.files.contains(&file.path)
    }
}

/// Follows the hints as far as the message may grow. What nobody asked for goes, if it can be fetched by its digest.
pub(crate) async fn fill(context: &Context, blobs: &dyn BlobStore, hints: &Hints, result: &mut ActionResult) {
    drop_what_is_not_asked_for(hints, result);
    if wants(hints, result).next().is_none() {
        return;
    }
    let mut budget = Budget { context, blobs, left: room(result) };
    let logs = [
        (hints.stdout, result.stdout_digest, &mut result.stdout_raw),
        (hints.stderr, result.stderr_digest, &mut result.stderr_raw),
    ];
    let (asked, short): (Vec<_>, Vec<_>) = logs.into_iter().partition(|(asked, ..)| *asked);
    for (_, digest, raw) in asked.into_iter().filter(|(.., raw)| raw.is_empty()) {
        *raw = budget.read(digest, u64::MAX).await;
    }
    for file in result.files.iter_mut().filter(|file| hints.asks_for(file)) {
        if file.contents.is_empty() {
            file.contents = budget.read(Some(file.digest), u64::MAX).await;
        }
    }
    for (_, digest, raw) in short.into_iter().filter(|(.., raw)| raw.is_empty()) {
        *raw = budget.read(digest, limits::SHORT_LOG).await;
    }
}

/// Who put the result may have put content into it.
fn drop_what_is_not_asked_for(hints: &Hints, result: &mut ActionResult) {
    let logs = [
        (hints.stdout, result.stdout_digest, &mut result.stdout_raw),
        (hints.stderr, result.stderr_digest, &mut result.stderr_raw),
    ];
    for (asked, digest, raw) in logs {
        let most = if asked { limits::MAX_INLINE } else { limits::SHORT_LOG };
        if digest.is_some() && raw.len() as u64 > most {
            *raw = Bytes::new();
        }
    }
    for file in result.files.iter_mut().filter(|file| !hints.asks_for(file)) {
        file.contents = Bytes::new();
    }
}

/// The blobs that may be put in.
fn wants<'a>(hints: &'a Hints, result: &'a ActionResult) -> impl Iterator<Item = Digest> + 'a {
    let log = |asked: bool, digest: Option<Digest>, raw: &Bytes| {
        let most = if asked { limits::MAX_INLINE } else { limits::SHORT_LOG };
        digest.filter(|digest| raw.is_empty() && digest.size() <= most)
    };
    let files = result.files.iter().filter(|file| hints.asks_for(file)).map(|file| file.digest);
    let logs = [
        log(hints.stdout, result.stdout_digest, &result.stdout_raw),
        log(hints.stderr, result.stderr_digest, &result.stderr_raw),
    ];
    logs.into_iter().flatten().chain(files).filter(|digest| digest.size() > 0)
}

/// How much may be added to a result.
fn room(result: &ActionResult) -> u64 {
    let length = result_to_wire(result).encoded_len() as u64;
    limits::MAX_RESULT.saturating_sub(length).min(limits::MAX_INLINE)
}

struct Budget<'a> {
    context: &'a Context,
    blobs: &'a dyn BlobStore,
    left: u64,
}

impl Budget<'_> {
    /// A blob of up to `most` bytes; nothing where that is not to be had.
    async fn read(&mut self, digest: Option<Digest>, most: u64) -> Bytes {
        let Some(digest) = digest.filter(|digest| digest.size() <= self.left.min(most)) else {
            return Bytes::new();
        };
        let Ok(bytes) = self.blobs.read_all(self.context, digest, self.left).await else {
            return Bytes::new();
        };
        self.left -= digest.size();
        bytes
    }
}
