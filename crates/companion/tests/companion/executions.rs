//! Executions go upstream with what the upstream lacks, and nothing else; what comes back is kept.

use crate::{
    LEASE, Running, context, fresh, has, run, settings, until,
    upstream::{Asked, output_of, upstream, upstream_that_waits},
    wrote,
};
use mortar_model::{
    Action, ActionCache, BlobStoreExt, Command, Context, Digest, DigestFunction, DigestSet, Directory,
    ExecuteRequest, Executor, FileNode, Forget, Kind, Outcome, RequestMetadata, Result, action::Outputs,
};
use mortar_testkit::network::{Link, State};
use mortar_wire::{encode_action, encode_command, encode_directory};
use std::{sync::Arc, time::Duration};

/// An action over one file, all of whose blobs but the file are written. With all of them.
pub async fn action(running: &Running, file: Digest) -> (Digest, Vec<Digest>) {
    let node = FileNode { name: "input".into(), digest: file, is_executable: false, properties: None };
    let root = encode_directory(&Directory { files: vec![node], ..Directory::default() });
    let outputs = Outputs::Paths(vec!["out".into()]);
    let command = encode_command(&Command { arguments: vec!["true".into()], outputs, ..Command::default() });
    let digest = |bytes: &[u8]| Digest::of(DigestFunction::Sha256, bytes);
    let action = encode_action(&Action {
        command_digest: digest(&command),
        input_root_digest: digest(&root),
        timeout: None,
        do_not_cache: false,
        platform: None,
    });
    let mut all = vec![file];
    for bytes in [root, command, action.clone()] {
        running.client.write_bytes(&context(), digest(&bytes), bytes.clone()).await.unwrap();
        all.push(digest(&bytes));
    }
    (digest(&action), all)
}

