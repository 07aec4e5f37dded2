//! A disk without space left: a small file system in memory, in a namespace of its own that takes the mount away
//! with it.

use crate::fixture::{PLENTY, config, context, fetch, files, fresh, is_present, until};
use mortar_model::{BlobStore, BlobStoreExt, Kind, Range};
use mortar_store::DiskStore;
use mortar_testkit::faults;
use std::process::Command;

const CHILD: &str = "MORTAR_STORE_TEST_FULL_DISK";

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    run(Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["full_disk::inside_the_namespace", "--exact", "--nocapture"])
        .env(CHILD, directory.path()));
}

/// Does nothing but as the child of the test above.
#[tokio::test]
async fn inside_the_namespace() {
    let Some(mount) = std::env::var_os(CHILD) else { return };
    let mount = std::path::Path::new(&mount);
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(mount));
    let store = DiskStore::open(config(mount, PLENTY)).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        let (digest, bytes) = fresh(1_000_000);
        match store.write(&context(), digest, faults::claiming(digest.size(), bytes.clone())).await {
            Ok(()) => kept.push((digest, bytes)),
            Err(error) => {
                assert!(!is_present(&*store, digest).await);
                break error;
            }
        }
        assert!(kept.len() < 5, "a file system of 4 MiB took 5 MB");
    };
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
    assert!(!error.to_string().contains(mount.to_str().unwrap()), "{error}");
    until("the unfinished file is gone", || files(&mount.join("tmp")).is_empty()).await;
    for (digest, bytes) in kept {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    let (small, bytes) = fresh(10_000);
    store.write_bytes(&context(), small, bytes).await.unwrap();
}
