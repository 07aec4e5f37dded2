//! The entries of the operations' journal; see `proto/mortar/execution/v1/execution.proto`.

use crate::{
    digest_function, digest_to_wire, execution_extras as wire, function_to_wire, metadata, required,
    required_digest,
};
use bytes::Bytes;
use mortar_model::{Context, ExecuteRequest, InstanceName, Result, context::Operation};
use prost::Message;
use std::sync::Arc;

/// What is written down.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An operation that is to be taken up after a restart. Its name is in the context.
    Begun(Context, ExecuteRequest),
    /// A worker has it.
    Started,
    /// It need not be kept any longer.
    Ended,
}

/// As it is written.
pub fn to_bytes(number: u64, entry: &Entry) -> Vec<u8> {
    use wire::journal_entry::What;
    let what = match entry {
        Entry::Begun(context, request) => What::Begun(wire::Begun {
            operation: context.operation.as_ref().map(|operation| operation.name.clone()).unwrap_or_default(),
            instance_name: context.instance.to_string(),
            digest_function: function_to_wire(request.action_digest.function()).into(),
            action_digest: Some(digest_to_wire(request.action_digest)),
            request_metadata: Some(metadata::to_wire(&context.request)),
            skip_cache_lookup: request.skip_cache_lookup,
            priority: request.priority,
        }),
        Entry::Started => What::Started(wire::Started {}),
        Entry::Ended => What::Ended(wire::Ended {}),
    };
    wire::JournalEntry { number, what: Some(what) }.encode_to_vec()
}

/// The number of the operation, and what was written of it.
pub fn from_bytes(bytes: Bytes) -> Result<(u64, Entry)> {
    use wire::journal_entry::What;
    let entry: wire::JournalEntry = crate::decode("JournalEntry", bytes)?;
    let what = match required("what", entry.what)? {
        What::Begun(begun) => {
            let function = digest_function(begun.digest_function)?;
            let request = begun.request_metadata.map(metadata::from_wire).unwrap_or_default();
            let operation = Operation { name: begun.operation, ..Operation::default() };
            let context = Context {
                instance: InstanceName::parse(&begun.instance_name)?,
                request: Arc::new(request),
                operation: Some(Arc::new(operation)),
                ..Context::default()
            };
            let request = ExecuteRequest {
                action_digest: required_digest("action_digest", function, begun.action_digest)?,
                skip_cache_lookup: begun.skip_cache_lookup,
                priority: begun.priority,
            };
            Entry::Begun(context, request)
        }
        What::Started(_) => Entry::Started,
        What::Ended(_) => Entry::Ended,
    };
    Ok((entry.number, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{Digest, DigestFunction, RequestMetadata};

    #[test]
    fn entries_come_back() {
        let operation = Operation { name: "operations/1".into(), ..Operation::default() };
        let request = RequestMetadata { target_id: "//a".into(), ..RequestMetadata::default() };
        let context = Context {
            instance: InstanceName::parse("main").unwrap_or_default(),
            request: Arc::new(request.clone()),
            operation: Some(Arc::new(operation.clone())),
            ..Context::default()
        };
        let action_digest = Digest::of(DigestFunction::Blake3, b"a");
        let asked = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: -3 };
        let bytes = to_bytes(7, &Entry::Begun(context, asked));
        let Ok((7, Entry::Begun(context, asked))) = from_bytes(bytes.into()) else { panic!("it is another") };
        assert_eq!((context.instance.as_str(), &*context.request), ("main", &request));
        assert_eq!(context.operation.as_deref(), Some(&operation));
        assert_eq!((asked.action_digest, asked.skip_cache_lookup, asked.priority), (action_digest, true, -3));
        for entry in [Entry::Started, Entry::Ended] {
            let read =
                from_bytes(to_bytes(8, &entry).into()).map(|(number, read)| format!("{number} {read:?}"));
            assert_eq!(read.ok(), Some(format!("8 {entry:?}")));
        }
        assert!(from_bytes(Bytes::from_static(&[255])).is_err());
    }
}
