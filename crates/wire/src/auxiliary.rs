//! What of our own travels in the `auxiliary_metadata` of executions: what they used, and why they wait. Others pass it over.

use crate::{duration_to_wire, execution_extras as wire, time::timestamp_from_wire, timestamp_to_wire};
use mortar_model::{ExecutionMetadata, PersistentWorker, Usage, Waiting};
use prost::Message;
use prost_types::Any;
use std::{sync::Arc, time::Duration};

const USAGE: &str = "type.googleapis.com/mortar.execution.v1.Usage";
const PERSISTENT_WORKER: &str = "type.googleapis.com/mortar.execution.v1.PersistentWorker";
const WAITING: &str = "type.googleapis.com/mortar.execution.v1.Waiting";

/// As messages hold it.
pub(crate) fn to_wire(metadata: &ExecutionMetadata) -> Vec<Any> {
    let usage = metadata.usage.map(|usage| any(USAGE, &usage_to_wire(&usage)));
    let waiting = metadata.waiting.as_deref().map(|waiting| {
        let message = wire::Waiting {
            reason: waiting.reason.to_string(),
            ahead: waiting.ahead,
            since: Some(timestamp_to_wire(waiting.since)),
        };
        any(WAITING, &message)
    });
    let persistent = metadata
        .persistent_worker
        .map(|PersistentWorker { requests }| any(PERSISTENT_WORKER, &wire::PersistentWorker { requests }));
    usage.into_iter().chain(persistent).chain(waiting).collect()
}

/// What is known of it is taken in; all else, and what cannot be read, is left out.
pub(crate) fn from_wire(messages: &[Any], metadata: &mut ExecutionMetadata) {
    for message in messages {
        match message.type_url.as_str() {
            USAGE => {
                let usage = wire::Usage::decode(message.value.as_slice());
                metadata.usage = usage.ok().map(usage_from_wire).or(metadata.usage);
            }
            PERSISTENT_WORKER => {
                let read = wire::PersistentWorker::decode(message.value.as_slice()).ok();
                metadata.persistent_worker =
                    read.map(|wire::PersistentWorker { requests }| PersistentWorker { requests });
            }
            WAITING => {
                let waiting = wire::Waiting::decode(message.value.as_slice()).ok();
                metadata.waiting = waiting.and_then(|waiting| {
                    let (reason, ahead) = (waiting.reason.into(), waiting.ahead);
                    Some(Arc::new(Waiting { reason, ahead, since: timestamp_from_wire(waiting.since)? }))
                });
            }
            _ => {}
        }
    }
}

fn usage_to_wire(usage: &Usage) -> wire::Usage {
    wire::Usage {
        user_time: Some(duration_to_wire(usage.user)),
        system_time: Some(duration_to_wire(usage.system)),
        peak_memory: usage.peak_memory,
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes,
    }
}

fn usage_from_wire(usage: wire::Usage) -> Usage {
    let duration = |told: Option<prost_types::Duration>| {
        told.and_then(|told| Duration::try_from(told).ok()).unwrap_or_default()
    };
    Usage {
        user: duration(usage.user_time),
        system: duration(usage.system_time),
        peak_memory: usage.peak_memory,
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes,
    }
}

fn any(url: &str, message: &impl Message) -> Any {
    Any { type_url: url.into(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_is_ours_comes_back_and_what_is_not_is_passed_over() {
        let usage = Usage {
            user: Duration::from_millis(1_500),
            system: Duration::from_millis(20),
            peak_memory: 1 << 40,
            read_bytes: 1,
            written_bytes: 2,
        };
        let waiting = Waiting { reason: "since".into(), ahead: 7, since: SystemTime::UNIX_EPOCH };
        let metadata = ExecutionMetadata {
            usage: Some(usage),
            persistent_worker: Some(PersistentWorker { requests: 3 }),
            waiting: Some(Arc::new(waiting)),
            ..ExecutionMetadata::default()
        };
        let mut messages = to_wire(&metadata);
        messages.insert(0, Any { type_url: "type.googleapis.com/other".into(), value: vec![1] });
        messages.push(Any { type_url: USAGE.into(), value: vec![255] });
        let mut read = ExecutionMetadata::default();
        from_wire(&messages, &mut read);
        assert_eq!(read, metadata);
    }
}
