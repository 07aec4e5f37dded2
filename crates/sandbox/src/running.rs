//! The side of a run that lives in the process that wants it: starts the helper, cancels, waits.

use crate::{Error, Exit, Sandbox, init};
use std::{
    io::Read,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::Arc,
};

/// A command on its way. Dropping it cancels the run, without waiting for its end.
#[derive(Debug)]
pub struct Running {
    helper: Child,
    control: Arc<UnixStream>,
}

/// Stops a run from elsewhere.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<UnixStream>);

impl Canceller {
    /// Kills every process of the run; [`Running::wait`] then returns. Does nothing once it is over.
    pub fn cancel(&self) {
        // The other end sees the end of its input. It can only fail where the other end is gone already.
        self.0.shutdown(Shutdown::Write).ok();
    }
}

impl Running {
    pub(crate) fn start(sandbox: &Sandbox, request: init::Request) -> Result<Self, Error> {
        let pair = UnixStream::pair();
        let (ours, theirs) = pair.map_err(|error| Error::helper("could not be given a socket", error))?;
        let helper = Command::new(&sandbox.config.helper)
            .arg0(init::NAME)
            .env_clear()
            // A Ctrl-C at our terminal is for us to answer.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Error::helper("could not be started", error))?;
        let running = Self { helper, control: Arc::new(ours) };
        init::message::send(&*running.control, &request)
            .map_err(|error| Error::helper("did not take the request", error))?;
        Ok(running)
    }

    /// A handle to stop the run with.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.control))
    }

    /// Waits, blocking, until the command has ended and nothing of the run is left.
    pub fn wait(self) -> Result<Exit, Error> {
        match self.reply()? {
            init::Reply::Exit(exit) => Ok(exit),
            init::Reply::Failed(failure) => Err(failure.into()),
            init::Reply::Permitted(_) => Err(Error::Helper { what: "answered a probe".into(), source: None }),
        }
    }

    /// The helper's process id, for those who watch processes.
    pub fn helper_id(&self) -> u32 {
        self.helper.id()
    }

    pub(crate) fn reply(mut self) -> Result<init::Reply, Error> {
        let mut bytes = Vec::new();
        let read = (&*self.control).read_to_end(&mut bytes);
        let status = self.helper.wait().map_err(|error| Error::helper("could not be waited for", error))?;
        read.map_err(|error| Error::helper("broke off its answer", error))?;
        init::message::decode(&bytes).map_err(|_| {
            let answered = bytes.len();
            let what = format!(
                "ended with {status} after {answered} bytes of an answer; does `main` call `init_if_asked` first?"
            );
            Error::Helper { what, source: None }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only what nobody waited for still runs here. The helper ends by itself; a process is reaped by its parent alone.
        if let Ok(None) = self.helper.try_wait() {
            self.control.shutdown(Shutdown::Both).ok();
            self.helper.wait().ok();
        }
    }
}
