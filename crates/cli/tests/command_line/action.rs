//! An action that sleeps under a name of its own, so that its process can be told from every other.

use mortar_model::{
    Action, Blob, BlobStore, Context, Digest, DigestFunction, Directory, ExecuteRequest, Executor, FileNode,
    Outcome, Platform,
};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_wire::{encode_action, encode_command, encode_directory};
use std::sync::atomic::{AtomicU32, Ordering};

/// A client that tries nothing twice.
pub fn client(url: &str) -> Remote {
    Endpoint::connect(url, Options { retry: Retry::NEVER, ..Options::default() }).unwrap()
}

/// A name that no other process on this machine has, in the 15 bytes that the kernel keeps.
pub fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("nap{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Uploads an action that runs `sleep` as `marker` for so many seconds and then says that it is rested.
pub async fn upload_nap(remote: &Remote, marker: &str, seconds: u32) -> Digest {
    upload(remote, marker, &format!("./{marker} {seconds}; echo rested"), true).await
}

/// Uploads an action that runs this script, which may call `sleep` as `./marker`.
pub async fn upload(remote: &Remote, marker: &str, script: &str, do_not_cache: bool) -> Digest {
    let sleep = put(remote, std::fs::read("/bin/sleep").unwrap()).await;
    let file = FileNode { name: marker.into(), digest: sleep, is_executable: true, properties: None };
    let root = put(remote, encode_directory(&Directory { files: vec![file], ..Default::default() })).await;
    let command = mortar_model::Command {
        arguments: vec!["/bin/sh".into(), "-c".into(), script.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        ..Default::default()
    };
    let action = Action {
        command_digest: put(remote, encode_command(&command)).await,
        input_root_digest: root,
        timeout: None,
        do_not_cache,
        platform: None::<Platform>,
    };
    put(remote, encode_action(&action)).await
}

/// Runs an action to its end.
pub async fn execute(remote: &Remote, action_digest: Digest) -> mortar_model::Result<Outcome> {
    let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
    remote.execute(&Context::internal(), request, &()).await
}

/// Uploads bytes.
pub async fn put(remote: &Remote, bytes: impl Into<bytes::Bytes>) -> Digest {
    let bytes = bytes.into();
    let digest = Digest::of(DigestFunction::Sha256, &bytes);
    remote.write(&Context::internal(), digest, Blob::bytes(bytes)).await.unwrap();
    digest
}