pub async fn execute(running: &Running, action_digest: Digest, skip_cache_lookup: bool) -> Result<Outcome> {
    let request = ExecuteRequest { action_digest, skip_cache_lookup, priority: 0 };
    running.client.execute(&context(), request, &()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_go_first_and_only_once() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (file, _) = running.put(1_000).await;
    let (digest, all) = action(&running, file).await;
    let outcome = execute(&running, digest, false).await.unwrap();
    assert!(!outcome.cached && outcome.result.stdout_digest == Some(digest));
    let asked = upstream.watch.asked();
    let at = asked.iter().position(|asked| *asked == Asked::Executed(digest)).unwrap();
    assert_eq!(wrote(&asked[..at]), all.len(), "{asked:?}");
    for blob in all {
        assert!(has(&*upstream.store, blob).await);
    }
    // Once more: the same inputs are known to be there, and the result is here.
    until("the result is kept", async || running.companion.store_stats().results == 1).await;
    assert!(execute(&running, digest, false).await.unwrap().cached);
    assert!(!execute(&running, digest, true).await.unwrap().cached);
    // Its own server reads what it sends along.
    let mut asked = upstream.watch.asked();
    asked.retain(|asked| !matches!(asked, Asked::Read(_)));
    assert_eq!(asked, [Asked::Executed(digest)]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let unknown = fresh(1_000).0;
    let (digest, _) = action(&running, unknown).await;
    for (action, expected) in [(digest, unknown), (unknown, unknown)] {
        let error = execute(&running, action, false).await.unwrap_err();
        let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
        assert_eq!(*missing, [expected]);
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_lost_is_sent_again() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (file, _) = running.put(1_000).await;
    let (digest, _) = action(&running, file).await;
    execute(&running, digest, true).await.unwrap();
    running.flush().await;
    assert!(upstream.store.forget(&context(), digest).await.unwrap());
    execute(&running, digest, true).await.unwrap();
    assert!(has(&*upstream.store, digest).await);
    running.end().await;
}

/// An upstream that waits for inputs is asked before they are there, so that the two cost one way; what comes back is here
/// before the client asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_follow_the_call_and_outputs_come_with_the_answer() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream_that_waits(LEASE).await);
    let (relay, url) = crate::away::relayed(&upstream);
    let running = run(settings(directory.path(), &url)).await;
    // What the upstream offers is known from an execution before.
    let (before, _) = action(&running, running.put(1_000).await.0).await;
    execute(&running, before, false).await.unwrap();
    running.flush().await;
    upstream.watch.asked();
    // What is missing cannot be there before twice this, and the call is, unless it waits for that.
    relay.set(Link::with_latency(Duration::from_millis(300)));
    let (file, _) = running.put(100_000).await;
    let (digest, all) = action(&running, file).await;
    let result = execute(&running, digest, false).await.unwrap().result;
    let asked = upstream.watch.asked();
    let executed = asked.iter().position(|asked| *asked == Asked::Executed(digest)).unwrap();
    let arrived = asked.iter().position(|asked| *asked == Asked::Wrote(file)).unwrap();
    assert!(executed < arrived, "{asked:?}");
    // The command is the same as before. What is small is not asked for.
    assert_eq!(wrote(&asked), all.len() - 1, "{asked:?}");
    let small = |asked: &Asked| matches!(asked, Asked::Missing(of) if *of != DigestSet::from_iter([file]));
    assert!(!asked.iter().any(small), "{asked:?}");
    relay.set(Link { state: State::BlackHole, ..Link::default() });
    let (output, bytes) = output_of(digest);
    assert_eq!(result.files[0].digest, output);
    assert_eq!(running.client.read_all(&context(), output, 1 << 20).await.unwrap(), bytes);
    relay.set(Link::default());
    running.flush().await;
    running.end().await;
}

/// What was known to be there and is not is found out although the upstream would wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_that_waits_lost_is_sent_again() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream_that_waits(LEASE).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    let (file, _) = running.put(1_000).await;
    let (digest, _) = action(&running, file).await;
    execute(&running, digest, true).await.unwrap();
    running.flush().await;
    assert!(upstream.store.forget(&context(), digest).await.unwrap());
    execute(&running, digest, true).await.unwrap();
    assert!(has(&*upstream.store, digest).await);
    running.end().await;
}

/// Looks an action up and has it executed, as Bazel does.
async fn build(running: &Running, digest: Digest) -> Outcome {
    let request = RequestMetadata {
        tool_invocation_id: "a build".into(),
        action_mnemonic: "Genrule".into(),
        ..RequestMetadata::default()
    };
    let context = Context { request: Arc::new(request), ..context() };
    assert!(running.client.get(&context, digest.into()).await.unwrap().is_none());
    let request = ExecuteRequest { action_digest: digest, skip_cache_lookup: false, priority: 0 };
    running.client.execute(&context, request, &()).await.unwrap()
}

/// While everything is made anew, the upstream is not asked first for what it executes then anyway; a hit ends that.
#[tokio::test(flavor = "multi_thread")]
async fn look_ups_that_find_nothing_are_left_to_the_executions() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream_that_waits(LEASE).await);
    let running = run(settings(directory.path(), &upstream.url)).await;
    running.client.capabilities(&context()).await.unwrap();
    let looked_up = |digest: Digest| Asked::Got(digest.into());
    let mut asked_first = Vec::new();
    for _ in 0..6 {
        let (digest, _) = action(&running, running.put(1_000).await.0).await;
        upstream.watch.asked();
        assert!(!build(&running, digest).await.cached);
        let asked = upstream.watch.asked();
        assert_eq!(asked.iter().filter(|asked| **asked == Asked::Executed(digest)).count(), 1);
        asked_first.push(asked.contains(&looked_up(digest)));
    }
    assert_eq!(asked_first, [true, true, true, false, false, false]);
    // Somebody else has made one of them meanwhile: it costs one call, and the next is asked for again.
    let (digest, _) = action(&running, running.put(1_001).await.0).await;
    upstream.watch.answer_as_cached(digest);
    assert!(build(&running, digest).await.cached);
    let (digest, _) = action(&running, running.put(1_002).await.0).await;
    upstream.watch.asked();
    build(&running, digest).await;
    assert!(upstream.watch.has(&looked_up(digest)));
    running.end().await;
}
