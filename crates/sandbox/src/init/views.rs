//! The run's own mounts, made where the host's files are and handed to the run: the staged root with its inputs
//! read-only, and the logs.

use super::{
    Failure, Plan, Step,
    inputs::{self, Place},
    mounts::{self, View},
};
use crate::spec;
use nix::mount::MsFlags;
use std::{
    cell::OnceCell,
    ffi::CStr,
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// What is mounted for one run alone.
#[derive(Debug)]
pub struct Views {
    /// The staged root.
    pub exec: View,
    /// The files of standard output and standard error.
    pub logs: [View; 2],
}

/// Where the logs are mounted, from inside.
pub const LOGS: [&CStr; 2] = [c"/mortar/stdout", c"/mortar/stderr"];

impl Views {
    /// Makes them. The working directory is the run's own: an absolute path to it may lead through directories that are
    /// closed to us by now.
    pub fn make(plan: &Plan, nests: bool) -> Result<Self, Failure> {
        let is_laid = inputs::lay(&plan.spec.lower)?;
        let exec = if nests { nested(plan) } else { attached(plan) };
        if is_laid {
            // The view keeps it.
            mounts::detach(Path::new(spec::EXEC))?;
        }
        let exec = exec?;
        let log = |name| View::of(Path::new(name));
        Ok(Self { exec, logs: [log(spec::STDOUT)?, log(spec::STDERR)?] })
    }

    /// All of them, with where they are mounted.
    pub fn all(&self) -> [(BorrowedFd<'_>, &'static CStr); 3] {
        let [stdout, stderr] = &self.logs;
        [(self.exec.as_fd(), c"/mortar/exec"), (stdout.as_fd(), LOGS[0]), (stderr.as_fd(), LOGS[1])]
    }
}

fn nested(plan: &Plan) -> Result<View, Failure> {
    let exec = View::of(Path::new(spec::EXEC))?;
    exec.seal()?;
    inputs::open(&plan.spec.writable, &Place::Nowhere { exec: &exec, aside: OnceCell::new() })?;
    Ok(exec)
}

/// The same for kernels that mount only on what is mounted itself: on top of a directory that every host has, for the
/// moment.
fn attached(plan: &Plan) -> Result<View, Failure> {
    let base = super::template::base()?;
    mounts::fresh("tmpfs", base, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
    let view = attached_to(base, plan);
    mounts::detach(base)?;
    view
}

fn attached_to(base: &Path, plan: &Plan) -> Result<View, Failure> {
    let (exec, aside) = (base.join("exec"), base.join("aside"));
    for directory in [&exec, &aside] {
        fs::create_dir(directory).step(|| format!("create `{}`", directory.display()))?;
    }
    mounts::bind(Path::new(spec::EXEC), &exec)?;
    mounts::seal(&exec)?;
    mounts::bind(&exec, &aside)?;
    inputs::open(&plan.spec.writable, &Place::Mounted { exec: &exec, aside: &aside })?;
    View::of(&exec)
}
