//! Child processes of tests: their output goes to files, every wait has a deadline, and a child is ended by its own
//! handle only. Synchronous, since tests that drive real clients have nothing else to do meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Waits until `probe` gives a value; the error after `limit` names `what`.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A started child whose output is captured. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
    _scratch: tempfile::TempDir,
}

/// How a child ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, or kills it at the deadline and fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    Running::start(command)?.wait(limit)
}

impl Running {
    /// Starts the command with its own output files.
    pub fn start(command: &mut Command) -> Result<Running> {
        let shown = format!("{command:?}");
        let scratch = tempfile::tempdir().context("no scratch directory")?;
        let (stdout, stderr) = (scratch.path().join("stdout"), scratch.path().join("stderr"));
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        Ok(Running { child, shown, stdout, stderr, _scratch: scratch })
    }

    /// Waits for the end. At the deadline the child is killed, and the error carries what it had printed.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let status = match wait_until("its end", limit, || Ok(self.child.try_wait()?)) {
            Ok(status) => status,
            Err(error) => {
                self.kill()?;
                return Err(error.context(format!("{}\n{}{}", self.shown, self.stdout()?, self.stderr()?)));
            }
        };
        Ok(Finished { status, stdout: self.stdout()?, stderr: self.stderr()? })
    }

    /// `Some` when it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.shown))?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal that asks politely.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.shown))
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> Result<String> {
        read_lossy(&self.stdout)
    }

    /// What it has said so far.
    pub fn stderr(&self) -> Result<String> {
        read_lossy(&self.stderr)
    }

    /// Waits until stdout or stderr holds `needle`; fails at once when the child ends before.
    pub fn wait_for_output(&mut self, needle: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("`{needle}` in the output"), limit, || {
            let ended = self.ended()?;
            if self.stdout()?.contains(needle) || self.stderr()?.contains(needle) {
                return Ok(Some(()));
            }
            match ended {
                Some(status) => bail!("it ended ({status}) without `{needle}`"),
                None => Ok(None),
            }
        })
        .with_context(|| format!("{}\n{}{}", self.shown, text(self.stdout()), text(self.stderr())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that panics must leave no process behind; one that has ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback that was free a moment ago, for servers that cannot choose one themselves.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn read_lossy(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(read: Result<String>) -> String {
    read.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept() -> Result<()> {
        let finished =
            run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), Duration::from_secs(10))?;
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("a\n", "b\n"));
        assert_eq!(finished.status.code(), Some(3));
        Ok(())
    }

    #[test]
    fn a_deadline_kills_and_tells_the_output() {
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo said; exec sleep 60"]), Duration::from_millis(300));
        let message = format!("{:#}", error.expect_err("it sleeps"));
        assert!(message.contains("said") && message.contains("in vain"), "{message}");
    }
}
