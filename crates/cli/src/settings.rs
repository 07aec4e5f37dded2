//! Where settings come from: flags > environment > file > defaults. All of them are checked before a port opens or a
//! directory is made.

use crate::{
    pools::{AbandonedFlag, Pool, PoolFlags, processors},
    units::{Size, Span, count},
};
use anyhow::{Context, bail};
use mortar_model::session::Capacity;
use mortar_server::LeaseTerms;
use mortar_services::listener::Address;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where a server listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8980";
/// The bound of the store unless told otherwise, as far as the disk is large enough.
const DEFAULT_MAX_SIZE: u64 = 50 << 30;

/// Flags of everything that serves.
#[derive(clap::Args, Debug, Default)]
pub struct ServeFlags {
    /// Where to listen: HOST:PORT (port 0 picks a free one) or unix:PATH [default: 127.0.0.1:8980].
    #[arg(long, env = "MORTAR_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where to keep everything [default: `mortar` in the user's data directory].
    #[arg(long, env = "MORTAR_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// How much may be kept, such as 100GiB [default: 50GiB, or four fifths of a smaller disk].
    #[arg(long, env = "MORTAR_MAX_SIZE", value_name = "SIZE")]
    max_size: Option<Size>,
    /// How long a blob stays that somebody was told is there, unless a write would be refused otherwise [default: 3h].
    #[arg(long, env = "MORTAR_LEASE", value_name = "DURATION")]
    lease: Option<Span>,
    /// An invocation that makes no call for so long has ended; until then nothing that it was told of goes [default: 10min].
    #[arg(long, env = "MORTAR_INVOCATION_GRACE", value_name = "DURATION")]
    invocation_grace: Option<Span>,
    /// The time limit of actions that name none, such as 30min [default: 1h].
    #[arg(long, env = "MORTAR_DEFAULT_TIMEOUT", value_name = "DURATION")]
    default_timeout: Option<Span>,
    /// The longest time limit that an action may ask for [default: 24h].
    #[arg(long, env = "MORTAR_MAX_TIMEOUT", value_name = "DURATION")]
    max_timeout: Option<Span>,
    /// How long an action may wait for a worker [default: 1h].
    #[arg(long, env = "MORTAR_QUEUE_TIMEOUT", value_name = "DURATION")]
    queue_timeout: Option<Span>,
    #[command(flatten)]
    pools: PoolFlags,
    /// A TOML file with any of these settings, named as the flags are.
    #[arg(long, env = "MORTAR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Flags of everything that cares for a data directory.
#[derive(clap::Args, Debug, Default)]
pub struct StoreFlags {
    /// The data directory [default: `mortar` in the user's data directory].
    #[arg(long, alias = "directory", env = "MORTAR_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// The TOML file of the server, which may name the directory.
    #[arg(long, env = "MORTAR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl StoreFlags {
    /// The data directory.
    pub fn directory(&self) -> anyhow::Result<PathBuf> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        self.dir.clone().or(file.dir).map_or_else(default_directory, Ok)
    }
}

/// Flags of everything that runs actions.
#[derive(clap::Args, Debug, Default)]
pub struct WorkFlags {
    /// How many actions run at the same time [default: one per core].
    #[arg(long, env = "MORTAR_SLOTS", value_name = "NUMBER", value_parser = count)]
    slots: Option<u32>,
    /// The processors that actions may use together, such as 4 or 1.5 [default: all, and at least one per slot].
    #[arg(long, env = "MORTAR_CPUS", value_name = "NUMBER")]
    cpus: Option<f64>,
    /// The memory that actions may use together, such as 16GiB [default: all].
    #[arg(long, env = "MORTAR_MEMORY", value_name = "SIZE")]
    memory: Option<Size>,
}

/// The file. Its keys are the flags' names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    listen: Option<String>,
    dir: Option<PathBuf>,
    max_size: Option<Size>,
    lease: Option<Span>,
    invocation_grace: Option<Span>,
    default_timeout: Option<Span>,
    max_timeout: Option<Span>,
    queue_timeout: Option<Span>,
    pub(crate) pool_timeout: Option<Span>,
    pub(crate) start_grace: Option<Span>,
    pub(crate) abandoned: Option<AbandonedFlag>,
    pub(crate) ignore_property: Option<Vec<String>>,
    pub(crate) pool: Option<Vec<Pool>>,
    slots: Option<u32>,
    cpus: Option<f64>,
    memory: Option<Size>,
}

/// What was settled.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Address,
    /// The store, the scheduler.
    pub server: mortar_server::Settings,
    /// Actions at the same time.
    pub slots: u32,
    /// What they may use together; where 0, what the machine has.
    pub capacity: Capacity,
    directory: PathBuf,
}

