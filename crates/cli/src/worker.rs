//! `mortar worker`: runs actions for a server elsewhere.

use crate::{
    settings::{WorkFlags, default_directory},
    signals,
    units::{Size, Span},
};
use anyhow::bail;
use mortar_model::Platform;
use mortar_remote::{Endpoint, Options};
use mortar_worker::{Stores, Worker, WorkerConfig};
use std::{path::PathBuf, sync::Arc};

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

/// What each action may use of the machine; as much as there is where nothing is said.
#[derive(clap::Args)]
pub struct UsableFlags {
    /// Memory of one action with all its processes.
    #[arg(long, env = "MORTAR_ACTION_MEMORY", value_name = "SIZE")]
    action_memory: Option<Size>,
    /// Processes and threads of one action [default: 10000].
    #[arg(long, env = "MORTAR_ACTION_PROCESSES", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    action_processes: Option<u32>,
    /// What one action may hold in /tmp, and again in /dev/shm.
    #[arg(long, env = "MORTAR_ACTION_SCRATCH", value_name = "SIZE")]
    action_scratch: Option<Size>,
    /// What one action may write to outputs and logs.
    #[arg(long, env = "MORTAR_ACTION_OUTPUT", value_name = "SIZE")]
    action_output: Option<Size>,
}

impl UsableFlags {
    fn settle(&self, defaults: mortar_sandbox::Limits) -> mortar_sandbox::Limits {
        let bytes = |size: Option<Size>, default: Option<u64>| size.map(|size| size.0).or(default);
        mortar_sandbox::Limits {
            memory: bytes(self.action_memory, defaults.memory),
            processes: self.action_processes.or(defaults.processes),
            scratch: bytes(self.action_scratch, defaults.scratch),
            output: bytes(self.action_output, defaults.output),
            ..defaults
        }
    }
}

/// How actions are kept apart from the machine that they run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Namespaces: only declared inputs and system directories, no network.
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
    let defaults = WorkerConfig::new(arguments.name.unwrap_or_else(host_name), directory);
    let config = WorkerConfig {
        slots: arguments.work.settle()?,
        platform: platform(&arguments.properties)?,
        maximum_timeout: arguments.max_timeout.map_or(defaults.maximum_timeout, |span| span.0),
        sandbox: arguments.isolation.sandbox(),
        usable: arguments.usable.settle(defaults.usable.clone()),
        ..defaults
    };
    let remote = Arc::new(Endpoint::connect(&arguments.server, Options::default())?);
    let stores = Stores { blobs: remote.clone(), local: None, actions: remote };
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
    Ok(())
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
