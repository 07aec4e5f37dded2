//! Many calls at the same time.

use crate::{
    LEASE, context,
    executions::action,
    options, run, settings, until,
    upstream::{Asked, output_of, upstream},
};
use mortar_model::{BlobStoreExt, Digest, DigestFunction, ExecuteRequest, Executor};
use mortar_remote::Endpoint;
use std::collections::HashSet;

const STREAMS: usize = 2_000;
const CLIENTS: usize = 20;

/// Each on a stream of its own here, and on one upstream.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_executions_wait_at_the_same_time_and_all_are_answered() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let url = running.client.endpoint().to_string();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Endpoint::connect(&url, options()).unwrap()).collect();
    let mut actions = Vec::with_capacity(STREAMS);
    for number in 0..STREAMS {
        let input = format!("input {number}").into_bytes();
        let digest = Digest::of(DigestFunction::Sha256, &input);
        running.client.write_bytes(&context(), digest, input.into()).await.unwrap();
        actions.push(action(&running, digest).await.0);
    }
    running.flush().await;

    upstream.watch.asked();
    upstream.watch.hold(true);
    let execute = |(number, action_digest): (usize, Digest)| {
        let client = clients[number % CLIENTS].clone();
        tokio::spawn(async move {
            let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
            client.execute(&context(), request, &()).await
        })
    };
    let executing: Vec<_> = actions.iter().copied().enumerate().map(execute).collect();
    let mut waiting = HashSet::new();
    let all_wait = std::cell::RefCell::new(&mut waiting);
    until("all wait upstream", async || {
        let mut waiting = all_wait.borrow_mut();
        waiting.extend(upstream.watch.asked().into_iter().filter_map(|asked| match asked {
            Asked::Executed(action) => Some(action),
            _ => None,
        }));
        waiting.len() == STREAMS
    })
    .await;
    assert!(executing.iter().all(|execution| !execution.is_finished()));
    upstream.watch.hold(false);
    for (action, execution) in actions.into_iter().zip(executing) {
        let outcome = execution.await.unwrap().unwrap();
        assert_eq!(outcome.result.files[0].digest, output_of(action).0);
    }
    running.end().await;
}