impl Settings {
    /// Where everything is.
    pub fn data_directory(&self) -> &Path {
        &self.directory
    }

    /// Where the worker of the same process builds input roots: beside the store, so that files can be linked.
    pub fn work_directory(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Where the images of that worker are.
    pub fn images_directory(&self) -> PathBuf {
        self.directory.join("images")
    }
}

impl ServeFlags {
    /// Puts flags, file and defaults together, and checks them.
    pub fn settle(self, work: WorkFlags) -> anyhow::Result<Settings> {
        let mut file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let listen = self.listen.or(file.listen.take()).unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let directory = self.dir.or(file.dir.take()).map_or_else(default_directory, Ok)?;
        let max_size =
            self.max_size.or(file.max_size).map_or_else(|| default_max_size(&directory), |size| size.0);
        if max_size < MIN_MAX_SIZE {
            bail!("--max-size is {}; at least {} is needed", Size(max_size), Size(MIN_MAX_SIZE));
        }
        let leases = Leases {
            lease: self.lease.or(file.lease),
            grace: self.invocation_grace.or(file.invocation_grace),
        }
        .settle()?;
        let scheduler = mortar_server::SchedulerConfig::default();
        let scheduler = Limits {
            default: self.default_timeout.or(file.default_timeout),
            max: self.max_timeout.or(file.max_timeout),
            queue: self.queue_timeout.or(file.queue_timeout),
        }
        .settle(scheduler)?;
        let scheduler = self.pools.settle(&mut file, scheduler)?;
        let work = WorkFlags {
            slots: work.slots.or(file.slots),
            cpus: work.cpus.or(file.cpus),
            memory: work.memory.or(file.memory),
        };
        let (slots, capacity) = (work.settle()?, work.capacity()?);
        check_directory(&directory)?;
        let (store, queue) = (directory.join("store"), Some(directory.join("queue")));
        let server = mortar_server::Settings { directory: store, max_size, leases, scheduler, queue };
        Ok(Settings { listen: listen.parse().context("--listen")?, server, slots, capacity, directory })
    }
}

/// The store counts uses in minutes since some of them ago; a lease must be well within what it counts.
const LONGEST_LEASE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What promises the store keeps, where that is given.
struct Leases {
    lease: Option<Span>,
    grace: Option<Span>,
}

impl Leases {
    fn settle(self) -> anyhow::Result<LeaseTerms> {
        let given = LeaseTerms::default();
        let lease = self.lease.map_or(given.lease, |span| span.0);
        let grace = self.grace.map_or(given.grace.min(lease), |span| span.0);
        for (flag, span, least) in [("--lease", lease, 60), ("--invocation-grace", grace, 1)] {
            let least = Duration::from_secs(least);
            if span < least {
                bail!("{flag} is {}; at least {} is needed", Span(span), Span(least));
            }
        }
        if lease > LONGEST_LEASE {
            bail!("--lease is {}; at most {} is possible", Span(lease), Span(LONGEST_LEASE));
        }
        if grace > lease {
            bail!("--invocation-grace is {}, which is longer than --lease, {}", Span(grace), Span(lease));
        }
        Ok(LeaseTerms { lease, grace })
    }
}

/// The time limits of executions, where they are given.
struct Limits {
    default: Option<Span>,
    max: Option<Span>,
    queue: Option<Span>,
}

impl Limits {
    fn settle(self, given: mortar_server::SchedulerConfig) -> anyhow::Result<mortar_server::SchedulerConfig> {
        for (flag, span) in [
            ("--default-timeout", self.default),
            ("--max-timeout", self.max),
            ("--queue-timeout", self.queue),
        ] {
            if let Some(span) = span.filter(|span| span.0 < Duration::from_secs(1)) {
                bail!("{flag} is {span}; at least 1s is needed");
            }
        }
        let max = self.max.map_or(given.max_timeout, |span| span.0);
        if let Some(default) = self.default.filter(|span| span.0 > max) {
            bail!("--default-timeout is {default}, which is longer than --max-timeout, {}", Span(max));
        }
        Ok(mortar_server::SchedulerConfig {
            default_timeout: self.default.map_or(given.default_timeout.min(max), |span| span.0),
            max_timeout: max,
            max_queue_time: self.queue.map_or(given.max_queue_time, |span| span.0),
            ..given
        })
    }
}

/// A data directory holds what Mortar made, or nothing: whoever names the wrong one must not find it changed. One that
/// cannot be looked into is an error where it is opened.
fn check_directory(directory: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    // The store checks itself; `worker` is the default directory of `mortar worker`.
    let ours = ["store", "queue", "work", "worker", "images", "admin.sock", "lost+found"];
    let foreign = names.iter().find(|name| !ours.iter().any(|known| *name == known));
    match foreign {
        Some(foreign) if !names.iter().any(|name| name == "store") => bail!(
            "`{}` is not empty (it holds `{}`) and is no data directory of Mortar's\nHint: choose another directory with --dir",
            directory.display(),
            foreign.to_string_lossy()
        ),
        _ => Ok(()),
    }
}

/// A store smaller than this could not hold one ordinary output.
pub const MIN_MAX_SIZE: u64 = 1 << 20;

impl WorkFlags {
    /// How many actions run at the same time.
    pub fn settle(&self) -> anyhow::Result<u32> {
        match self.slots {
            Some(0) => bail!("--slots is 0; at least 1 is needed (`mortar server` serves without a worker)"),
            Some(slots) if slots > 1_024 => bail!("--slots is {slots}; at most 1024 are possible"),
            Some(slots) => Ok(slots),
            None => Ok(cores()),
        }
    }

