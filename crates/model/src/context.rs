//! What every call carries: for whom, on whose behalf, until when. Passed, never ambient.

use crate::{ActionKey, Digest, Error, Result};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The circumstances of one call.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The instance that was addressed.
    pub instance: InstanceName,
    /// Who asks, and for which build.
    pub request: Arc<RequestMetadata>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// What "present" is to mean.
    pub promise: Promise,
    /// What is to become of a blob that was lost.
    pub lost: Lost,
    /// The operation that this is done for, where a client watches one.
    pub operation: Option<Arc<Operation>>,
    /// The inputs of this execution may still be on their way.
    pub inputs_follow: Option<InputsFollow>,
    /// The action that this is about, where its whole digest is known: a key has no size, and some servers want one.
    pub action: Option<Digest>,
}

/// Inputs that are uploaded while the execution that needs them has been asked for already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputsFollow {
    session: Arc<str>,
    /// How long they may take to be there.
    pub patience: Duration,
}

impl InputsFollow {
    /// The longest name of a session.
    const LONGEST_NAME: usize = 64;

    /// The uploads that `session` names, a random name which their client chose, within `patience`.
    pub fn new(session: &str, patience: Duration) -> Result<Self> {
        let fits = (1..=Self::LONGEST_NAME).contains(&session.len());
        if !fits || !session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            let shown: String = session.chars().take(Self::LONGEST_NAME).collect();
            let message = format!(
                "the name of the upload session is `{}`; expected 1 to {} letters, digits, `-` and `_`",
                shown.escape_default(),
                Self::LONGEST_NAME
            );
            return Err(Error::invalid("session", message));
        }
        Ok(Self { session: session.into(), patience })
    }

    /// The same with no more patience than this.
    #[must_use]
    pub fn at_most(self, patience: Duration) -> Self {
        Self { patience: self.patience.min(patience), ..self }
    }

    /// Its name.
    pub fn session(&self) -> &str {
        &self.session
    }
}

/// A long-running operation, as far as those need to know it who work for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Its name, the same before and after a restart of the server.
    pub name: String,
    /// It was on a worker when an earlier run of the server ended.
    pub was_running: bool,
    /// Somebody wants it to end at once, and not only waits no longer.
    pub unwanted: Unwanted,
}

/// A mark that is set once.
#[derive(Debug, Default)]
pub struct Unwanted(AtomicBool);

impl Unwanted {
    /// Sets it.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Unwanted {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.is_set()))
    }
}

impl PartialEq for Unwanted {
    fn eq(&self, other: &Self) -> bool {
        self.is_set() == other.is_set()
    }
}

impl Eq for Unwanted {}

impl Context {
    /// The digest of the action with this key, if it is the one that this is about.
    pub fn digest_of(&self, key: ActionKey) -> Option<Digest> {
        self.action.filter(|action| ActionKey::from(*action) == key)
    }

    /// A context of the default instance without a caller; for work that the server does by itself.
    pub fn internal() -> Self {
        Self::default()
    }

    /// As `internal`, for a look that promises nothing.
    pub fn glance() -> Self {
        Self { promise: Promise::Glance, ..Self::default() }
    }

    /// This context for another instance.
    pub fn with_instance(mut self, instance: InstanceName) -> Self {
        self.instance = instance;
        self
    }
}

/// How long what is called present must stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promise {
    /// For the lease: the caller builds on the answer.
    #[default]
    Lease,
    /// Only now: a look that must not keep anything alive.
    Glance,
}

/// What is to become of a blob that was lost although the action is known that makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// The caller is told that it is missing: it writes blobs itself, or must not wait for other executions.
    #[default]
    Told,
    /// It is made again where somebody can do that: a read waits for it, and a search for missing blobs counts it as
    /// present without waiting. For callers that read what they were told is there.
    Remade,
}

/// The name of an instance: segments divided by `/`, none of them a keyword of resource names. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// Words that mark the parts of a resource name and so may not be segments.
    pub const KEYWORDS: [&'static str; 8] = [
        "blobs",
        "uploads",
        "actions",
        "actionResults",
        "operations",
        "capabilities",
        "compressed-blobs",
        "chunks",
    ];
    /// The longest name accepted, in bytes.
    pub const MAX_LENGTH: usize = 255;

    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self> {
        let refuse =
            |why: String| Err(Error::invalid("instance_name", format!("instance name `{name}` {why}")));
        if name.len() > Self::MAX_LENGTH {
            let (shown, length) = (name.chars().take(32).collect::<String>(), name.len());
            let why = format!(
                "instance name `{shown}…` has {length} bytes; at most {} are accepted",
                Self::MAX_LENGTH
            );
            return Err(Error::invalid("instance_name", why));
        }
        if name.chars().any(char::is_control) {
            return refuse("holds a control character".into());
        }
        for segment in name.split('/').filter(|_| !name.is_empty()) {
            if segment.is_empty() || segment == "." || segment == ".." {
                return refuse(format!(
                    "has a segment `{segment}`; expected names divided by single slashes"
                ));
            }
            if Self::KEYWORDS.contains(&segment) {
                return refuse(format!("has the segment `{segment}`, a keyword of resource names"));
            }
        }
        Ok(Self(name.into()))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What clients tell of themselves with each call; all of it may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMetadata {
    /// The program, such as `bazel`.
    pub tool_name: String,
    /// Its version.
    pub tool_version: String,
    /// The action on whose behalf the call is made.
    pub action_id: String,
    /// One run of the tool: an invocation.
    pub tool_invocation_id: String,
    /// What ties several invocations together.
    pub correlated_invocations_id: String,
    /// The kind of action, such as `CppCompile`.
    pub action_mnemonic: String,
    /// The label of the target.
    pub target_id: String,
    /// The configuration of the target.
    pub configuration_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names() {
        for good in ["", "main", "a/b", "project-1/eu"] {
            assert_eq!(InstanceName::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(256);
        for bad in ["/", "a//b", "a/", "/a", "a/blobs", "uploads", "a/../b", "a\nb", &long] {
            assert!(InstanceName::parse(bad).is_err(), "{bad}");
        }
    }
}
