//! A repository rule with `remotable = True` runs on a worker; a second workspace gets it from the cache.

use anyhow::Result;
use mortar_testkit::bazel::{Bazel, Project};

use crate::up;

#[test]
fn a_repository_rule_runs_remotely_and_is_shared() -> Result<()> {
    let server = up()?;
    let first = answer(&server.mortar.grpc())?;
    assert!(first.starts_with("hello\n") && first.ends_with("\naside\n"), "{first}");
    assert!(!first.contains("/external/asked"), "it ran on this machine: {first}");
    // It tells the time in nanoseconds: only the same run can have said the same.
    assert_eq!(answer(&server.mortar.grpc())?, first);
    Ok(())
}

/// What the command said to a new workspace.
fn answer(url: &str) -> Result<String> {
    let mut bazel = Bazel::v4(&Project::repository_rule()?)?;
    bazel.set_flags(&["--experimental_repo_remote_exec", &format!("--remote_executor={url}")]);
    bazel.build(&[], &["//:answer"])?.success()?;
    bazel.output("answer.txt")
}
