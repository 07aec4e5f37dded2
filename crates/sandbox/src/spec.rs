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
/// Where standard input comes from, in [`Spec::directory`], where the command converses.
pub const STDIN: &str = "stdin";

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
    /// A root file system, as an absolute path of the host, that is shown instead of the host's system directories. Only
    /// for [`crate::Isolation::Namespaces`].
    pub image: Option<PathBuf>,
    /// Whether standard input and output are `stdin` and `stdout` of the directory, named pipes that are there already,
    /// and the caller holds open for reading and writing: instead of nothing, and a file. A line feed comes first from
    /// `stdout`, from the sandbox: what is put into the staged root from then on can be written by the command where it
    /// is in a directory of `writable`, as far as its owner and mode allow. The sandbox waits for a byte in `stdin`, and
    /// takes it, before it starts the command. What such a command writes is its caller's to add up; only single files are
    /// held to [`Limits::output`].
    pub converses: bool,
    /// When to stop it.
    pub timeout: Option<Duration>,
    /// What it may use.
    pub limits: Limits,
}

/// What a run may use, all its processes together; as much as there is where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes, with what it keeps in `/tmp` and `/dev/shm`. Where there are no control groups, each process
    /// may have as much, and is refused more instead of being killed.
    pub memory: Option<u64>,
    /// Processes and threads at the same time.
    pub processes: Option<u32>,
    /// Processor time, in thousandths of a processor. Only where there are control groups.
    pub cpu_millis: Option<u32>,
    /// Its share of busy processors against others', from 1 to 10,000; 100 where nothing is said. Likewise.
    pub cpu_weight: Option<u32>,
    /// Bytes in `/tmp`, and again in `/dev/shm`; half of the machine's memory where nothing is said.
    pub scratch: Option<u64>,
    /// Bytes in outputs and logs. No file gets larger than that; the sum is looked at every now and then, and at the end.
    pub output: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What ended it.
    pub ending: Ending,
    /// From the start of the command to its end.
    pub wall: Duration,
    /// What all its processes used.
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
    /// Something was killed, stopped or refused for this limit, and the command did not succeed.
    Exceeded {
        /// Which.
        limit: Limit,
        /// How the command ended then, as [`Ending::code`] tells it.
        code: i32,
    },
}

/// What a run can have too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// [`Limits::memory`].
    Memory,
    /// [`Limits::processes`].
    Processes,
    /// [`Limits::scratch`].
    Scratch,
    /// [`Limits::output`].
    Output,
}

impl Ending {
    /// The exit code as a shell would tell it.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut | Self::Cancelled => 128 + 9,
            Self::Exceeded { code, .. } => code,
        }
    }

    /// The same where this limit was met, and made the command fail.
    pub(crate) fn exceeding(self, limit: Limit) -> Self {
        match self {
            Self::Code(0) | Self::TimedOut | Self::Cancelled | Self::Exceeded { .. } => self,
            Self::Code(_) | Self::Signal(_) => Self::Exceeded { limit, code: self.code() },
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
    /// The most memory of all of them at any time, in bytes; where there are no control groups, of any one.
    pub peak_memory: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
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
        if let Some(image) = self.image.as_ref().filter(|image| !image.is_absolute()) {
            return Err(Error::Spec(format!("the path `{}` of the image is not absolute", image.display())));
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
            Spec { image: Some("image".into()), ..good.clone() },
        ];
        for spec in bad {
            assert!(matches!(spec.check(), Err(Error::Spec(_))), "{spec:?}");
        }
    }
}
