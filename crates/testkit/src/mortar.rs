//! The `mortar` binary as a process: started, waited for, killed and started again. The caller gives its path, since
//! only an integration test of the `cli` crate knows it (`CARGO_BIN_EXE_mortar`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

use crate::process::{Running, wait_until};

/// How long it may take until it listens: far more than it should, since tests share the machine.
const READY: Duration = Duration::from_secs(20);
/// What it prints on stdout when it listens, before the URL.
const READY_LINE: &str = "ready ";

/// A `mortar up` or `mortar server` that listens.
#[derive(Debug)]
pub struct Mortar {
    program: PathBuf,
    verb: String,
    args: Vec<String>,
    environment: Vec<(String, OsString)>,
    running: Running,
    /// `HOST:PORT`
    address: String,
}

impl Mortar {
    /// `mortar up` on a free port of the loopback with its data in `dir`: server and worker in one process.
    pub fn up(program: impl AsRef<Path>, dir: &Path) -> Result<Mortar> {
        Mortar::start(program, "up", dir, &[])
    }

    /// `mortar server` on a free port of the loopback with its data in `dir`.
    pub fn server(program: impl AsRef<Path>, dir: &Path) -> Result<Mortar> {
        Mortar::start(program, "server", dir, &[])
    }

    /// The same with more flags.
    pub fn start(program: impl AsRef<Path>, verb: &str, dir: &Path, flags: &[&str]) -> Result<Mortar> {
        Mortar::start_in(&[], program, verb, dir, flags)
    }

    /// The same with these variables in its environment.
    pub fn start_in(
        environment: &[(&str, &OsStr)],
        program: impl AsRef<Path>,
        verb: &str,
        dir: &Path,
        flags: &[&str],
    ) -> Result<Mortar> {
        let dir = dir.to_str().context("the data directory's path is not UTF-8")?;
        let mut args = vec!["--dir".to_owned(), dir.to_owned()];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (program, verb, environment) =
            (program.as_ref().to_owned(), verb.to_owned(), environment.collect::<Vec<_>>());
        let (running, address) = launch(&program, &verb, &args, &environment, "127.0.0.1:0")?;
        Ok(Mortar { program, verb, args, environment, running, address })
    }

    /// `HOST:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// `grpc://HOST:PORT`
    pub fn grpc(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// `http://HOST:PORT`
    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again, after a [`kill`](Self::kill), on the same address and directory.
    pub fn restart(&mut self) -> Result<()> {
        let (running, address) =
            launch(&self.program, &self.verb, &self.args, &self.environment, &self.address)?;
        ensure!(address == self.address, "it listens on {address}, not on {}", self.address);
        self.running = running;
        Ok(())
    }

    /// Ctrl-C, and waits for the end.
    pub fn interrupt(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.ctrl_c()?;
        self.end(limit)
    }

    /// Ctrl-C alone, as a terminal does it: every process of its group hears of it, actions too if they are in there.
    pub fn ctrl_c(&self) -> Result<()> {
        ctrl_c(&self.running)
    }

    /// Waits for the end.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        end(&mut self.running, limit)
    }

    /// Waits until it has said `needle`.
    pub fn wait_for_log(&mut self, needle: &str, limit: Duration) -> Result<()> {
        self.running.wait_for_output(needle, limit)
    }

    /// What it has said on stderr since its last start.
    pub fn log(&self) -> Result<String> {
        self.running.stderr()
    }

    /// What it has printed on stdout since its last start.
    pub fn stdout(&self) -> Result<String> {
        self.running.stdout()
    }

    /// Waits until an action of its own worker runs this program.
    pub fn wait_until_it_runs(&self, program: &str, limit: Duration) -> Result<()> {
        wait_until_it_runs(&self.running, program, limit)
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.running.id()))?;
        let pages = statm.split(' ').nth(1).context("statm has a second field")?;
        Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
    }

    /// The part of it that is no file's: without the program and what is mapped of the store.
    pub fn anonymous(&self) -> Result<u64> {
        self.memory("RssAnon")
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn peak_resident(&self) -> Result<u64> {
        self.memory("VmHWM")
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.with_context(|| format!("no {name} in kB"))?;
        Ok(kilobytes.trim().parse::<u64>()? << 10)
    }
}

/// A `mortar worker`.
#[derive(Debug)]
pub struct Worker {
    /// How it is started again.
    command: Command,
    running: Running,
}

impl Worker {
    /// `mortar worker --server URL` with its data in `dir`. It may not be registered yet: actions wait for it.
    pub fn start(program: impl AsRef<Path>, server: &str, dir: &Path, flags: &[&str]) -> Result<Worker> {
        let mut command = command(program.as_ref(), "worker");
        command.args(["--server", server, "--dir"]).arg(dir).args(flags);
        Ok(Worker { running: Running::start(&mut command)?, command })
    }

