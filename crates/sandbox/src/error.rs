//! Why a command could not be run. That a command failed is no error: that is its [`crate::Exit`].

use std::io;

/// What went wrong before, or around, the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or this user's rights do not permit the isolation that was asked for.
    #[error(
        "the sandbox could not be set up: {step}: {source}; isolation `namespaces` needs user, mount, pid, ipc, \
         uts and network namespaces"
    )]
    Setup {
        /// Which step.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper process did not do its part.
    #[error("the sandbox's helper process {what}")]
    Helper {
        /// What it did instead.
        what: String,
        /// What the kernel said, if it was asked.
        source: Option<io::Error>,
    },
    /// The request makes no sense.
    #[error("the request to the sandbox is malformed: {0}")]
    Spec(String),
}

impl Error {
    pub(crate) fn helper(what: impl Into<String>, source: io::Error) -> Self {
        Self::Helper { what: format!("{}: {source}", what.into()), source: Some(source) }
    }
}
