//! The one error of the house: a closed kind with typed fields, an optional hint, an optional source.

use crate::{Digest, LogFile};
use std::{fmt, time::Duration};

/// What failed, on which thing, and perhaps what to do.
#[derive(Debug)]
pub struct Error {
    kind: Box<Kind>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Few errors have any, and all errors travel by value.
    #[allow(clippy::box_collection)]
    logs: Option<Box<Vec<(String, LogFile)>>>,
}

/// Every way to fail. Code, blame and retry are exhaustive matches over it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Kind {
    /// The request is malformed, whatever the state of the server.
    #[error("{message}")]
    InvalidArgument {
        /// The field at fault.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// Content does not have the digest under which it was sent or stored.
    #[error("the content does not match its digest: expected {expected}, got {actual}")]
    Mismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The digest, or size, that came.
        actual: String,
        /// Whose content it is.
        source_of_content: Blame,
    },
    /// No such thing.
    #[error("{what} `{name}` was not found")]
    NotFound {
        /// What kind of thing, such as `blob`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An execution lacks blobs that the client may upload.
    #[error("{} of the action's blobs are missing from the CAS, first `{}`", missing.len(), first(missing))]
    MissingBlobs {
        /// All that are known to be missing.
        missing: Vec<Digest>,
    },
    /// The system is in no state for the request.
    #[error("{message}")]
    FailedPrecondition {
        /// What is not as it must be.
        message: String,
    },
    /// An offset or limit beyond the end.
    #[error("{message}")]
    OutOfRange {
        /// Both numbers.
        message: String,
    },
    /// A limit of the server that the client was told, or a full queue or disk.
    #[error("{message}")]
    ResourceExhausted {
        /// Which resource, how much of it.
        message: String,
        /// When to come again; absent where repeating is of no use.
        retry_after: Option<Duration>,
    },
    /// Not reachable now.
    #[error("{message}")]
    Unavailable {
        /// What is not reachable.
        message: String,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// Took too long.
    #[error("{message}")]
    DeadlineExceeded {
        /// What took how long.
        message: String,
    },
    /// The caller went away or asked to stop.
    #[error("{message}")]
    Cancelled {
        /// What was stopped.
        message: String,
    },
    /// Somebody else was first, or the attempt lost its state.
    #[error("{message}")]
    Aborted {
        /// What happened.
        message: String,
    },
    /// Not for this caller.
    #[error("{message}")]
    PermissionDenied {
        /// What is not allowed.
        message: String,
    },
    /// Credentials are missing or wrong.
    #[error("{message}")]
    Unauthenticated {
        /// What is missing.
        message: String,
    },
    /// This server does not do that.
    #[error("{message}")]
    Unimplemented {
        /// What is not done.
        message: String,
    },
    /// Stored data is gone or damaged.
    #[error("{message}")]
    DataLoss {
        /// Which data.
        message: String,
    },
    /// The file system or the operating system refused.
    #[error("{action} failed")]
    Io {
        /// What was tried.
        action: String,
    },
    /// A defect of ours.
    #[error("{message}")]
    Internal {
        /// What should have held.
        message: String,
    },
}

fn first(missing: &[Digest]) -> String {
    missing.first().map(Digest::to_string).unwrap_or_default()
}

/// Whose fault it is, which decides who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request is wrong.
    Client,
    /// The server failed.
    Server,
    /// The world in between, or load: try again.
    Circumstance,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { kind: Box::new(kind), hint: None, source: None, logs: None }
    }

    /// A malformed request.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument { field: field.into(), message: message.into() })
    }

    /// Content that is not what its digest says.
    pub fn mismatch(expected: Digest, actual: String, source_of_content: Blame) -> Self {
        Self::new(Kind::Mismatch { expected, actual, source_of_content })
    }

    /// A thing that does not exist.
    pub fn not_found(what: &'static str, name: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound { what, name: name.to_string() })
    }

    /// A defect of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal { message: message.into() })
    }

    /// An error of the operating system.
    pub fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(Kind::Io { action: action.into() }).with_source(source)
    }

    /// A read that starts or ends past the end.
    pub fn past_end(digest: Digest, offset: u64) -> Self {
        let message =
            format!("offset {offset} is past the end of blob `{digest}` of {} bytes", digest.size());
        Self::new(Kind::OutOfRange { message })
    }

    /// Adds what to do; only where that is certain.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a log of the server about the execution that failed.
    #[must_use]
    pub fn with_log(mut self, name: impl Into<String>, log: LogFile) -> Self {
        self.logs.get_or_insert_default().push((name.into(), log));
        self
    }

    /// Logs of the server about the execution that failed, by name.
    pub fn logs(&self) -> &[(String, LogFile)] {
        self.logs.as_ref().map_or(&[], |logs| logs)
    }

    /// What kind of failure.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What to do, where that is certain.
    pub fn get_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match &*self.kind {
            Kind::InvalidArgument { .. }
            | Kind::NotFound { .. }
            | Kind::MissingBlobs { .. }
            | Kind::FailedPrecondition { .. }
            | Kind::OutOfRange { .. }
            | Kind::PermissionDenied { .. }
            | Kind::Unauthenticated { .. }
            | Kind::Unimplemented { .. } => Blame::Client,
            Kind::Mismatch { source_of_content, .. } => *source_of_content,
            Kind::ResourceExhausted { retry_after: None, .. } => Blame::Client,
            Kind::ResourceExhausted { retry_after: Some(_), .. }
            | Kind::Unavailable { .. }
            | Kind::DeadlineExceeded { .. }
            | Kind::Cancelled { .. }
            | Kind::Aborted { .. } => Blame::Circumstance,
            Kind::DataLoss { .. } | Kind::Io { .. } | Kind::Internal { .. } => Blame::Server,
        }
    }

    /// When the same call may be tried again; none where it would fail again.
    pub fn retry_after(&self) -> Option<Duration> {
        match &*self.kind {
            Kind::ResourceExhausted { retry_after, .. } | Kind::Unavailable { retry_after, .. } => {
                *retry_after
            }
            Kind::Aborted { .. } => Some(Duration::from_millis(100)),
            Kind::InvalidArgument { .. }
            | Kind::Mismatch { .. }
            | Kind::NotFound { .. }
            | Kind::MissingBlobs { .. }
            | Kind::FailedPrecondition { .. }
            | Kind::OutOfRange { .. }
            | Kind::DeadlineExceeded { .. }
            | Kind::Cancelled { .. }
            | Kind::PermissionDenied { .. }
            | Kind::Unauthenticated { .. }
            | Kind::Unimplemented { .. }
            | Kind::DataLoss { .. }
            | Kind::Io { .. }
            | Kind::Internal { .. } => None,
        }
    }

    /// Whether this says that something is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(&*self.kind, Kind::NotFound { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nHint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
