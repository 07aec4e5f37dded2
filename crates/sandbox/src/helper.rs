//! The helper processes, as the process that uses them sees them: one for each run that is under way, kept for the
//! next run when that is over.

use crate::{
    Error, Exit,
    cgroups::{Group, Hierarchies},
    init,
};
use std::{
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The helpers that have nothing to do. There are never more of them than runs were once under way together.
#[derive(Debug)]
pub struct Helpers {
    idle: Mutex<Vec<Helper>>,
    hierarchies: Hierarchies,
}

/// One helper process. It ends, and all that it runs, when this is dropped.
#[derive(Debug)]
pub struct Helper {
    process: Child,
    control: Arc<Control>,
    /// Where it and all that it runs is counted and limited.
    group: Option<Group>,
}

/// Our end of a helper's socket.
#[derive(Debug)]
pub struct Control {
    socket: UnixStream,
    /// The number of the run under way, or of one that never was. Held while something is written.
    current: Mutex<u64>,
}

impl Helpers {
    /// None yet.
    pub fn new(hierarchies: Hierarchies) -> Self {
        Self { idle: Mutex::default(), hierarchies }
    }

    /// Where helpers are counted and limited.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Has a helper, idle or new, begin with this request.
    pub fn begin(&self, programme: &Path, mut request: init::Request) -> Result<(Helper, u64), Error> {
        loop {
            let idle = lock(&self.idle).pop();
            let fresh = idle.is_none();
            let mut helper = idle.map_or_else(|| Helper::start(programme, &self.hierarchies), Ok)?;
            helper.limit(&mut request)?;
            match helper.control.begin(&request) {
                Ok(run) => return Ok((helper, run)),
                Err(error) if fresh => return Err(Error::helper("did not take the request", error)),
                // It was killed while it had nothing to do.
                Err(_) => drop(helper),
            }
        }
    }

    /// Keeps a helper that is done for the next run.
    pub fn keep(&self, helper: Helper) {
        lock(&self.idle).push(helper);
    }
}

impl Helper {
    fn start(programme: &Path, hierarchies: &Hierarchies) -> Result<Self, Error> {
        let pair = UnixStream::pair();
        let (ours, theirs) = pair.map_err(|error| Error::helper("could not be given a socket", error))?;
        let process = Command::new(programme)
            .arg0(init::NAME)
            .env_clear()
            // A Ctrl-C at our terminal is for us to answer.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Error::helper("could not be started", error))?;
        let control = Arc::new(Control { socket: ours, current: Mutex::new(0) });
        let mut helper = Self { process, control, group: None };
        let group = Group::new(hierarchies, helper.id());
        helper.group =
            Some(group.map_err(|error| Error::helper("could not be put into control groups", error))?);
        Ok(helper)
    }

    /// Applies what limits of the request control groups can, and leaves the others in it.
    fn limit(&mut self, request: &mut init::Request) -> Result<(), Error> {
        let (init::Request::Run(plan) | init::Request::Probe(plan)) = request;
        let limited = self.group.as_mut().map_or(Ok(()), |group| group.begin(&mut plan.limits));
        limited.map_err(|error| Error::helper("could not be limited by control groups", error))
    }

    /// Adds what the control groups know to what the helper told.
    pub fn account(&self, exit: &mut Exit) -> Result<(), Error> {
        exit.usage.peak_memory = exit.usage.max_resident;
        let Some(group) = &self.group else { return Ok(()) };
        let account = group.end().map_err(|error| Error::helper("could not be accounted for", error))?;
        exit.usage.peak_memory = exit.usage.peak_memory.max(account.peak_memory);
        if let Some(limit) = account.exceeded {
            exit.ending = exit.ending.exceeding(limit);
        }
        Ok(())
    }

    /// What cancels its runs.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the answer to what it was asked.
    pub fn reply(&mut self) -> Result<init::Reply, Error> {
        let received = init::message::receive(&self.control.socket);
        // From here on a cancel is too late.
        *lock(&self.control.current) += 1;
        match received {
            Ok(reply) => Ok(reply),
            Err(cause) => {
                self.control.socket.shutdown(Shutdown::Both).ok();
                let status = self.process.wait();
                let status = status.map_err(|error| Error::helper("could not be waited for", error))?;
                let what =
                    format!("ended with {status} before its answer; does `main` call `init_if_asked` first?");
                Err(Error::Helper { what, source: Some(cause) })
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It sees the end of its input, kills what it runs, and ends; a process is reaped by its parent alone.
        self.control.socket.shutdown(Shutdown::Both).ok();
        self.process.wait().ok();
        if let Some(group) = &self.group {
            group.remove();
        }
    }
}

impl Control {
    fn begin(&self, request: &init::Request) -> io::Result<u64> {
        let mut current = lock(&self.current);
        *current += 1;
        init::message::send(&self.socket, &init::Message { run: *current, request: Some(request) })?;
        Ok(*current)
    }

    /// Stops this run, if it is still under way.
    pub fn cancel(&self, run: u64) {
        if *lock(&self.current) == run {
            // It can only fail where the other end is gone already.
            init::message::send(&self.socket, &init::Message::<init::Request> { run, request: None }).ok();
        }
    }
}

/// None of these locks is held while something could panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
