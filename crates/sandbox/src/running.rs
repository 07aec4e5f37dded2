//! A run as the process that wants it sees it: cancels, waits.

use crate::{
    Error, Exit, Sandbox,
    helper::{Control, Helper, Helpers},
    init,
};
use std::sync::Arc;

/// A command on its way. Dropping it cancels the run, and returns when nothing of it is left.
#[derive(Debug)]
pub struct Running {
    helper: Helper,
    run: u64,
    /// Where the helper goes when it is done.
    helpers: Arc<Helpers>,
}

/// Stops a run from elsewhere.
#[derive(Clone, Debug)]
pub struct Canceller {
    control: Arc<Control>,
    run: u64,
}

impl Canceller {
    /// Kills every process of the run; [`Running::wait`] then returns. Does nothing once it is over.
    pub fn cancel(&self) {
        self.control.cancel(self.run);
    }
}

impl Running {
    pub(crate) fn start(sandbox: &Sandbox, request: init::Request) -> Result<Self, Error> {
        let (helper, run) = sandbox.helpers.begin(&sandbox.config.helper, request)?;
        Ok(Self { helper, run, helpers: Arc::clone(&sandbox.helpers) })
    }

    /// A handle to stop the run with.
    pub fn canceller(&self) -> Canceller {
        Canceller { control: Arc::clone(self.helper.control()), run: self.run }
    }

    /// Waits, blocking, until the command has ended and nothing of the run is left.
    pub fn wait(mut self) -> Result<Exit, Error> {
        match self.helper.reply()? {
            init::Reply::Exit { mut exit, reusable } => {
                self.helper.account(&mut exit)?;
                if reusable {
                    self.helpers.keep(self.helper);
                }
                Ok(exit)
            }
            init::Reply::Failed(failure) => Err(failure.into()),
            init::Reply::Permitted(_) => Err(Error::Helper { what: "answered a probe".into(), source: None }),
        }
    }

    /// The helper's process id, for those who watch processes.
    pub fn helper_id(&self) -> u32 {
        self.helper.id()
    }

    pub(crate) fn reply(mut self) -> Result<init::Reply, Error> {
        self.helper.reply()
    }
}
