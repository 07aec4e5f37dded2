//! Blobs that came along with results. They are kept, which takes as long as the disk does; but nobody waits for that: they
//! can be read from here meanwhile, and who asks for one after a kill gets it from the upstream.

use bytes::Bytes;
use mortar_model::{ActionResult, Blob, BlobStoreExt, Context, Digest, Range, Result};
use mortar_store::DiskStore;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// What may be on its way to the disk. Who brings more waits.
const BYTES: usize = 16 << 20;

pub(super) struct Arriving {
    disk: Arc<DiskStore>,
    blobs: Mutex<HashMap<Digest, Bytes>>,
    room: Arc<Semaphore>,
    writes: TaskTracker,
}

impl Arriving {
    pub fn new(disk: Arc<DiskStore>) -> Arc<Self> {
        let (blobs, room) = (Mutex::default(), Arc::new(Semaphore::new(BYTES)));
        Arc::new(Self { disk, blobs, room, writes: TaskTracker::new() })
    }

    /// Takes in what a result of an upstream brought along: from now on it is here.
    pub async fn take_in(self: &Arc<Self>, context: &Context, result: &ActionResult) {
        let logs = [(result.stdout_digest, &result.stdout_raw), (result.stderr_digest, &result.stderr_raw)];
        let logs = logs.into_iter().filter_map(|(digest, raw)| Some((digest?, raw)));
        let files = result.files.iter().map(|file| (file.digest, &file.contents));
        for (digest, bytes) in logs.chain(files).filter(|(_, bytes)| !bytes.is_empty()) {
            // They are served before the store looks at them.
            match Digest::of(digest.function(), bytes) == digest {
                true => self.keep(context, digest, bytes.clone()).await,
                false => tracing::debug!(%digest, "an output that came along is another one, and not kept"),
            }
        }
    }

    async fn keep(self: &Arc<Self>, context: &Context, digest: Digest, bytes: Bytes) {
        let weight = bytes.len().min(BYTES) as u32;
        let room = self.room.clone().acquire_many_owned(weight).await.expect("it is never closed");
        self.blobs.lock().insert(digest, bytes.clone());
        let (this, context) = (self.clone(), Context { deadline: None, operation: None, ..context.clone() });
        self.writes.spawn(async move {
            let _room = room;
            if let Err(error) = this.disk.write_bytes(&context, digest, bytes).await {
                tracing::debug!(%digest, %error, "an output that came along is not kept");
            }
            this.blobs.lock().remove(&digest);
        });
    }

    /// A blob that is on its way to the disk.
    pub fn read(&self, digest: Digest, range: Range) -> Option<Result<Blob>> {
        let bytes = self.blobs.lock().get(&digest).cloned()?;
        let part = |(offset, length): (u64, u64)| bytes.slice(offset as usize..(offset + length) as usize);
        Some(range.within(digest).map(part).map(Blob::bytes))
    }

    /// Waits for what is being kept. Nothing may come any more by then.
    pub async fn settle(&self) {
        self.writes.close();
        self.writes.wait().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{BlobStore, DigestFunction, OutputFile};
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
        arriving.take_in(&context, &result).await;
        let here = arriving.read(digest(&good), Range { offset: 3, limit: Some(4) }).unwrap().unwrap();
        assert_eq!(here.as_bytes().unwrap(), "outp");
        assert!(arriving.read(expected, Range::ALL).is_none());
        arriving.settle().await;
        assert!(arriving.read(digest(&good), Range::ALL).is_none(), "it is on the disk now");
        assert!(disk.read(&context, digest(&good), Range::ALL).await.is_ok());
        assert!(disk.read(&context, expected, Range::ALL).await.is_err());
    }
}
