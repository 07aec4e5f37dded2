//! An action of Bazel's runs in an image made by debootstrap, with a compiler that the host need not have.

use anyhow::Result;
use mortar_testkit::{
    bazel::{Bazel, Project},
    tools,
};
use std::process::Command;

use crate::{MORTAR, assert_all_remote, up};

#[test]
fn an_action_uses_the_toolchain_of_its_image() -> Result<()> {
    let image = tools::debian_image()?;
    let server = up()?;
    let import = Command::new(MORTAR)
        .args(["image", "import"])
        .arg(image)
        .args(["debian-tcc", "--dir"])
        .arg(server._dir.path().join("data"))
        .output()?;
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let mut bazel = Bazel::v4(&Project::image()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_remote(bazel.build(&[], &["//:answer"])?.success()?);
    assert_eq!(bazel.output("answer.txt")?, "made by tcc\n");
    Ok(())
}
