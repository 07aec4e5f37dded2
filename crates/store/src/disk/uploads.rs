//! Uploads that outlive the process: what came of a large blob's content lies in a file whose name tells everything else,
//! and is read again by whoever takes the upload up.
//!
//! ```text
//! uploads/BOOT/NAME-FUNCTION-HASH-SIZE-ENCODING   NAME: SHA-256 of instance and upload id
//! ```
//!
//! What was written before the machine itself stopped may have holes: such files belong to another BOOT, and are rubbish.

use super::{
    BLOCK, DiskStore, Shared,
    files::Sink,
    intake::{Arriving, SMALL},
    leases::Stamp,
    usage,
};
use crate::inflating::Incoming;
use async_trait::async_trait;
use mortar_model::{
    Context, Digest, DigestFunction, Encoding, InstanceName, Result, Upload, UploadId, UploadSessions,
};
use parking_lot::Mutex;
use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

/// One upload as it comes in.
pub(super) type Uploading = Incoming<Arriving>;

/// Begins an upload, or takes it up where an earlier run left it. Blocks.
fn begin(
    shared: Arc<Shared>,
    path: PathBuf,
    (digest, encoding): (Digest, Encoding),
    stamp: Stamp,
) -> Result<Uploading> {
    let left = shared.leftovers.take(&shared, &path);
    let content = match digest.size() <= SMALL {
        true => Arriving::begin(shared, digest, stamp)?,
        false => Arriving::Large(Box::new(Sink::resumable(shared, digest, stamp, path, left)?)),
    };
    Ok(Incoming::new(content, digest, encoding))
}

/// Files of uploads that nobody took up yet in this run.
#[derive(Default)]
pub(super) struct Leftovers {
    /// Their lengths.
    files: Mutex<HashMap<PathBuf, u64>>,
}

impl Leftovers {
    /// Finds what earlier runs left since the machine started.
    pub fn find(&self, shared: &Shared) {
        let entries = fs::read_dir(shared.layout.uploads()).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(metadata) = entry.metadata() else { continue };
            usage::add(&shared.usage.in_flight, footprint(metadata.len()));
            self.files.lock().insert(entry.path(), metadata.len());
        }
    }

    /// Whether there is such a file; it is the caller's from now on.
    fn take(&self, shared: &Shared, path: &PathBuf) -> bool {
        let length = self.files.lock().remove(path);
        usage::add(&shared.usage.in_flight, -length.map_or(0, footprint));
        length.is_some()
    }

    /// How much there is of an upload of this name.
    fn length_of(&self, name: &str) -> Option<u64> {
        let is_of = |path: &PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str());
            file.is_some_and(|file| file.starts_with(name))
        };
        self.files.lock().iter().find(|(path, _)| is_of(path)).map(|(_, length)| *length)
    }

    /// Removes one of them. Whether there was one.
    pub fn drop_one(&self, shared: &Shared) -> bool {
        let mut files = self.files.lock();
        let Some(path) = files.keys().next().cloned() else { return false };
        let length = files.remove(&path);
        usage::add(&shared.usage.in_flight, -length.map_or(0, footprint));
        drop(files);
        fs::remove_file(path).is_ok()
    }
}

fn footprint(length: u64) -> i64 {
    length.next_multiple_of(BLOCK) as i64
}

/// What names of files of an upload begin with.
fn name_of(instance: &InstanceName, id: &UploadId) -> String {
    let name = [instance.as_str().as_bytes(), b"\n", id.0.as_bytes()].concat();
    Digest::of(DigestFunction::Sha256, &name).hex()
}

#[async_trait]
impl UploadSessions for DiskStore {
    /// Does not look whether the blob is here already; a caller that wants to end early asks `find_missing`.
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        let (shared, stamp) = (self.shared.clone(), self.shared.leases.stamp(context));
        shared.check_fits(digest.size())?;
        let form = match encoding {
            Encoding::Identity => "identity",
            Encoding::Zstd => "zstd",
        };
        let (name, function) = (name_of(&context.instance, id), digest.function());
        let file = format!("{name}-{function}-{}-{}-{form}", digest.hex(), digest.size());
        let path = shared.layout.uploads().join(file);
        let begin = move || begin(shared, path, (digest, encoding), stamp);
        self.uploads.open(context, id, (digest, encoding), begin).await
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        if let Some(committed) = self.uploads.committed(context, id).await {
            return Ok(Some(committed));
        }
        Ok(self.shared.leftovers.length_of(&name_of(&context.instance, id)))
    }
}