    /// What actions may use together; 0 where nobody said.
    pub fn capacity(&self) -> anyhow::Result<Capacity> {
        Ok(Capacity {
            cpu_millis: self.cpus.map(|cpus| processors("--cpus", cpus)).transpose()?.unwrap_or_default(),
            memory: self.memory.map_or(0, |memory| memory.0),
        })
    }
}

/// The data directory of `mortar` for this user.
pub fn default_directory() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let data = data.context("neither XDG_DATA_HOME nor HOME is set: name a directory with --dir")?;
    Ok(data.join("mortar"))
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the configuration file `{}` cannot be read", path.display()))?;
    toml::from_str(&text)
        .with_context(|| format!("the configuration file `{}` is not understood", path.display()))
}

/// What a store in this directory may take unless told otherwise.
pub fn default_max_size(directory: &Path) -> u64 {
    let existing = directory.ancestors().find(|path| path.exists());
    let disk =
        existing.and_then(|path| rustix::fs::statvfs(path).ok()).map(|disk| disk.f_blocks * disk.f_frsize);
    disk.map_or(DEFAULT_MAX_SIZE, |size| (size / 5 * 4).clamp(MIN_MAX_SIZE, DEFAULT_MAX_SIZE))
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(text: &str, flags: ServeFlags) -> anyhow::Result<Settings> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("mortar.toml");
        std::fs::write(&path, text)?;
        ServeFlags { config: Some(path), ..flags }.settle(WorkFlags::default())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let flags = ServeFlags { max_size: Some(Size(1 << 30)), ..Default::default() };
        let text = "max-size = \"2GiB\"\ndir = \"/data\"\nslots = 3\nmax-timeout = \"2h\"";
        let settings = settle(text, flags).unwrap();
        assert_eq!(settings.server.max_size, 1 << 30);
        assert_eq!(settings.server.directory, Path::new("/data/store"));
        assert_eq!((settings.slots, settings.listen.to_string().as_str()), (3, DEFAULT_ADDRESS));
        assert_eq!(settings.server.scheduler.max_timeout, Duration::from_secs(7200));
    }

    #[test]
    fn a_maximum_bounds_the_default_that_nobody_gave() {
        let settings = settle("max-timeout = \"10min\"", ServeFlags::default()).unwrap();
        assert_eq!(settings.server.scheduler.default_timeout, Duration::from_secs(600));
    }

    #[test]
    fn a_short_lease_bounds_the_grace_that_nobody_gave() {
        let leases = settle("lease = \"5min\"", ServeFlags::default()).unwrap().server.leases;
        assert_eq!(leases, LeaseTerms { lease: Duration::from_secs(300), grace: Duration::from_secs(300) });
        let leases = settle("", ServeFlags::default()).unwrap().server.leases;
        assert_eq!(leases, LeaseTerms::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, needle) in [
            ("max-sise = \"2GiB\"", "max-sise"),
            ("max-size = 5", "invalid type"),
            ("max-size = \"5\"", "no size"),
            ("max-size = \"5B\"", "at least"),
            ("listen = \"nowhere\"", "nowhere"),
            ("slots = 0", "at least 1"),
            ("default-timeout = \"2h\"\nmax-timeout = \"1h\"", "longer"),
            ("queue-timeout = \"0s\"", "at least 1s"),
            ("lease = \"10s\"", "--lease is 10s; at least 1min"),
            ("lease = \"400h\"", "--lease is 400h; at most"),
            ("invocation-grace = \"10ms\"", "--invocation-grace is 10ms; at least 1s"),
            ("lease = \"1h\"\ninvocation-grace = \"2h\"", "longer than --lease, 1h"),
            ("max-timeout = \"500ms\"", "--max-timeout is 500ms; at least 1s"),
        ] {
            let error = format!("{:#}", settle(text, ServeFlags::default()).unwrap_err());
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
