//! Opaque values as records: what a purge takes along.

use crate::fixture::{HeldClock, context};
use mortar_model::{
    ActionKey, Clock, Context, Digest, DigestFunction, InstanceName, RequestMetadata, Values,
};
use mortar_store::{MemoryStore, NamedValues, Record, RecordKind, Records, Selection};
use std::time::Duration;

fn of(instance: &str, invocation: &str) -> Context {
    let request = RequestMetadata { tool_invocation_id: invocation.into(), ..RequestMetadata::default() };
    let context = context().with_instance(InstanceName::parse(instance).unwrap());
    Context { request: request.into(), ..context }
}

#[tokio::test]
async fn a_purge_takes_what_is_selected_and_nothing_else() {
    let clock = HeldClock::new();
    let start = clock.wall();
    let key = |byte| ActionKey { function: DigestFunction::Sha256, hash: [byte; 32] };
    // Half a minute off, since each value has a clock of its own.
    let after = |minutes: u64| start + Duration::from_secs(60 * minutes - 30);
    let selections = [
        (Selection::Instance(InstanceName::parse("team").unwrap()), vec![1]),
        (Selection::Instance(InstanceName::parse("").unwrap()), vec![0, 2]),
        (Selection::Invocation("i2".into()), vec![1, 2]),
        (Selection::Action(key(1)), vec![0, 1]),
        (Selection::StoredBefore(after(1)), vec![0]),
        (Selection::StoredBefore(after(9)), vec![0, 1, 2]),
        (Selection::Worker("w".into()), vec![]),
        (Selection::Needing(Digest::empty(DigestFunction::Sha256)), vec![]),
    ];
    for (selection, expected) in selections {
        let clock = HeldClock::new();
        let values = NamedValues::new(MemoryStore::new(1 << 20), clock.clone());
        let all = [(of("", "i1"), [1; 32]), (of("team", "i2"), [1; 32]), (of("", "i2"), [2; 32])];
        for (context, key) in &all {
            values.put(context, key, "value".into()).await.unwrap();
            clock.advance(60);
        }
        let count = expected.len() as u64;
        assert_eq!(values.purge(&selection, true).await.unwrap(), count, "{selection:?}");
        assert_eq!(values.purge(&selection, false).await.unwrap(), count, "{selection:?}");
        for (index, (context, key)) in all.iter().enumerate() {
            let there = values.get(context, key).await.unwrap().is_some();
            assert_eq!(there, !expected.contains(&index), "{selection:?}: value {index}");
        }
    }
}

#[tokio::test]
async fn what_is_no_value_is_unknown() {
    let store = MemoryStore::new(1 << 20);
    let values = NamedValues::new(store.clone(), HeldClock::new());
    values.put(&context(), &[1; 32], "value".into()).await.unwrap();
    let mut name = None;
    let mut all = store.all_records(RecordKind::Value);
    while let Some(record) = futures::StreamExt::next(&mut all).await {
        name = Some(record.unwrap().name);
    }
    let record = Record { kind: RecordKind::Value, name: name.unwrap(), content: "spoilt".into() };
    store.put_records(&Context::internal(), vec![record]).await.unwrap();
    assert_eq!(values.get(&context(), &[1; 32]).await.unwrap(), None);
}
