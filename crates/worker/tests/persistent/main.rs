//! Persistent workers: real processes in real sandboxes, asked one action after the other.
#![allow(clippy::unwrap_used)]

mod lab;
mod life;
mod requests;
mod troubles;

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

#[test]
fn an_ordinary_user_gets_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // The tests of this binary again, as somebody who is not root, over copies that such a one may reach.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (scratch, itself) = (directory.path().join("tmp"), directory.path().join("tests"));
    fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(&scratch, Some(65534), Some(65534)).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &itself).unwrap();
    let helper = directory.path().join("helper");
    fs::copy(env!("CARGO_BIN_EXE_mortar-worker-sandbox"), &helper).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&itself)
        .env("TMPDIR", &scratch)
        .env("MORTAR_TEST_HELPER", &helper)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
