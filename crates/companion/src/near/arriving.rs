//! A decorator of the local store: blobs that came along with results. They are kept, which takes as long as the disk does;
//! but nobody waits for that: they can be read meanwhile, and are taken to be here. Who asks for one after a kill gets it
//! from the upstream.

use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{ActionResult, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestSet, Range, Result};
use mortar_store::DiskStore;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// What may be on its way to the disk. Who brings more waits.
const BYTES: usize = 16 << 20;
/// What one takes beside its content, rather more than less.
const BESIDE: usize = 4 << 10;
/// Larger ones are waited for: they are not checked twice, and not where others want to go on.
const LARGEST: usize = 64 << 10;

/// The local store and what is on its way to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Arriving {
    disk: Arc<DiskStore>,
    blobs: Arc<Mutex<HashMap<Digest, Bytes>>>,
    room: Arc<Semaphore>,
    writes: TaskTracker,
}

impl Arriving {
    pub fn new(disk: Arc<DiskStore>) -> Self {
        let (blobs, room) = (Arc::default(), Arc::new(Semaphore::new(BYTES)));
        Self { disk, blobs, room, writes: TaskTracker::new() }
    }

    /// The store itself.
    pub fn disk(&self) -> &Arc<DiskStore> {
        &self.disk
    }

    /// Takes in what a result of an upstream brought along: from now on it is here.
    pub async fn take_in(&self, context: &Context, result: &ActionResult) {
        let logs = [(result.stdout_digest, &result.stdout_raw), (result.stderr_digest, &result.stderr_raw)];
        let logs = logs.into_iter().filter_map(|(digest, raw)| Some((digest?, raw)));
        let files = result.files.iter().map(|file| (file.digest, &file.contents));
        for (digest, bytes) in logs.chain(files).filter(|(_, bytes)| !bytes.is_empty()) {
            if bytes.len() > LARGEST {
                self.keep(context, digest, bytes.clone()).await;
            } else if Digest::of(digest.function(), bytes) == digest {
                // A copy, since these are a part of a whole message.
                self.begin(context, digest, Bytes::copy_from_slice(bytes)).await;
            } else {
                // It would be served before the store has looked at it.
                tracing::debug!(%digest, "an output that came along is another one, and not kept");
            }
        }
    }

    /// Has it here at once, and kept meanwhile.
    async fn begin(&self, context: &Context, digest: Digest, bytes: Bytes) {
        let weight = (bytes.len() + BESIDE) as u32;
        let room = self.room.clone().acquire_many_owned(weight).await.expect("it is never closed");
        self.blobs.lock().insert(digest, bytes.clone());
        let (this, context) = (self.clone(), Context { deadline: None, operation: None, ..context.clone() });
        self.writes.spawn(async move {
            let _room = room;
            this.keep(&context, digest, bytes).await;
            this.blobs.lock().remove(&digest);
        });
    }

    async fn keep(&self, context: &Context, digest: Digest, bytes: Bytes) {
        if let Err(error) = self.disk.write_bytes(context, digest, bytes).await {
            tracing::debug!(%digest, %error, "an output that came along is not kept");
        }
    }

    /// Waits for what is being kept. Nothing may come any more by then.
    pub async fn settle(&self) {
        self.writes.close();
        self.writes.wait().await;
    }
}

/// What is on its way is looked at first: what is not on its way any more is on the disk.
#[async_trait]
impl BlobStore for Arriving {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let arriving = self.blobs.lock().get(&digest).cloned();
        let Some(bytes) = arriving else { return self.disk.read(context, digest, range).await };
        let (offset, length) = range.within(digest)?;
        Ok(Blob::bytes(bytes.slice(offset as usize..(offset + length) as usize)))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.disk.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let arriving: DigestSet = {
            let blobs = self.blobs.lock();
            match blobs.is_empty() {
                true => DigestSet::new(),
                false => digests.iter().filter(|digest| blobs.contains_key(digest)).collect(),
            }
        };
        let absent = self.disk.find_missing(context, digests).await?;
        match arriving.is_empty() {
            true => Ok(absent),
            false => Ok(absent.iter().filter(|digest| !arriving.contains(digest)).collect()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{DigestFunction, OutputFile};
    use mortar_store::DiskConfig;

    #[tokio::test]
    async fn what_comes_along_is_here_at_once_if_it_is_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let config = DiskConfig { directory: directory.path().join("store"), max_size: 64 << 20 };
        let disk = DiskStore::open(config).unwrap();
        let arriving = Arriving::new(disk.clone());
        let (good, bad) = (Bytes::from_static(b"an output"), Bytes::from_static(b"another"));
        let digest = |bytes: &[u8]| Digest::of(DigestFunction::Sha256, bytes);
        let file = |path: &str, digest, contents: &Bytes| OutputFile {
            path: path.into(),
            digest,
            is_executable: false,
            contents: contents.clone(),
            properties: None,
        };
        let expected = digest(b"expected");
        let result = ActionResult {
            files: vec![file("good", digest(&good), &good), file("bad", expected, &bad)],
            ..ActionResult::default()
        };
        let context = Context::internal();
        let both = DigestSet::from_iter([digest(&good), expected]);
        let only_bad = DigestSet::from_iter([expected]);
        arriving.take_in(&context, &result).await;
        // No other task has run yet.
        assert_eq!(arriving.blobs.lock().len(), 1);
        assert_eq!(arriving.find_missing(&context, &both).await.unwrap(), only_bad);
        let part = Range { offset: 3, limit: Some(4) };
        let here = arriving.read(&context, digest(&good), part).await.unwrap();
        assert_eq!(here.as_bytes().unwrap(), "outp");
        assert!(arriving.read(&context, expected, Range::ALL).await.is_err());
        arriving.settle().await;
        assert!(arriving.blobs.lock().is_empty(), "it is on the disk now");
        assert_eq!(disk.find_missing(&context, &both).await.unwrap(), only_bad);
        assert_eq!(disk.read_all(&context, digest(&good), 100).await.unwrap(), good);
    }
}
