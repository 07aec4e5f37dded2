//! No isolation, for machines that permit none: the command runs as us on the host's own file system, in a session of
//! its own. Whatever it leaves behind is still found and killed, since orphans come to this process.

use super::{
    Failure, Plan, Step,
    output::Watch,
    pid1, process,
    sharing::{Stack, Told},
    supervise::{self, Control},
};
use crate::{Exit, spec};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs::{self, OpenOptions},
    os::fd::AsFd,
    time::Instant,
};

/// Runs the command; the working directory is the run's own.
pub fn run(plan: &Plan, control: &Control) -> Result<Exit, Failure> {
    prctl::set_child_subreaper(true).step(|| "adopt orphans".into())?;
    let open = |name: &str| OpenOptions::new().append(true).open(name).step(|| format!("open `{name}`"));
    let (stdout, stderr) = (open(spec::STDOUT)?, open(spec::STDERR)?);
    let exec = plan.spec.directory.join(spec::EXEC);
    let (command, told) = (process::Command::new(plan, &exec)?, Told::default());
    command.announce(control.socket.as_fd());
    let (start, mut output) = (Instant::now(), Watch::new(plan));
    let logs = [stdout.as_fd(), stderr.as_fd()];
    let child =
        process::start(&command, logs, &told, &mut Stack::default()).step(|| "start the command".into())?;
    let deadline = plan.spec.timeout.map(|limit| start + limit);
    let stopped = supervise::watch(child, control, deadline, &mut output);
    let status = pid1::reap_until(child).step(|| "wait for the command".into())?;
    let wall = start.elapsed();
    end_descendants();
    supervise::log_refusal(plan, &told)?;
    let ended = stopped.unwrap_or_else(|| supervise::ending(status));
    let ending = supervise::limited(ended, plan, &output, false);
    Ok(Exit { ending, wall, usage: supervise::usage_of_children() })
}

/// Kills what the command left until there is nothing: each child that dies hands its own children to us.
fn end_descendants() {
    while let Some(children) = children() {
        for child in children {
            kill(child, Signal::SIGKILL).ok();
        }
        // Waits for one; its orphans are ours before it can be waited for.
        if waitpid(None, Some(WaitPidFlag::__WALL)).is_err() {
            return;
        }
    }
}

/// Our children, if there are any.
fn children() -> Option<Vec<Pid>> {
    let own = std::process::id();
    let text = fs::read_to_string(format!("/proc/self/task/{own}/children")).ok()?;
    let pids: Vec<_> =
        text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect();
    (!pids.is_empty()).then_some(pids)
}
