//! The helper's side: what this binary is when it was started as a sandbox. Single-threaded from its first
//! instruction, so that it may clone and fork; everything here runs in that process and its children.

// Namespaces, mounts and forks have no safe interface; each block says why it is sound.
#![allow(unsafe_code)]

mod bare;
mod inputs;
mod ipc;
pub mod message;
mod mounts;
mod namespaces;
mod network;
mod output;
mod outside;
mod pid1;
mod process;
mod root;
mod scratch;
mod seccomp;
mod serve;
mod sharing;
mod supervise;
mod template;
mod views;

use crate::{Assembly, Error, Exit, Isolation, Layers, Limits, Spec};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// What the helper is called, by which it knows itself.
pub const NAME: &str = "mortar-sandbox-init";

/// Becomes the sandbox's helper, and never returns, if this process was started as one. Call it first thing in `main`,
/// before any thread is started.
pub fn init_if_asked() {
    if std::env::args_os().next().is_some_and(|name| name == NAME) && std::env::args_os().len() == 1 {
        serve::main();
    }
}

/// What the helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message<R> {
    /// Numbers the request.
    pub run: u64,
    /// What to do, or else to stop doing it.
    pub request: Option<R>,
}

/// What the helper is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// To run a command.
    Run(Plan),
    /// To do all but that, and tell what is permitted.
    Probe(Plan),
}

/// A run with what the operator chose.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What to run.
    pub spec: Spec,
    /// How far to isolate it.
    pub isolation: Isolation,
    /// The identity of the command on the host, if not ours.
    pub owner: Option<(u32, u32)>,
    /// Further directories to show.
    pub host_directories: Vec<PathBuf>,
    /// What of the limits no control group applies.
    pub limits: Limits,
    /// How to put the staged root together.
    pub assembly: Assembly,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The command ran.
    Exit {
        /// How it ended.
        exit: Exit,
        /// Whether this helper can serve another run.
        reusable: bool,
    },
    /// It did not come to that.
    Failed(Failure),
    /// The answer to a probe.
    Permitted(Layers),
}

/// A step that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub step: String,
    /// The error's number.
    pub errno: i32,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let cause = Self::from_raw_os_error(failure.errno);
        Self::new(cause.kind(), format!("{}: {cause}", failure.step))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Setup { step: failure.step, source: io::Error::from_raw_os_error(failure.errno) }
    }
}

/// Names the step that fails.
trait Step<T> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(libc::EIO);
            Failure { step: name(), errno }
        })
    }
}

/// The result of a system call that tells -1 on failure.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
