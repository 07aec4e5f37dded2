//! The helper's outer process, on the host: takes the request, starts pid 1 of the sandbox, and ends it when the time
//! is up or the other side of the socket goes away. It is done when nothing of the run is left.

use super::{Failure, Plan, Reply, Request, Step, bare, check, message, namespaces, pid1};
use crate::{Ending, Exit, Isolation, Layer, Layers, Usage, spec};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, pipe2},
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::exit,
    time::{Duration, Instant},
};

/// Does what the other end of standard input asks, answers there, and ends the process.
pub fn main() -> ! {
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("mortar-sandbox-init: {error}");
            1
        }
    };
    exit(code)
}

fn serve() -> io::Result<()> {
    // SAFETY: nothing of this process has opened a descriptor beyond the standard ones yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) })?;
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let request: Request = message::receive(&control)?;
    let reply = match &request {
        Request::Run(plan) => match run(plan, &control, false) {
            Ok(exit) => Reply::Exit(exit),
            Err(failure) => Reply::Failed(failure),
        },
        Request::Probe(plan) => Reply::Permitted(probe(plan, &control)),
    };
    // It fails only where the asker is gone, and then nobody wants to know.
    message::send(&control, &reply).ok();
    Ok(())
}

/// Runs the command, or all but it if this is a rehearsal.
fn run(plan: &Plan, control: &UnixStream, rehearsal: bool) -> Result<Exit, Failure> {
    // The kernel runs out of memory for the command's sake, so the command is what it should take.
    fs::write("/proc/self/oom_score_adj", "500").ok();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let directory = &plan.spec.directory;
    std::env::set_current_dir(directory).step(|| format!("enter `{}`", directory.display()))?;
    for name in [spec::STDOUT, spec::STDERR] {
        let file = File::create(name).step(|| format!("create the file `{name}`"))?;
        if let Some((uid, gid)) = plan.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).step(|| format!("chown `{name}`"))?;
        }
    }
    match plan.isolation {
        Isolation::Namespaces => isolated(plan, control, rehearsal),
        Isolation::None => bare::run(plan, control),
    }
}

fn isolated(plan: &Plan, control: &UnixStream, rehearsal: bool) -> Result<Exit, Failure> {
    let (report, to_report) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "create a pipe".into())?;
    let (go, to_go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "create a pipe".into())?;
    let started = Instant::now();
    let child = match namespaces::clone_into(namespaces::ALL).step(|| "create the namespaces".into())? {
        None => {
            drop((report, to_go));
            pid1::main(plan, rehearsal, File::from(go), File::from(to_report))
        }
        Some(child) => child,
    };
    drop((to_report, go));
    let mapped = namespaces::map_identities(child, plan.owner);
    if mapped.is_ok() {
        // It fails only where the child is gone, which the report will tell.
        File::from(to_go).write_all(b"1").ok();
    } else {
        drop(to_go);
    }
    let stopped = watch(child, control, plan.spec.timeout.map(|limit| started + limit));
    waitpid(child, None).step(|| "wait for the sandbox".into())?;
    mapped?;
    let report = read_report(report)?;
    let wall = started.elapsed();
    match (stopped, report) {
        (Some(ending), _) => Ok(Exit { ending, wall, usage: Usage::default() }),
        (None, Some(Reply::Exit(exit))) => Ok(exit),
        (None, Some(Reply::Failed(failure))) => Err(failure),
        (None, _) => Err(Failure { step: "hear of the command's end".into(), errno: libc::ECHILD }),
    }
}

fn read_report(pipe: OwnedFd) -> Result<Option<Reply>, Failure> {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).step(|| "read the report".into())?;
    Ok(message::decode(&bytes).ok())
}

/// Waits until the child has ended, kills it where it must, and tells why it did.
pub fn watch(child: Pid, control: &UnixStream, deadline: Option<Instant>) -> Option<Ending> {
    let ending = wait_for(child, control, deadline).unwrap_or(Some(Ending::Cancelled));
    if ending.is_some() {
        kill(child, Signal::SIGKILL).ok();
    }
    ending
}

fn wait_for(child: Pid, control: &UnixStream, deadline: Option<Instant>) -> io::Result<Option<Ending>> {
    // SAFETY: the call takes two numbers; the child is not reaped yet, so the number is still its own.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    let ended = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    loop {
        let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut fds =
            [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(wait)) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        let ready = |fd: &PollFd| fd.any().unwrap_or(true);
        if ready(&fds[0]) {
            return Ok(None);
        }
        if ready(&fds[1]) {
            return Ok(Some(Ending::Cancelled));
        }
        if wait == Some(Duration::ZERO) {
            return Ok(Some(Ending::TimedOut));
        }
    }
}

/// Rounded up, so that the wait does not end before its time; at most some days, after which we look again.
fn poll_timeout(wait: Option<Duration>) -> PollTimeout {
    let Some(wait) = wait else { return PollTimeout::NONE };
    let millis = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// Rehearses a run; where that fails, tries layer by layer to tell what is refused.
fn probe(plan: &Plan, control: &UnixStream) -> Layers {
    let Err(failure) = run(plan, control, true) else { return Layers::default() };
    let mut refused: Vec<_> = namespaces::EACH
        .iter()
        .filter_map(|(layer, flags)| Some((*layer, namespaces::try_one(*flags).err()?.to_string())))
        .collect();
    if refused.is_empty() {
        let error = io::Error::from_raw_os_error(failure.errno);
        refused.push((Layer::Root, format!("{}: {error}", failure.step)));
    }
    Layers { refused }
}
