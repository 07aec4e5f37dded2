//! What is measured: the disk store with its action cache, or a file a blob.

use super::super::plain_files::PlainFiles;
use anyhow::{Context, Result, ensure};
use mortar_model::{ActionCache, BlobStore, Codec};
use mortar_store::{Completeness, DiskConfig, DiskStore, LeaseTerms, Policy, Results};
use mortar_wire::Protobuf;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    /// The disk store, as servers have it.
    Disk,
    /// A file for each blob, each synced: for comparison. It has no action cache and no bound.
    Files,
}

/// The file by which a directory is known to be a bench's own: stores that people need are not to be filled by mistake.
const MARK: &str = "mortar-bench";

/// Where the store is.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) max_size: u64,
    engine: Engine,
    leases: LeaseTerms,
}

/// The ports of a store, as workers share them.
#[derive(Clone)]
pub(super) struct Ports {
    pub(super) blobs: Arc<dyn BlobStore>,
    pub(super) actions: Option<Arc<dyn ActionCache>>,
    disk: Option<Arc<DiskStore>>,
}

impl Place {
    /// Takes a directory that is new, empty, or was taken before.
    pub(super) fn claim(directory: &Path, engine: Engine, max_size: u64) -> Result<Self> {
        let failed = || format!("making `{}` a directory of the bench", directory.display());
        fs::create_dir_all(directory).with_context(failed)?;
        let mark = directory.join(MARK);
        if !mark.exists() {
            let empty = fs::read_dir(directory).with_context(failed)?.next().is_none();
            ensure!(
                empty,
                "`{}` is neither empty nor made by `mortar bench store`, which fills it as it likes\n\
                 Hint: name a new directory",
                directory.display()
            );
            fs::write(&mark, "made by mortar bench store\n").with_context(failed)?;
        }
        let name = match engine {
            Engine::Disk => "disk",
            Engine::Files => "files",
        };
        Ok(Self { directory: directory.join(name), max_size, engine, leases: LeaseTerms::default() })
    }

    /// A build that made no call for so long has ended.
    pub(super) fn with_grace(mut self, grace: Duration) -> Self {
        self.leases.grace = grace;
        self
    }

    /// Opens the store.
    pub(super) fn open(&self) -> Result<Ports> {
        match self.engine {
            Engine::Disk => {
                let config = DiskConfig { directory: self.directory.clone(), max_size: self.max_size };
                let policy = Policy { leases: self.leases, ..Policy::default() };
                let (disk, codec): (_, Arc<dyn Codec>) =
                    (DiskStore::open_with(config, policy)?, Arc::new(Protobuf));
                let kept = Arc::new(Results::new(disk.clone(), codec.clone()));
                let actions: Arc<dyn ActionCache> = Arc::new(Completeness::new(kept, disk.clone(), codec));
                Ok(Ports { blobs: disk.clone(), actions: Some(actions), disk: Some(disk) })
            }
            Engine::Files => {
                let blobs = Arc::new(PlainFiles::open(&self.directory)?);
                Ok(Ports { blobs, actions: None, disk: None })
            }
        }
    }
}

impl Ports {
    /// What the store has evicted since it was opened; none if it does not evict.
    pub(super) fn evictions(&self) -> Option<u64> {
        self.disk.as_ref().map(|disk| disk.stats().evictions)
    }
}

/// The anonymous memory of this process that is resident, in bytes: what is not backed by files.
pub(super) fn anonymous_memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.map(|number| number * 1024).ok_or_else(|| io::Error::other("/proc/self/status has no RssAnon"))
}
