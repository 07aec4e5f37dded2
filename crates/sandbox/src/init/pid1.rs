//! Pid 1 of the sandbox: completes the root, starts the command, reaps what is orphaned, tells, and by its end kills the
//! rest. It shares the helper's memory (`sharing.rs`).

use super::{
    process, root, seccomp,
    sharing::{self, FirstSteps, Stack, Told},
    views::{LOGS, Views},
};
use nix::unistd::Pid;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    process::{
        DumpableBehavior, Signal, WaitOptions, set_dumpable_behavior, set_parent_process_death_signal, wait,
    },
    thread::set_no_new_privs,
};
use std::{cell::RefCell, io, os::fd::AsFd};

/// All that it is to do.
#[derive(Debug)]
pub struct Pid1<'a> {
    /// What to run.
    pub command: &'a process::Command,
    /// Whether to do all but that.
    pub rehearsal: bool,
    /// What to mount.
    pub views: &'a Views,
    /// Where to tell how it went.
    pub told: &'a Told,
    /// For the command's first steps.
    pub stack: RefCell<Stack>,
}

const OWN_STEPS: [&str; 5] =
    ["hide from the command", "open the logs", "start the command", "wait for the command", seccomp::STEP];
const HIDE: u32 = 1;
const OPEN: u32 = 2;
const START: u32 = 3;
const WAIT: u32 = 4;
const FILTER: u32 = 5;
const ROOT: u32 = 6;

/// The name of a step that failed.
pub fn step(number: u32) -> &'static str {
    let own = OWN_STEPS.get(number as usize - 1);
    own.or_else(|| root::STEPS.get((number - ROOT) as usize)).copied().unwrap_or("set the sandbox up")
}

impl Pid1<'_> {
    /// Starts it in new namespaces. It waits to be told that its identities are mapped.
    ///
    /// # Safety
    /// This and the stack stay as they are until it has ended.
    pub unsafe fn start(&self, stack: &mut Stack, namespaces: libc::c_int) -> io::Result<Pid> {
        // SAFETY: as our caller promises.
        unsafe { sharing::start(self, stack, namespaces) }
    }

    fn live(&self) -> Result<(), (u32, Errno)> {
        root::complete(self.views).map_err(|(step, errno)| (ROOT + step as u32, errno))?;
        // Neither our memory nor our descriptors are the command's business, even where it has our uid.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| (HIDE, errno))?;
        if self.rehearsal {
            set_no_new_privs(true).and_then(|()| self.command.restrict()).map_err(|errno| (FILTER, errno))?;
            self.told.end(0, false);
            return Ok(());
        }
        let log = |path| open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::empty());
        let (stdout, stderr) =
            (log(LOGS[0]).map_err(|errno| (OPEN, errno))?, log(LOGS[1]).map_err(|errno| (OPEN, errno))?);
        let logs = [stdout.as_fd(), stderr.as_fd()];
        let started = process::start(self.command, logs, self.told, &mut self.stack.borrow_mut());
        let refused = |error: io::Error| (START, Errno::from_io_error(&error).unwrap_or(Errno::AGAIN));
        let command = started.map_err(refused)?;
        drop((stdout, stderr));
        let status = reap_until(command).map_err(|errno| (WAIT, errno))?;
        self.told.end(status, root::scratch_is_full());
        Ok(())
    }
}

impl FirstSteps for Pid1<'_> {
    fn run(&self) -> ! {
        // Should the helper be killed, so are we, and all others with us.
        set_parent_process_death_signal(Some(Signal::KILL)).ok();
        self.told.wait_to_go();
        if let Err((step, errno)) = self.live() {
            self.told.fail(step, errno);
        }
        sharing::exit(0)
    }
}

/// Takes the ends of children, whoever's they were, until this one's, whose status it returns.
pub fn reap_until(command: Pid) -> Result<i32, Errno> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == command.as_raw() => {
                return Ok(status.as_raw());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
