//! The helper's part in a run: starts pid 1 of the sandbox, and ends it when the time is up or the asker says so or is
//! gone. The run is over when nothing of it is left.

use super::{
    Failure, Message, Plan, Reply, Request, Step, check, message, namespaces, outside::Outside, pid1,
    views::Views,
};
use crate::{Ending, Exit, Usage};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, pipe2},
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// The socket over which a run is stopped.
#[derive(Debug)]
pub struct Control<'a> {
    /// The socket.
    pub socket: &'a UnixStream,
    /// The number that the run has there.
    pub run: u64,
}

/// Runs the command of the plan, or all but it if this is a rehearsal. The working directory is the run's own.
pub fn isolated(
    plan: &Plan,
    outside: &mut Outside,
    control: &Control,
    rehearsal: bool,
) -> Result<Exit, Failure> {
    let views = Views::make(plan, outside.nests())?;
    let (report, to_report) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "create a pipe".into())?;
    let (go, to_go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(|| "create a pipe".into())?;
    let started = Instant::now();
    let cloned = outside.within_root(plan, || match namespaces::clone_into(namespaces::ALL) {
        Ok(None) => pid1::main(plan, rehearsal, &views, go.into(), to_report.into()),
        cloned => {
            drop((to_report, go));
            cloned
        }
    })?;
    let child = cloned.step(|| "create the namespaces".into())?.expect("the child does not return");
    drop(views);
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
        (None, Some(Reply::Exit { exit, .. })) => Ok(exit),
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
pub fn watch(child: Pid, control: &Control, deadline: Option<Instant>) -> Option<Ending> {
    let ending = wait_for(child, control, deadline).unwrap_or(Some(Ending::Cancelled));
    if ending.is_some() {
        kill(child, Signal::SIGKILL).ok();
    }
    ending
}

fn wait_for(child: Pid, control: &Control, deadline: Option<Instant>) -> io::Result<Option<Ending>> {
    // SAFETY: the call takes two numbers; the child is not reaped yet, so the number is still its own.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    let ended = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    loop {
        let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut fds = [
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.socket.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, poll_timeout(wait)) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        let ready = |fd: &PollFd| fd.any().unwrap_or(true);
        if ready(&fds[0]) {
            return Ok(None);
        }
        if ready(&fds[1]) && control.is_over() {
            return Ok(Some(Ending::Cancelled));
        }
        if wait == Some(Duration::ZERO) {
            return Ok(Some(Ending::TimedOut));
        }
    }
}

impl Control<'_> {
    /// Whether what is to be read there ends the run: a word to that effect, or the end of the socket.
    fn is_over(&self) -> bool {
        match message::receive::<Message<Request>>(self.socket) {
            Ok(Message { run, request }) => run == self.run || request.is_some(),
            Err(_) => true,
        }
    }
}

/// Rounded up, so that the wait does not end before its time; at most some days, after which we look again.
fn poll_timeout(wait: Option<Duration>) -> PollTimeout {
    let Some(wait) = wait else { return PollTimeout::NONE };
    let millis = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}
