//! An action that sleeps under a name of its own, so that its process can be told from every other.

use bytes::Bytes;
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

/// An action that runs `sleep` under another name and then says that it is rested.
pub struct Nap {
    action: Digest,
    /// All that it needs, itself last.
    pub blobs: Vec<(Digest, Bytes)>,
}

impl Nap {
    /// Runs it as `marker` for so many seconds.
    pub fn new(marker: &str, seconds: u32) -> Self {
        Self::running(marker, &format!("./{marker} {seconds}; echo rested"), true)
    }

    /// Runs a script that may call `sleep` as `./marker`.
    fn running(marker: &str, script: &str, do_not_cache: bool) -> Self {
        let mut blobs = Vec::new();
        let mut keep = |bytes: Bytes| {
            let digest = Digest::of(DigestFunction::Sha256, &bytes);
            blobs.push((digest, bytes));
            digest
        };
        let sleep = keep(std::fs::read("/bin/sleep").unwrap().into());
        let file = FileNode { name: marker.into(), digest: sleep, is_executable: true, properties: None };
        let root = keep(encode_directory(&Directory { files: vec![file], ..Default::default() }));
        let command = mortar_model::Command {
            arguments: vec!["/bin/sh".into(), "-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            ..Default::default()
        };
        let action = Action {
            command_digest: keep(encode_command(&command)),
            input_root_digest: root,
            timeout: None,
            do_not_cache,
            platform: None::<Platform>,
        };
        Self { action: keep(encode_action(&action)), blobs }
    }

    /// That it is executed.
    pub fn request(&self) -> ExecuteRequest {
        ExecuteRequest { action_digest: self.action, skip_cache_lookup: true, priority: 0 }
    }
}

/// Uploads an action that runs `sleep` as `marker` for so many seconds and then says that it is rested.
pub async fn upload_nap(remote: &Remote, marker: &str, seconds: u32) -> Digest {
    let nap = Nap::new(marker, seconds);
    put_all(remote, &nap.blobs).await;
    nap.action
}

/// Uploads an action that runs this script, which may call `sleep` as `./marker`.
pub async fn upload(remote: &Remote, marker: &str, script: &str, do_not_cache: bool) -> Digest {
    let nap = Nap::running(marker, script, do_not_cache);
    put_all(remote, &nap.blobs).await;
    nap.action
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

/// Uploads blobs one by one.
pub async fn put_all(remote: &Remote, blobs: &[(Digest, Bytes)]) {
    for (digest, bytes) in blobs {
        remote.write(&Context::internal(), *digest, Blob::bytes(bytes.clone())).await.unwrap();
    }
}
