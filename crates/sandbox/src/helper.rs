//! The helper processes, as the process that uses them sees them: one for each run that is under way, kept for the
//! next run when that is over.

use crate::{Error, init};
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
#[derive(Debug, Default)]
pub struct Helpers(Mutex<Vec<Helper>>);

/// One helper process. It ends, and all that it runs, when this is dropped.
#[derive(Debug)]
pub struct Helper {
    process: Child,
    control: Arc<Control>,
}

/// Our end of a helper's socket.
#[derive(Debug)]
pub struct Control {
    socket: UnixStream,
    /// The number of the run under way, or of one that never was. Held while something is written.
    current: Mutex<u64>,
}

impl Helpers {
    /// Has a helper, idle or new, begin with this request.
    pub fn begin(&self, programme: &Path, request: &init::Request) -> Result<(Helper, u64), Error> {
        loop {
            let idle = lock(&self.0).pop();
            let fresh = idle.is_none();
            let helper = idle.map_or_else(|| Helper::start(programme), Ok)?;
            match helper.control.begin(request) {
                Ok(run) => return Ok((helper, run)),
                Err(error) if fresh => return Err(Error::helper("did not take the request", error)),
                // It was killed while it had nothing to do.
                Err(_) => drop(helper),
            }
        }
    }

    /// Keeps a helper that is done for the next run.
    pub fn keep(&self, helper: Helper) {
        lock(&self.0).push(helper);
    }
}

impl Helper {
    fn start(programme: &Path) -> Result<Self, Error> {
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
        Ok(Self { process, control: Arc::new(Control { socket: ours, current: Mutex::new(0) }) })
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
