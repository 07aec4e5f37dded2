//! Isolates and runs one process; knows nothing of builds. Linux only.
//!
//! A process of many threads must not fork, so each run goes through a helper: this binary again, which
//! [`init_if_asked`] turns into the sandbox's own small programme. A helper serves one run at a time and is kept for
//! the next. Life of a run:
//!
//! 1. [`Sandbox::start`] takes an idle helper, or starts one, and sends it the [`Spec`] (`helper.rs`).
//! 2. The helper has two mount namespaces of its own (`init/outside.rs`): one with the host's files in it, and one that
//!    holds the root that runs have in common, and nothing of the host beyond it (`init/template.rs`). In the first it
//!    makes the run's view of its staged root, in which what may not be written is covered (`init/views.rs`,
//!    `init/inputs.rs`). From the second it clones a process into new namespaces, and waits for that, for the time
//!    limit, and for the socket (`init/supervise.rs`).
//! 3. That process is pid 1 in there: it puts the view and what else belongs to the run alone into its copy of the
//!    root (`init/root.rs`), starts the command (`init/process.rs`), reaps orphans, reports and ends (`init/pid1.rs`).
//!    With its end the kernel kills whatever else runs in its pid namespace.
//! 4. [`Running::wait`] returns the [`Exit`] once nothing of the run is left.
//!
//! Limits are applied, and what all processes used is counted, by control groups that belong to helpers (`cgroups.rs`);
//! where there are none, by what the kernel holds each process to (`init/process.rs`). What is written is watched by the
//! helper (`init/output.rs`).
//!
//! User, mount and pid namespaces are new for each run. What costs more to make than to look at, a helper keeps for the
//! next run where nothing was done in it: the network's namespace (`init/network.rs`), that of System V objects and message
//! queues (`init/ipc.rs`), `/tmp` and its like (`init/scratch.rs`). Its host name no command can change. Most of the filter
//! of system calls applies to the helper itself and passes on from there (`init/seccomp.rs`).
//!
//! # Who the command runs as
//! Always a user namespace, and in it always uid and gid 1000 without a capability. Started by an ordinary user,
//! that is the user itself: the only identity it may map. It owns the inputs, so nothing but the read-only mounts
//! keeps it from them. Started by root, it is an otherwise unused identity of the host ([`Config::run_as`]): root's
//! own would own the host's files, and `/proc/sys` besides. Writable directories must belong to that identity, which
//! [`Sandbox::owner`] tells; root reads what it leaves behind.
//!
//! # What it sees
//! `/mortar/exec` (the same path everywhere), the host's `/usr` and its companions, the few files of `/etc` that
//! programs need (no `localtime`: time is UTC on every worker), a small `/dev`, and its own `/proc`, `/tmp` and
//! loopback. `/opt` is not shown unless [`Config::host_directories`] names it.
//!
//! With [`Spec::image`] it sees nothing of the host's files: what lies in that directory takes their place, also
//! read-only, beside the same `/mortar`, `/dev`, `/proc` and `/tmp`.

mod cgroups;
mod error;
mod helper;
mod init;
mod layers;
mod running;
mod spec;

pub use error::Error;
pub use init::init_if_asked;
pub use layers::{Layer, Layers};
pub use running::{Canceller, Running};
pub use spec::{Ending, Exit, Limit, Limits, Spec, Usage};

use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the staged root is seen from inside.
pub const EXEC_ROOT: &str = "/mortar/exec";

/// How processes are isolated here. Clones share the helper processes, which end with the last of them.
#[derive(Clone, Debug)]
pub struct Sandbox {
    config: Config,
    helpers: Arc<helper::Helpers>,
    /// The identity that the command gets on the host, where that is not ours.
    owner: Option<(u32, u32)>,
}

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// How much stands between the command and the host.
    pub isolation: Isolation,
    /// A programme that calls [`init_if_asked`] first thing: by default the one that runs.
    pub helper: PathBuf,
    /// Further directories of the host that are shown, read-only, at their own paths.
    pub host_directories: Vec<PathBuf>,
    /// The uid and gid that commands get on the host where we are root: by default `nobody`.
    pub run_as: (u32, u32),
    /// How staged roots are put together.
    pub assembly: Assembly,
    /// Whether limits are applied by control groups, where that can be.
    pub control_groups: bool,
}

/// How staged roots are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Assembly {
    /// As this kernel permits.
    #[default]
    Best,
    /// On a mount point, as kernels before 6.15 need it. Nobody need choose this; it can be tested everywhere so.
    Attached,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            isolation: Isolation::Namespaces,
            helper: "/proc/self/exe".into(),
            host_directories: Vec::new(),
            run_as: (65534, 65534),
            assembly: Assembly::Best,
            control_groups: true,
        }
    }
}

/// How much stands between the command and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// Namespaces, a root of its own, inputs read-only. Refused where the kernel does not permit it.
    Namespaces,
    /// Nothing but a process group and an exact environment: for machines that permit no more. The command runs as us,
    /// on the host's file system.
    None,
}

impl Sandbox {
    /// A sandbox by these choices. Nothing is tried yet: [`Sandbox::probe`] does that.
    pub fn new(config: Config) -> Self {
        let root = rustix::process::geteuid().is_root();
        let owner = (root && config.isolation == Isolation::Namespaces).then_some(config.run_as);
        let hierarchies = match config.control_groups {
            true => cgroups::Hierarchies::find(),
            false => cgroups::Hierarchies::default(),
        };
        Self { config, owner, helpers: Arc::new(helper::Helpers::new(hierarchies)) }
    }

    /// What writable files and directories must belong to (uid, gid), where that is not ourselves.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// What is limited without control groups, by weaker means or not at all: they may not be used here.
    pub fn without_control_groups(&self) -> Vec<&'static str> {
        self.helpers.hierarchies().lacking().collect()
    }

    /// Whether inputs are safe from the command even as hard links to files that others use.
    pub fn protects_inputs(&self) -> bool {
        self.config.isolation == Isolation::Namespaces
    }

    /// Where the command sees the staged root that lies at `directory` on the host.
    pub fn exec_root(&self, directory: &Path) -> PathBuf {
        match self.config.isolation {
            Isolation::Namespaces => EXEC_ROOT.into(),
            Isolation::None => directory.join(spec::EXEC),
        }
    }

    /// Finds out, by doing it, which layers this kernel and this user permit. `directory` is an empty directory of ours.
    pub fn probe(&self, directory: &Path) -> Result<Layers, Error> {
        layers::probe(self, directory)
    }

    /// Finds out, likewise, whether a staged root can be laid over other directories, as this spec says.
    pub fn probe_lower(&self, spec: Spec) -> Result<Layers, Error> {
        layers::rehearse(self, spec)
    }

    /// Starts a command. Blocks for a moment; the wait is in [`Running::wait`].
    pub fn start(&self, spec: Spec) -> Result<Running, Error> {
        spec.check()?;
        if spec.image.is_some() && self.config.isolation == Isolation::None {
            return Err(Error::Spec("an image can only be shown where there are namespaces".into()));
        }
        Running::start(self, init::Request::Run(self.plan(spec)))
    }

    /// Runs a command to its end.
    pub fn run(&self, spec: Spec) -> Result<Exit, Error> {
        self.start(spec)?.wait()
    }

    fn plan(&self, spec: Spec) -> init::Plan {
        init::Plan {
            limits: spec.limits.clone(),
            spec,
            isolation: self.config.isolation,
            owner: self.owner,
            host_directories: self.config.host_directories.clone(),
            assembly: self.config.assembly,
        }
    }
}
