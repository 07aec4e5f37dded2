//! Uploads that outlive the process: what was sent of a large blob lies in a file whose name tells everything else, and
//! is read again by whoever takes the upload up.
//!
//! ```text
//! uploads/BOOT/NAME-FUNCTION-HASH-SIZE-ENCODING   NAME: SHA-256 of instance and upload id
//! ```
//!
//! What was written before the machine itself stopped may have holes: such files belong to another BOOT, and are rubbish.

use super::{
    BLOCK, DiskStore, Shared,
    files::{Sink, storage_error},
    intake::{Arriving, SMALL},
    leases::Stamp,
    medium::Disk,
    room::Reservation,
    usage,
};
use crate::{inflating::Incoming, intake::Intake};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    Context, Digest, DigestFunction, Encoding, InstanceName, Result, Upload, UploadId, UploadSessions,
};
use parking_lot::Mutex;
use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

/// Bytes of a file that are read in one go when it is taken up.
const STEP: u64 = 1 << 20;

/// One upload as it comes in.
pub(super) enum Uploading {
    /// Content that is gathered, or that goes into the blob's own file as it is.
    Plain(Arriving),
    /// Frames, decoded into either of these; and a file of the frames, where there are many.
    Frames(Box<Incoming<Arriving>>, Option<Spool>),
}

impl Uploading {
    /// Begins an upload, or takes it up where an earlier run left it. Blocks.
    pub fn begin(
        shared: Arc<Shared>,
        path: PathBuf,
        (digest, encoding): (Digest, Encoding),
        stamp: Stamp,
    ) -> Result<Self> {
        let left = shared.leftovers.take(&shared, &path);
        if digest.size() <= SMALL {
            let arriving = Arriving::begin(shared, digest, stamp)?;
            return Ok(match encoding {
                Encoding::Identity => Self::Plain(arriving),
                Encoding::Zstd => Self::Frames(Box::new(Incoming::new(arriving, digest, encoding)), None),
            });
        }
        if encoding == Encoding::Identity {
            let sink = Sink::resumable(shared, digest, stamp, path, left)?;
            return Ok(Self::Plain(Arriving::Large(Box::new(sink))));
        }
        let mut frames = Incoming::new(Arriving::begin(shared.clone(), digest, stamp)?, digest, encoding);
        let spool = Spool::open(shared, path, left, &mut frames)?;
        Ok(Self::Frames(Box::new(frames), Some(spool)))
    }
}

impl Intake for Uploading {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        match self {
            Self::Plain(arriving) => arriving.take(pieces),
            Self::Frames(frames, spool) => {
                if let Some(spool) = spool {
                    pieces.iter().try_for_each(|piece| spool.append(piece))?;
                }
                frames.take(pieces)
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Plain(arriving) => arriving.finish(),
            Self::Frames(frames, spool) => {
                let finished = frames.finish();
                spool.into_iter().for_each(Spool::discard);
                finished
            }
        }
    }

    fn taken(&self) -> u64 {
        match self {
            Self::Plain(Arriving::Large(sink)) => sink.taken(),
            Self::Plain(Arriving::Small(_)) | Self::Frames(_, None) => 0,
            Self::Frames(_, Some(spool)) => spool.length,
        }
    }
}

/// The frames of an upload as they were sent. Not made durable: a machine that stops loses it.
pub(super) struct Spool {
    shared: Arc<Shared>,
    /// Absent once it is discarded.
    disk: Option<Disk>,
    length: u64,
    room: Reservation,
}

impl Spool {
    fn open(shared: Arc<Shared>, path: PathBuf, left: bool, frames: &mut Incoming<Arriving>) -> Result<Self> {
        let failed = |error| storage_error("opening an upload", error);
        let disk = match left {
            true => shared.medium.open_to_write(path),
            false => shared.medium.create(path, 0o644),
        };
        let disk = disk.map_err(failed)?;
        let room = Reservation::none(shared.clone());
        let mut spool = Self { shared, disk: Some(disk), length: 0, room };
        let end = spool.disk().length().map_err(failed)?;
        spool.room.reach(end.next_multiple_of(BLOCK))?;
        while spool.length < end {
            let length = (end - spool.length).min(STEP);
            let bytes = spool.disk().read_at(spool.length, length as usize).map_err(failed)?;
            frames.take(&[bytes.into()])?;
            spool.length += length;
        }
        Ok(spool)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.length + bytes.len() as u64;
        self.room.reach(end.next_multiple_of(BLOCK))?;
        let written = self.disk().write_at(bytes, self.length);
        written.map_err(|error| storage_error("writing an upload", error))?;
        self.length = end;
        Ok(())
    }

    fn discard(mut self) {
        if let Some(disk) = self.disk.take() {
            let _ = fs::remove_file(disk.path());
        }
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the file is open until it is discarded")
    }
}

impl Drop for Spool {
    /// Stays for the next run if this one ends; else nobody wants it any more.
    fn drop(&mut self) {
        if let Some(disk) = self.disk.take().filter(|_| !self.shared.keeper.is_stopped()) {
            let _ = fs::remove_file(disk.path());
        }
    }
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
        let begin = move || Uploading::begin(shared, path, (digest, encoding), stamp);
        self.uploads.open(context, id, (digest, encoding), begin).await
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        if let Some(committed) = self.uploads.committed(context, id).await {
            return Ok(Some(committed));
        }
        Ok(self.shared.leftovers.length_of(&name_of(&context.instance, id)))
    }
}
