//! The helper's part in a run: starts pid 1 of the sandbox, and ends it when the time is up or the asker says so or is
//! gone. The run is over when nothing of it is left.

use super::{
    Failure, Message, Plan, Request, Step, check, message, namespaces,
    output::Watch,
    outside::Outside,
    pid1::{self, Pid1},
    process,
    sharing::{Stack, Told},
    views::Views,
};
use crate::{Ending, Exit, Limit, Usage, spec};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::{self, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
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
    let command = process::Command::new(plan, Path::new(crate::EXEC_ROOT))?;
    let (views, told) = (Views::make(plan, outside.nests())?, Told::default());
    command.announce(control.socket.as_fd());
    // The last run had this hidden, and whoever is not root must see its own child to map it.
    prctl::set_dumpable(true).step(|| "be seen again".into())?;
    let pid1 = Pid1 { command: &command, rehearsal, views: &views, told: &told, stack: RefCell::default() };
    let mut stack = Stack::default();
    let (started, mut output) = (Instant::now(), Watch::new(plan));
    // SAFETY: what it is given lives until it was waited for, or this process has ended.
    let cloned = outside.within_root(plan, || unsafe { pid1.start(&mut stack, namespaces::EACH_TIME) })?;
    let child = cloned.step(|| "create the namespaces".into())?;
    let mapped = namespaces::map_identities(child, plan.owner);
    let stopped = match mapped {
        Ok(()) => {
            told.go();
            watch(child, control, plan.spec.timeout.map(|limit| started + limit), &mut output)
        }
        Err(_) => {
            kill(child, Signal::SIGKILL).ok();
            None
        }
    };
    let usage = wait_for_all(child).step(|| "wait for the sandbox".into());
    // Without that it may still use what it was given, and so may whatever runs in it: there is no way on.
    let usage = usage.unwrap_or_else(|_| std::process::abort());
    outside.empty_root(plan)?;
    mapped?;
    let wall = started.elapsed();
    log_refusal(plan, &told)?;
    let ended = match (stopped, told.status(), told.failure()) {
        (Some(stopped), _, _) => stopped,
        (None, Some(status), _) => ending(status),
        (None, None, Some((step, errno))) => return Err(Failure { step: pid1::step(step).into(), errno }),
        (None, None, None) => {
            return Err(Failure { step: "hear of the command's end".into(), errno: libc::ECHILD });
        }
    };
    let ending = limited(ended, plan, &output, told.is_full());
    Ok(Exit { ending, wall, usage })
}

/// The ending, where it was that of a limit.
pub fn limited(ended: Ending, plan: &Plan, output: &Watch, scratch_is_full: bool) -> Ending {
    if plan.limits.output.is_some()
        && (ended == Ending::Signal(libc::SIGXFSZ) || output.exceeded_at_end(ended.code() != 0))
    {
        let ended = if ended.code() == 0 { Ending::Signal(libc::SIGXFSZ) } else { ended };
        return ended.exceeding(Limit::Output);
    }
    if scratch_is_full { ended.exceeding(Limit::Scratch) } else { ended }
}

/// Says in the log why a command was not started.
pub fn log_refusal(plan: &Plan, told: &Told) -> Result<(), Failure> {
    let Some(error) = told.refusal() else { return Ok(()) };
    let path = plan.spec.directory.join(spec::STDERR);
    let mut log = OpenOptions::new().append(true).open(path).step(|| format!("open `{}`", spec::STDERR))?;
    log.write_all(process::refusal(plan, &error).as_bytes()).step(|| format!("write `{}`", spec::STDERR))
}

/// What a status of `wait` means.
pub fn ending(status: i32) -> Ending {
    if libc::WIFSIGNALED(status) {
        Ending::Signal(libc::WTERMSIG(status))
    } else {
        Ending::Code(libc::WEXITSTATUS(status))
    }
}

/// Waits for pid 1, with which everything in its namespace ends, and for which the kernel has waited by then.
fn wait_for_all(child: Pid) -> io::Result<Usage> {
    // SAFETY: all zero is a valid `rusage`, which the call fills; both outlive it.
    unsafe {
        let (mut status, mut usage) = (0, std::mem::zeroed());
        while libc::wait4(child.as_raw(), &mut status, 0, &mut usage) == -1 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(used(&usage))
    }
}

/// What the children that were waited for have used.
pub fn usage_of_children() -> Usage {
    // SAFETY: all zero is a valid `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    used(&usage)
}

fn used(usage: &libc::rusage) -> Usage {
    let duration = |time: libc::timeval| {
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
    };
    Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_resident: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        peak_memory: 0,
        read_bytes: u64::try_from(usage.ru_inblock).unwrap_or(0) * 512,
        written_bytes: u64::try_from(usage.ru_oublock).unwrap_or(0) * 512,
    }
}

/// Waits until the child has ended, kills it where it must, and tells why it did.
pub fn watch(child: Pid, control: &Control, deadline: Option<Instant>, output: &mut Watch) -> Option<Ending> {
    let ending = wait_for(child, control, deadline, output).unwrap_or(Some(Ending::Cancelled));
    if ending.is_some() {
        kill(child, Signal::SIGKILL).ok();
    }
    ending
}

fn wait_for(
    child: Pid,
    control: &Control,
    deadline: Option<Instant>,
    output: &mut Watch,
) -> io::Result<Option<Ending>> {
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
        let look = wait.into_iter().chain(output.wait()).min();
        match poll(&mut fds, poll_timeout(look)) {
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
        if output.exceeded_by_now() {
            return Ok(Some(Ending::Signal(libc::SIGXFSZ)));
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
