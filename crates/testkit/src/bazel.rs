//! Drives a real Bazel: one client with a Bazel server, an output root and a workspace copy of its own.
//!
//! Bazel starts from an empty environment but for `PATH` and `HOME`, so that the machine does not leak into actions,
//! and with an rc file that holds only what it needs to work offline ([`rc`]). The server of Bazel stays warm between
//! the commands of one [`Bazel`] and is shut down, by its own output root, when that is dropped.

pub mod outputs;
pub mod project;
pub mod rc;
pub mod summary;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Finished, Running};
use crate::tools;
pub use outputs::Outputs;
pub use project::Project;
pub use summary::Processes;

/// The longest that any one command may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Which Bazel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's 4.2.3.
    V4,
    /// npm's 2.1.0.
    V2,
}

/// A Bazel on a copy of a project.
#[derive(Debug)]
pub struct Bazel {
    version: Version,
    binary: PathBuf,
    scratch: tempfile::TempDir,
    flags: Vec<String>,
}

impl Bazel {
    /// Bazel 4.2.3 on a copy of the project.
    pub fn v4(project: &Project) -> Result<Bazel> {
        Bazel::open(Version::V4, tools::bazel_4()?, project)
    }

    /// Bazel 2.1.0 on a copy of the project.
    pub fn v2(project: &Project) -> Result<Bazel> {
        Bazel::open(Version::V2, tools::bazel_2()?, project)
    }

    fn open(version: Version, binary: PathBuf, project: &Project) -> Result<Bazel> {
        let scratch = tempfile::Builder::new().prefix("mortar-bazel-").tempdir()?;
        project.copy_to(&scratch.path().join("workspace"))?;
        std::fs::create_dir(scratch.path().join("home"))?;
        rc::write(scratch.path())?;
        Ok(Bazel { version, binary, scratch, flags: Vec::new() })
    }

    /// These flags go with every `build` and `test` from now on, in place of earlier ones.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// The workspace copy: edit at will.
    pub fn workspace(&self) -> PathBuf {
        self.scratch.path().join("workspace")
    }

    /// `bazel build`, with the flags set before and these.
    pub fn build(&self, flags: &[&str], targets: &[&str]) -> Result<Build> {
        self.finish("build", flags, targets)
    }

    /// `bazel test`, with the flags set before and these.
    pub fn test(&self, flags: &[&str], targets: &[&str]) -> Result<Build> {
        self.finish("test", flags, targets)
    }

    /// Starts a `build` or `test` and returns at once; end it with [`Build::of`].
    pub fn start(&self, verb: &str, flags: &[&str], targets: &[&str]) -> Result<Running> {
        Running::start(self.command(verb).args(&self.flags).args(flags).arg("--").args(targets))
    }

    /// The labels that a query gives.
    pub fn query(&self, expression: &str) -> Result<Vec<String>> {
        let stdout = self.plain("query", &[expression])?.stdout;
        Ok(stdout.lines().map(str::to_owned).collect())
    }

    /// `bazel clean`: the next build starts from nothing (the repositories stay).
    pub fn clean(&self) -> Result<()> {
        self.plain("clean", &[]).map(drop)
    }

    /// Ends the server of Bazel; the next command starts another.
    pub fn shutdown(&self) -> Result<()> {
        self.plain("shutdown", &[]).map(drop)
    }

    /// Everything that was built, as it lies on disk.
    pub fn outputs(&self) -> Result<Outputs> {
        Outputs::below(&self.workspace().join("bazel-out"))
    }

    /// One output, by its path below `bazel-bin`.
    pub fn output(&self, path: &str) -> Result<String> {
        let path = self.workspace().join("bazel-bin").join(path);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Whether an output was brought here, by its path below `bazel-bin`.
    pub fn has_output(&self, path: &str) -> bool {
        self.workspace().join("bazel-bin").join(path).exists()
    }

    fn finish(&self, verb: &str, flags: &[&str], targets: &[&str]) -> Result<Build> {
        Build::of(self.start(verb, flags, targets)?)
    }

    fn plain(&self, verb: &str, args: &[&str]) -> Result<Finished> {
        let finished = process::run(self.command(verb).args(args), LIMIT)?;
        ensure!(finished.status.success(), "bazel {verb}: {}\n{}", finished.status, finished.stderr);
        Ok(finished)
    }

    /// `bazel` with its startup options and the verb.
    fn command(&self, verb: &str) -> Command {
        let root = self.scratch.path();
        let at = |option: &str, name: &str| format!("--{option}={}", root.join(name).display());
        let mut command = Command::new(&self.binary);
        command.current_dir(self.workspace()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", root.join("home"));
        if self.version == Version::V2 {
            // Debian's rc file is for Debian's Bazel, which does not start without it.
            command.arg("--nosystem_rc");
        }
        // A test process that is killed cannot end the server of its Bazel: then it ends itself when idle.
        command.args(["--nohome_rc", "--host_jvm_args=-Xmx1g", "--max_idle_secs=120"]);
        command.arg(at("bazelrc", rc::NAME)).arg(at("output_user_root", "root")).arg(verb);
        command
    }
}

impl Drop for Bazel {
    fn drop(&mut self) {
        // The server outlives its client: a test that panics must end it as well. It may never have been started.
        if self.scratch.path().join("root").exists() {
            let _ = process::run(&mut self.command("shutdown"), Duration::from_secs(30));
        }
        make_removable(self.scratch.path());
    }
}

/// How a `build` or `test` ended.
#[derive(Debug, Clone)]
pub struct Build {
    pub finished: Finished,
    /// What ran, and where: `None` when it ended before anything could.
    pub processes: Option<Processes>,
}

impl Build {
    /// Waits for a started command.
    pub fn of(running: Running) -> Result<Build> {
        let finished = running.wait(LIMIT)?;
        let processes = summary::parse(&finished.stderr);
        Ok(Build { finished, processes })
    }

    /// What ran, of a command that must have succeeded.
    pub fn success(&self) -> Result<&Processes> {
        let Finished { status, stdout, stderr } = &self.finished;
        ensure!(status.success(), "bazel failed: {status}\n{stdout}{stderr}");
        self.processes.as_ref().with_context(|| format!("no line about processes\n{stderr}"))
    }

    /// What Bazel said on both streams, of a command that must have failed by itself.
    pub fn failure(&self) -> Result<String> {
        let Finished { status, stdout, stderr } = &self.finished;
        ensure!(status.code().is_some_and(|code| code != 0), "bazel should have failed: {status}\n{stderr}");
        Ok(format!("{stdout}{stderr}"))
    }
}

/// Bazel makes tree artifacts read-only, and then only root can remove them.
fn make_removable(root: &Path) {
    let _ = process::run(Command::new("chmod").args(["-R", "u+w"]).arg(root), Duration::from_secs(30));
}
