//! Executions go upstream with what the upstream lacks, and nothing else; what comes back is kept.

use crate::{
    LEASE, Running, context, fresh, has, run, settings, until,
    upstream::{Asked, upstream},
    wrote,
};
use mortar_model::{
    Action, BlobStoreExt, Command, Digest, DigestFunction, Directory, ExecuteRequest, Executor, FileNode,
    Forget, Kind, Outcome, Result,
};
use mortar_wire::{encode_action, encode_command, encode_directory};

/// An action over one file, all of whose blobs but the file are written. With all of them.
async fn action(running: &Running, file: Digest) -> (Digest, Vec<Digest>) {
    let node = FileNode { name: "input".into(), digest: file, is_executable: false, properties: None };
    let root = encode_directory(&Directory { files: vec![node], ..Directory::default() });
    let command = encode_command(&Command { arguments: vec!["true".into()], ..Command::default() });
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

async fn execute(running: &Running, action_digest: Digest, skip_cache_lookup: bool) -> Result<Outcome> {
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
    let mut asked = upstream.watch.asked();
    // That one reads the log for itself, to put it into its answer.
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
