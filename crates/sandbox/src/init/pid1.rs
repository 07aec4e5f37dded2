//! Pid 1 of the sandbox: sets it up, starts the command, reaps what is orphaned, reports, and by its end kills the rest.

use super::{Failure, Plan, Reply, Step, check, message, process, root, serve, views::Views};
use crate::{Ending, Exit, Usage, spec};
use nix::{
    sys::{
        prctl,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, sethostname},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::fd::AsRawFd,
    path::Path,
    time::{Duration, Instant},
};

/// Runs the command in the namespaces that this process was cloned into.
pub fn main(plan: &Plan, rehearsal: bool, views: &Views, mut go: File, report: File) -> ! {
    // Should the supervisor be killed, so are we, and all others with us.
    prctl::set_pdeathsig(Signal::SIGKILL).ok();
    let told = go.read(&mut [0; 1]);
    if matches!(told, Ok(1)) {
        let reply = match set_up(views, &report).and_then(|()| run(plan, rehearsal)) {
            Ok(exit) => Reply::Exit { exit, reusable: true },
            Err(failure) => Reply::Failed(failure),
        };
        message::send(report, &reply).ok();
    }
    // SAFETY: ends this process at once. What the supervisor registered for its own end is not ours to run.
    unsafe { libc::_exit(0) }
}

fn set_up(views: &Views, report: &File) -> Result<(), Failure> {
    sethostname("mortar").step(|| "set the host name".into())?;
    root::complete(views)?;
    serve::offer_to_die();
    // The helper's descriptors lead outside.
    close_all_but(report).step(|| "close the helper's descriptors".into())?;
    // Neither our memory nor our descriptors are the command's business, even where it has our uid.
    prctl::set_dumpable(false).step(|| "hide from the command".into())
}

fn close_all_but(kept: &File) -> io::Result<()> {
    let kept = kept.as_raw_fd() as u32;
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        // SAFETY: whoever owns these descriptors in this process, which is a copy, does not use them any more: it
        // ends without running what would close them.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) })?;
    }
    Ok(())
}

fn run(plan: &Plan, rehearsal: bool) -> Result<Exit, Failure> {
    if rehearsal {
        return Ok(Exit { ending: Ending::Code(0), wall: Duration::ZERO, usage: Usage::default() });
    }
    let open = |name: &str| {
        let path = Path::new("/mortar").join(name);
        OpenOptions::new().append(true).open(path).step(|| format!("open the file `{name}`"))
    };
    let (stdout, stderr) = (open(spec::STDOUT)?, open(spec::STDERR)?);
    let start = Instant::now();
    let command =
        process::start(plan, Path::new(crate::EXEC_ROOT), &stdout, &stderr).step(|| "fork".into())?;
    drop((stdout, stderr));
    let ending = reap_until(command)?;
    Ok(Exit { ending, wall: start.elapsed(), usage: usage() })
}

/// Takes the ends of children, whoever's they were, until this one's.
pub fn reap_until(command: Pid) -> Result<Ending, Failure> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(Ending::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Ok(Ending::Signal(signal as i32));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).step(|| "wait for the command".into()),
        }
    }
}

/// What the children that were reaped have used.
pub fn usage() -> Usage {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Usage::default() };
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0)) + Duration::from_micros(micros)
    };
    Usage {
        user: duration(usage.user_time()),
        system: duration(usage.system_time()),
        max_resident: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
    }
}