    /// The same on a disk of its own that holds `size` bytes, and goes with it.
    pub fn on_a_disk_of(
        size: u64,
        program: impl AsRef<Path>,
        server: &str,
        dir: &Path,
        flags: &[&str],
    ) -> Result<Worker> {
        std::fs::create_dir_all(dir)?;
        let mut command = command(Path::new("unshare"), "--mount");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = r#"mount -t tmpfs -o "size=$1" small "$2" && shift 2 && exec "$@""#;
        command.args(["sh", "-c", script, "sh", &size.to_string()]).arg(dir);
        command.arg(program.as_ref()).args(["worker", "--server", server, "--dir"]).arg(dir).args(flags);
        Ok(Worker { running: Running::start(&mut command)?, command })
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again, after a [`kill`](Self::kill), in the same directory.
    pub fn restart(&mut self) -> Result<()> {
        self.running = Running::start(&mut self.command)?;
        Ok(())
    }

    /// Stops the process, as a machine does that has no time for it. What it started goes on.
    pub fn freeze(&self) -> Result<()> {
        self.running.signal(Signal::STOP)
    }

    /// Lets it go on after that.
    pub fn thaw(&self) -> Result<()> {
        self.running.signal(Signal::CONT)
    }

    /// Ctrl-C, as a terminal does it.
    pub fn ctrl_c(&self) -> Result<()> {
        ctrl_c(&self.running)
    }

    /// Waits for the end.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        end(&mut self.running, limit)
    }

    /// What it has said on stderr.
    pub fn log(&self) -> Result<String> {
        self.running.stderr()
    }

    /// Waits until one of its actions runs this program.
    pub fn wait_until_it_runs(&self, program: &str, limit: Duration) -> Result<()> {
        wait_until_it_runs(&self.running, program, limit)
    }
}

fn ctrl_c(running: &Running) -> Result<()> {
    let group = group_of(running.id());
    let mut below = Vec::new();
    add_descendants(running.id(), &mut below);
    for pid in below.into_iter().filter(|pid| group.is_some() && group_of(*pid) == group) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
    }
    running.signal(Signal::INT)
}

fn end(running: &mut Running, limit: Duration) -> Result<ExitStatus> {
    wait_until("mortar's end", limit, || running.ended())
        .with_context(|| running.stderr().unwrap_or_default())
}

/// Waits until a process of that name runs somewhere below it: sandboxes have processes of their own.
fn wait_until_it_runs(running: &Running, program: &str, limit: Duration) -> Result<()> {
    wait_until(&format!("`{program}` in an action"), limit, || {
        let mut below = Vec::new();
        add_descendants(running.id(), &mut below);
        Ok(below.iter().any(|pid| has_name(*pid, program)).then_some(()))
    })
    .with_context(|| running.stderr().unwrap_or_default())
}

/// Any thread of a process may be the parent. What ends meanwhile is left out.
fn add_descendants(pid: u32, found: &mut Vec<u32>) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            add_descendants(child, found);
        }
    }
}

fn group_of(pid: u32) -> Option<Pid> {
    rustix::process::getpgid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()
}

/// Whether a process of that name runs anywhere on this machine, however far from its parents.
pub fn runs_anywhere(program: &str) -> Result<bool> {
    let processes = std::fs::read_dir("/proc")?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.any(|pid| has_name(pid, program)))
}

fn has_name(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// `mortar` with an environment in which no setting can hide.
pub fn command(program: &Path, verb: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(verb).env_clear();
    for kept in ["PATH", "MORTAR_LOG", "RUST_BACKTRACE", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

fn launch(
    program: &Path,
    verb: &str,
    args: &[String],
    environment: &[(String, OsString)],
    listen: &str,
) -> Result<(Running, String)> {
    let mut command = command(program, verb);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut running = Running::start(command.args(["--listen", listen]).args(args))?;
    running.wait_for_output(READY_LINE, READY)?;
    let address = wait_until("the ready line", READY, || Ok(ready_address(&running.stdout()?)))?;
    Ok((running, address))
}

/// The address in `ready grpc://HOST:PORT`, once the line is whole.
fn ready_address(stdout: &str) -> Option<String> {
    let line = stdout.split_inclusive('\n').find_map(|line| line.strip_prefix(READY_LINE))?;
    Some(line.strip_suffix('\n')?.trim().strip_prefix("grpc://")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::ready_address;

    #[test]
    fn the_address_is_read_from_a_whole_line() {
        assert_eq!(ready_address("ready grpc://127.0.0.1:80"), None);
        assert_eq!(ready_address("x\nready grpc://127.0.0.1:8980\nbuild …"), Some("127.0.0.1:8980".into()));
    }
}
