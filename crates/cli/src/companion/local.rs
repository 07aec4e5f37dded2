//! The worker on this machine, which the companion has in its own process: what it may run, and how it is set up.

use crate::{usable::UsableFlags, worker};
use anyhow::bail;
use mortar_companion::{Companion, Mode, Settings};
use mortar_worker::{CacheLimits, Stores, Worker, WorkerConfig};
use std::sync::{Arc, Weak};

/// Flags about running actions here.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LocalFlags {
    /// What runs on this machine: nothing; what no server can take now; also what may be done sooner here (the first to
    /// finish wins); or everything, to find out which results are not reproducible.
    #[arg(long, env = "MORTAR_LOCAL_WORKER", value_enum, value_name = "WHAT", default_value_t)]
    local_worker: LocalWork,
    /// Actions that run here at the same time [default: one for each processor].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    local_slots: Option<u32>,
    /// What this machine offers to actions besides OSFamily, ISA and Arch, as NAME=VALUE. May be repeated.
    #[arg(long = "local-property", value_name = "NAME=VALUE")]
    local_properties: Vec<String>,
    /// How actions are kept apart from this machine.
    #[arg(long, value_enum, default_value_t)]
    local_isolation: worker::Isolation,
    #[command(flatten)]
    usable: UsableFlags,
}

/// What runs on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LocalWork {
    /// Nothing.
    Off,
    /// What no server can take now.
    #[default]
    Fallback,
    /// That, and what may be done sooner here.
    Race,
    /// That, and everything, to compare.
    Compare,
}

/// A worker that is still to be opened.
pub struct Planned {
    config: WorkerConfig,
    mode: Mode,
}

impl LocalFlags {
    /// The worker that was asked for.
    pub fn plan(&self, settings: &Settings) -> anyhow::Result<Option<Planned>> {
        let mode = match self.local_worker {
            LocalWork::Off => return Ok(None),
            LocalWork::Fallback => Mode::Fallback,
            LocalWork::Race => Mode::Race,
            LocalWork::Compare => Mode::Compare,
        };
        if let Some(property) = self.local_properties.iter().find(|property| !property.contains('=')) {
            bail!("--local-property is `{property}`; expected NAME=VALUE");
        }
        let roots = CacheLimits::default();
        let defaults = WorkerConfig::new("companion", settings.directory.join("work"));
        let config = WorkerConfig {
            slots: self.local_slots.unwrap_or(defaults.slots),
            platform: worker::platform(&self.local_properties)?,
            sandbox: self.local_isolation.sandbox(),
            usable: self.usable.settle(defaults.usable.clone())?,
            cache: Some(CacheLimits { bytes: roots.bytes.min(settings.max_size / 4), ..roots }),
            ..defaults
        };
        Ok(Some(Planned { config, mode }))
    }
}

impl Planned {
    /// Opens it, while the companion serves already, and has it take actions. Where the machine permits no sandbox, the
    /// companion goes on without it.
    pub async fn work(self, companion: Weak<Companion>) {
        let Some(ports) = companion.upgrade().map(|companion| companion.worker_ports(self.mode)) else {
            return;
        };
        let stores =
            Stores { blobs: ports.blobs, near: None, local: Some(ports.files), actions: ports.actions };
        let (slots, offered) = (self.config.slots, self.config.platform.clone());
        match Worker::open(self.config, stores).await {
            Ok(worker) => {
                if let Some(companion) = companion.upgrade() {
                    companion.work_here(Arc::new(worker), slots, offered, self.mode);
                }
            }
            Err(error) => tracing::warn!("no actions run on this machine: {error}"),
        }
    }
}
