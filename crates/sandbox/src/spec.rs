//! What to run, and how it ended.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// The staged root, in [`Spec::directory`].
pub const EXEC: &str = "exec";
/// Where standard output goes, in [`Spec::directory`].
pub const STDOUT: &str = "stdout";
/// Where standard error goes, in [`Spec::directory`].
pub const STDERR: &str = "stderr";

/// One command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    /// A directory of this run alone, on the host: `exec` in it is the staged root; `stdout` and `stderr` will be
    /// made in it, and hold what was written however the run ends.
    pub directory: PathBuf,
    /// Program and arguments. A program without a slash is looked up in the command's own `PATH`.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where the command starts, relative to the staged root.
    pub working_directory: PathBuf,
    /// Directories, relative to the staged root, in which entries may be made, and files that may be changed. What
    /// such a directory holds before the run is read-only nevertheless, unless it is named here itself.
    pub writable: Vec<PathBuf>,
    /// Directories that `exec` is laid over, the uppermost first, as paths that may be relative to `directory`: the
    /// staged root is all of them together, and what the command writes goes into `exec`, never into them. A character
    /// device 0/0 in one hides what lies below. Only for [`crate::Isolation::Namespaces`].
    pub lower: Vec<PathBuf>,
    /// When to stop it.
    pub timeout: Option<Duration>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What ended it.
    pub ending: Ending,
    /// From the start of the command to its end.
    pub wall: Duration,
    /// What it used, and the children that it waited for.
    pub usage: Usage,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The command, with this code.
    Code(i32),
    /// A signal with this number.
    Signal(i32),
    /// The time limit.
    TimedOut,
    /// [`crate::Canceller::cancel`], or the end of the process that started it.
    Cancelled,
}

impl Ending {
    /// The exit code as a shell would tell it.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut | Self::Cancelled => 128 + 9,
        }
    }
}

/// Resources that were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one process, in bytes.
    pub max_resident: u64,
}

impl Spec {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.arguments.is_empty() {
            return Err(Error::Spec("there are no arguments".into()));
        }
        for path in self.writable.iter().chain([&self.working_directory]) {
            if !is_below(path) {
                return Err(Error::Spec(format!("the path `{}` leaves the staged root", path.display())));
            }
        }
        let strings = self.environment.iter().flat_map(|(name, value)| [name, value]);
        if strings.chain(&self.arguments).any(|string| string.contains('\0')) {
            return Err(Error::Spec("an argument or a variable holds a NUL byte".into()));
        }
        match self.environment.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
            Some((name, _)) => Err(Error::Spec(format!("`{name}` is no name of a variable"))),
            None => Ok(()),
        }
    }
}

fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_specs_are_refused() {
        let good = Spec { arguments: vec!["true".into()], ..Default::default() };
        good.check().unwrap();
        let bad = [
            Spec { arguments: vec![], ..good.clone() },
            Spec { arguments: vec!["a\0b".into()], ..good.clone() },
            Spec { environment: vec![("A=B".into(), "c".into())], ..good.clone() },
            Spec { environment: vec![("".into(), "c".into())], ..good.clone() },
            Spec { working_directory: "../x".into(), ..good.clone() },
            Spec { writable: vec!["/etc".into()], ..good.clone() },
        ];
        for spec in bad {
            assert!(matches!(spec.check(), Err(Error::Spec(_))), "{spec:?}");
        }
    }
}
