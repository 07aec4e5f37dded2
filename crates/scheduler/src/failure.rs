//! An error that can be told to several waiters. [`Error`] owns its source and so cannot be cloned; of the source
//! this keeps the text, which is all that a waiter would show.

use mortar_model::{Error, Kind};
use std::{error::Error as _, fmt, sync::Arc};

/// Why an execution has no outcome. Cheap to clone, and small in the channels that carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(Arc<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    kind: Kind,
    cause: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind) -> Self {
        Self(Arc::new(Parts { kind, cause: None, hint: None }))
    }

    /// What kind of failure.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Whether another worker may well succeed. What is wrong with the request or its blobs is wrong everywhere.
    pub fn is_the_workers(&self) -> bool {
        match &self.0.kind {
            Kind::Io { .. }
            | Kind::Internal { .. }
            | Kind::Unavailable { .. }
            | Kind::Aborted { .. }
            // Nobody asked for it: an attempt that the scheduler cancelled is not waited for.
            | Kind::Cancelled { .. } => true,
            Kind::ResourceExhausted { retry_after, .. } => retry_after.is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Arc::new(Parts {
            kind: error.kind().clone(),
            cause: error.source().map(ToString::to_string),
            hint: error.get_hint().map(str::to_owned),
        }))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Parts { kind, cause, hint } = Arc::unwrap_or_clone(failure.0);
        let mut error = Error::new(kind);
        if let Some(cause) = cause {
            error = error.with_source(cause);
        }
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_the_same_after_the_way_through() {
        let refused = std::io::Error::other("disk on fire");
        let error = Error::io("staging `a.c`", refused).hint("replace the disk");
        let before = error.to_string();
        let failure = Failure::from(error);
        assert_eq!(failure.to_string(), "staging `a.c` failed: disk on fire");
        assert_eq!(Error::from(failure).to_string(), before);
    }
}
