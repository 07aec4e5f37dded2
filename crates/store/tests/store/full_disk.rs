//! A disk without space left: a small file system in memory, in a namespace of its own that takes the mount away
//! with it.

use crate::fixture::{MIB, config, context, fetch, fresh, is_present, put, unfinished, until};
use bytes::Bytes;
use mortar_model::{BlobStore, BlobStoreExt, Digest, Kind, Range};
use mortar_store::DiskStore;
use mortar_testkit::faults;
use std::{
    process::Command,
    time::{Duration, Instant},
};

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
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(mount));
    // Larger than the disk, and small enough to leave most of that for content.
    let store = DiskStore::open(config(mount, 16 * MIB)).unwrap();
    let kept = [put(&*store, 1_000_000).await, put(&*store, 100_000).await];
    // Somebody else takes the rest of the disk, quicker than the store looks.
    let foreign = mount.join("foreign");
    let _ = std::io::copy(&mut std::io::repeat(7), &mut std::fs::File::create(&foreign).unwrap());
    for length in [3_000_000, 300_000, 100_000, 10_000] {
        let (digest, bytes) = fresh(length);
        let written = store.write(&context(), digest, faults::claiming(digest.size(), bytes)).await;
        let error = written.expect_err("there is no space");
        assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
        assert!(!error.to_string().contains(mount.to_str().unwrap()), "{error}");
        assert!(!is_present(&*store, digest).await);
    }
    until("unfinished files are gone", || unfinished(mount).is_empty()).await;
    for (digest, bytes) in kept {
        assert_eq!(fetch(&*store, digest, Range::ALL).await.unwrap(), bytes);
    }
    std::fs::remove_file(foreign).unwrap();
    let (digest, bytes) = fresh(10_000);
    // The store looks at the free space now and then.
    until_written(&store, digest, bytes).await;
}

async fn until_written(store: &DiskStore, digest: Digest, bytes: Bytes) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.write_bytes(&context(), digest, bytes.clone()).await {
        assert!(Instant::now() < deadline, "{error}");
    }
}
