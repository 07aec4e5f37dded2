//! What a worker is told when it is set up.

use mortar_model::{ActionCache, Batches, BlobStore, LocalFiles, Platform, session::Capacity};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// A name for people, in each result.
    pub name: String,
    /// Actions that run at the same time.
    pub slots: u32,
    /// What is offered to actions.
    pub platform: Platform,
    /// What the actions may use together; where 0, what the machine has.
    pub capacity: Capacity,
    /// Where input roots are built: best on the file system of the local store, so that files can be linked.
    pub work_directory: PathBuf,
    /// The directory of the images that actions may run in.
    pub images: PathBuf,
    /// Applied where neither the action nor the server names a limit.
    pub default_timeout: Duration,
    /// An action that asks for more is refused.
    pub maximum_timeout: Duration,
    /// How commands are isolated.
    pub sandbox: mortar_sandbox::Config,
    /// What each command may use of this machine.
    pub usable: mortar_sandbox::Limits,
    /// How large actions may be.
    pub limits: Limits,
    /// What input roots that are kept for later actions may take; none if each action is to have one made for itself.
    pub cache: Option<CacheLimits>,
    /// How long a persistent worker waits for more work before it is ended.
    pub persistent_idle: Duration,
}

impl WorkerConfig {
    /// A worker of this name that works in this directory; the rest is the default.
    pub fn new(name: impl Into<String>, work_directory: impl Into<PathBuf>) -> Self {
        let work_directory = work_directory.into();
        let slots = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            name: name.into(),
            slots: u32::try_from(slots).unwrap_or(1),
            platform: Platform::default(),
            capacity: Capacity::default(),
            images: work_directory.join("images"),
            work_directory,
            default_timeout: Duration::from_secs(15 * 60),
            maximum_timeout: Duration::from_secs(24 * 60 * 60),
            sandbox: mortar_sandbox::Config::default(),
            usable: mortar_sandbox::Limits {
                processes: Some(PROCESSES),
                ..mortar_sandbox::Limits::default()
            },
            limits: Limits::default(),
            cache: Some(CacheLimits::default()),
            persistent_idle: Duration::from_secs(5 * 60),
        }
    }
}

/// Processes and threads of one action, unless something else is configured: more than any tool of a build starts, and
/// fewer than would keep others from starting any.
const PROCESSES: u32 = 10_000;

/// How large actions may be. A Merkle tree of a few kilobytes can describe more files than any disk holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest Action, Command or Directory message, in bytes.
    pub message: u64,
    /// The most files, directories and links in an input root or in the outputs.
    pub nodes: usize,
    /// The most directories within each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message: 16 << 20, nodes: 1_000_000, depth: 256 }
    }
}

/// What input roots that are kept for later actions may take on disk. What running actions use stays, beyond that too.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Bytes, with those of files that the store has too.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { bytes: 10 << 30, inodes: 300_000 }
    }
}

/// A store on this machine before a far one.
#[derive(Clone)]
pub struct Near {
    /// Where inputs are looked for first. What [`Stores::blobs`] reads and writes is kept there as it passes, if there is
    /// room.
    pub blobs: Arc<dyn BlobStore>,
    /// How the far store is asked for much at once, to be kept here.
    pub far: Arc<dyn Batches>,
}

/// Where a worker reads and writes.
#[derive(Clone)]
pub struct Stores {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// A store of this machine's own, where `blobs` is far.
    pub near: Option<Near>,
    /// Files of blobs on this machine, where there are any.
    pub local: Option<Arc<dyn LocalFiles>>,
    /// Results of successes.
    pub actions: Arc<dyn ActionCache>,
}
