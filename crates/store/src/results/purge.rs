//! Removes many results at once: those of an action, an instance, a worker, an invocation, of a certain age, or all that
//! need a certain blob. Reads every record of a result; meant for people, not for requests.

use super::{
    Results,
    record::{Head, Refusal},
};
use crate::records::{self, RecordKind};
use bytes::Bytes;
use mortar_model::{ActionKey, Digest, InstanceName, Result};
use std::time::SystemTime;

/// Which results are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those of one action, in all instances.
    Action(ActionKey),
    /// Those of one instance.
    Instance(InstanceName),
    /// Those stored before this time.
    StoredBefore(SystemTime),
    /// Those that a worker made, by its name.
    Worker(String),
    /// Those that an invocation stored.
    Invocation(String),
    /// Those that cannot be used without this blob.
    Needing(Digest),
}

impl Selection {
    fn takes(&self, head: &Head) -> bool {
        match self {
            Self::Action(key) => head.named.key == *key,
            Self::Instance(instance) => head.named.instance == *instance,
            Self::StoredBefore(time) => head.stored < *time,
            Self::Worker(worker) => head.worker == *worker,
            Self::Invocation(invocation) => head.invocation == *invocation,
            Self::Needing(digest) => head.closure.contains(digest),
        }
    }
}

impl Results {
    /// Removes the selected results, durably; how many there were. What is put meanwhile may stay. A result that is
    /// replaced at this moment may go with the one that it replaces: then the action runs once more.
    pub async fn purge(&self, selection: &Selection) -> Result<u64> {
        records::purge(&*self.records, RecordKind::Result, false, |content| takes(selection, content)).await
    }

    /// How many results a purge would remove.
    pub async fn count(&self, selection: &Selection) -> Result<u64> {
        records::purge(&*self.records, RecordKind::Result, true, |content| takes(selection, content)).await
    }
}

/// What cannot be understood is left to whoever looks it up next, who drops it.
fn takes(selection: &Selection, content: Bytes) -> bool {
    Head::decode(content)
        .map(|(head, _)| selection.takes(&head))
        .inspect_err(|why: &Refusal| tracing::warn!("a kept action result cannot be understood: {why}"))
        .unwrap_or(false)
}
