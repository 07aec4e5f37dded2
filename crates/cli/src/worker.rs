//! `mortar worker`: runs actions for a server elsewhere.

use crate::{
    settings::{MIN_MAX_SIZE, WorkFlags, default_directory, default_max_size},
    signals,
    units::{Size, Span},
    usable::UsableFlags,
};
use anyhow::bail;
use mortar_model::Platform;
use mortar_remote::{Endpoint, Options};
use mortar_store::{DiskConfig, DiskStore, LeaseTerms, Policy, ReadThrough};
use mortar_worker::{CacheLimits, Near, Stores, Worker, WorkerConfig};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Flags of `mortar worker`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(long, env = "MORTAR_SERVER", value_name = "URL")]
    server: String,
    #[command(flatten)]
    work: WorkFlags,
    /// Where actions run [default: `mortar/worker` in the user's data directory].
    #[arg(long, env = "MORTAR_WORK_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// How much of inputs and outputs may be kept here for later actions, such as 20GiB: half of it as blobs, half as input
    /// roots [default: 40GiB, or two fifths of a smaller disk].
    #[arg(long, env = "MORTAR_CACHE_SIZE", value_name = "SIZE")]
    cache_size: Option<Size>,
    /// A name for people, in results and on the status page [default: the host's name and the process number].
    #[arg(long, env = "MORTAR_WORKER_NAME")]
    name: Option<String>,
    /// What this worker offers, as NAME=VALUE; actions ask for it by exec_properties. May be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    /// The longest time limit that an action may have here [default: 24h].
    #[arg(long, env = "MORTAR_MAX_TIMEOUT", value_name = "DURATION")]
    max_timeout: Option<Span>,
    /// How actions are kept apart from this machine.
    #[arg(long, value_enum, default_value_t = Isolation::Namespaces)]
    isolation: Isolation,
    #[command(flatten)]
    usable: UsableFlags,
}

/// How actions are kept apart from the machine that they run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Namespaces: only declared inputs and system directories, no network.
    #[default]
    Namespaces,
    /// None but a directory of their own: for machines that permit no namespaces, and only for actions that are trusted.
    None,
}

impl Isolation {
    /// As the sandbox has it.
    pub fn sandbox(self) -> mortar_sandbox::Config {
        let isolation = match self {
            Self::Namespaces => mortar_sandbox::Isolation::Namespaces,
            Self::None => mortar_sandbox::Isolation::None,
        };
        mortar_sandbox::Config { isolation, ..Default::default() }
    }
}

/// Works until a signal comes.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    mortar_server::bazelrc::check_url(&arguments.server)?;
    let directory = match arguments.dir {
        Some(directory) => directory,
        None => default_directory()?.join("worker"),
    };
    let cache_size = match arguments.cache_size {
        Some(Size(size)) if size < MIN_CACHE_SIZE => {
            bail!("--cache-size is {}; at least {} is needed", Size(size), Size(MIN_CACHE_SIZE))
        }
        Some(Size(size)) => size,
        None => (default_max_size(&directory) / 2).clamp(MIN_CACHE_SIZE, DEFAULT_CACHE_SIZE),
    };
    let defaults = WorkerConfig::new(arguments.name.unwrap_or_else(host_name), &directory);
    let config = WorkerConfig {
        cache: Some(CacheLimits { bytes: cache_size / 2, ..CacheLimits::default() }),
        slots: arguments.work.settle()?,
        capacity: arguments.work.capacity()?,
        platform: platform(&arguments.properties)?,
        maximum_timeout: arguments.max_timeout.map_or(defaults.maximum_timeout, |span| span.0),
        sandbox: arguments.isolation.sandbox(),
        usable: arguments.usable.settle(defaults.usable.clone())?,
        ..defaults
    };
    let remote = Arc::new(Endpoint::connect(&arguments.server, Options::default())?);
    mortar_worker::check_directory(&directory)?;
    let own = OwnStore::open(&directory, cache_size / 2)?;
    let through = Arc::new(ReadThrough::new(own.disk.clone(), remote.clone()));
    let stores = Stores {
        blobs: through.clone(),
        near: Some(Near { blobs: own.disk.clone(), far: remote.clone() }),
        local: Some(own.disk.clone()),
        actions: remote,
    };
    let worker = Worker::open(config, stores).await?;
    let (handle, shutdown) = mortar_worker::shutdown();
    let stop = signals::stop_token()?;
    tokio::spawn(async move {
        stop.cancelled().await;
        handle.drain();
        // Kept, so that the worker goes on hearing; the second signal ends the process.
        std::future::pending::<()>().await;
        drop(handle);
    });
    println!(
        "working for {} as `{}` in {} slots",
        arguments.server,
        worker.config().name,
        worker.config().slots
    );
    mortar_worker::connect(worker, &arguments.server, shutdown).await?;
    through.settle().await;
    Ok(())
}

/// The least that is worth the name.
const MIN_CACHE_SIZE: u64 = 2 * MIN_MAX_SIZE;
/// What is kept unless told otherwise, as far as the disk is large enough.
const DEFAULT_CACHE_SIZE: u64 = 40 << 30;
/// Nothing but this worker counts on what it keeps, and it can fetch it again.
const LEASE: Duration = Duration::from_secs(5 * 60);
const GRACE: Duration = Duration::from_secs(60);

/// The store of this worker alone: inputs that it fetched, outputs that it made.
struct OwnStore {
    disk: Arc<DiskStore>,
    /// Locked, so that workers in the same directory have a store each.
    _lock: File,
}

impl OwnStore {
    /// Opens the first store in the worker's directory that no other worker has.
    fn open(directory: &Path, max_size: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        for number in 0.. {
            let lock = File::create(directory.join(format!("store-{number}.lock")))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let config = DiskConfig { directory: directory.join(format!("store-{number}")), max_size };
            let leases = LeaseTerms { lease: LEASE, grace: GRACE };
            let policy = Policy { leases, ..Policy::default() };
            return Ok(Self { disk: DiskStore::open_with(config, policy)?, _lock: lock });
        }
        bail!("every store in `{}` is in use", directory.display())
    }
}

/// What the worker offers: what it was told to, and what this machine is.
pub fn platform(properties: &[String]) -> anyhow::Result<Platform> {
    let mut offered = vec![
        ("OSFamily".to_owned(), "Linux".to_owned()),
        ("ISA".to_owned(), std::env::consts::ARCH.replace('_', "-")),
        ("Arch".to_owned(), std::env::consts::ARCH.to_owned()),
    ];
    for property in properties {
        match property.split_once('=') {
            Some((name, value)) if !name.is_empty() => offered.push((name.to_owned(), value.to_owned())),
            _ => bail!("--property is `{property}`; expected NAME=VALUE"),
        }
    }
    Ok(Platform::new(offered))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}-{}", std::process::id())
}
