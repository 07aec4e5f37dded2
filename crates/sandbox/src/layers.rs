//! Which layers of isolation this kernel and this user permit.

use crate::{Error, Isolation, Running, Sandbox, Spec, init, spec};
use serde::{Deserialize, Serialize};
use std::{fmt, fs, path::Path};

/// One layer of isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// An identity of its own.
    User,
    /// Mounts of its own.
    Mount,
    /// Processes of its own.
    Pid,
    /// Shared memory and queues of its own.
    Ipc,
    /// A host name of its own.
    Uts,
    /// A network of its own, with nothing in it but loopback.
    Network,
    /// A root file system of its own, with its own `/proc`.
    Root,
    /// A filter of system calls.
    SystemCalls,
}

impl Layer {
    /// All there are, the more basic ones first.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Mount,
        Self::Pid,
        Self::Ipc,
        Self::Uts,
        Self::Network,
        Self::Root,
        Self::SystemCalls,
    ];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user namespace",
            Self::Mount => "mount namespace",
            Self::Pid => "pid namespace",
            Self::Ipc => "ipc namespace",
            Self::Uts => "uts namespace",
            Self::Network => "network namespace",
            Self::Root => "private root",
            Self::SystemCalls => "filter of system calls",
        })
    }
}

/// What a probe found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// What is refused here, and what the kernel said.
    pub refused: Vec<(Layer, String)>,
}

impl Layers {
    /// Whether [`Isolation::Namespaces`] can be had.
    pub fn complete(&self) -> bool {
        self.refused.is_empty()
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.complete() {
            return f.write_str("user, mount, pid, ipc, uts and network namespaces with a private root and a filter of system calls");
        }
        for (index, (layer, why)) in self.refused.iter().enumerate() {
            write!(f, "{}{layer} refused ({why})", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Does everything but start a command; where that fails, tries each namespace by itself to tell which.
pub fn probe(sandbox: &Sandbox, directory: &Path) -> Result<Layers, Error> {
    let exec = directory.join(spec::EXEC);
    if let Err(error) = fs::create_dir_all(&exec) {
        return Err(Error::Setup { step: format!("create `{}`", exec.display()), source: error });
    }
    rehearse(sandbox, Spec { directory: directory.into(), ..Spec::default() })
}

/// Does everything but start the command.
pub fn rehearse(sandbox: &Sandbox, spec: Spec) -> Result<Layers, Error> {
    let mut plan = sandbox.plan(spec);
    plan.isolation = Isolation::Namespaces;
    match Running::start(sandbox, init::Request::Probe(plan))?.reply()? {
        init::Reply::Permitted(layers) => Ok(layers),
        init::Reply::Failed(failure) => Err(failure.into()),
        init::Reply::Exit { .. } => {
            Err(Error::Helper { what: "ran a probe as a command".into(), source: None })
        }
    }
}
