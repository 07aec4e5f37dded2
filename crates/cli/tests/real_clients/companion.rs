//! Bazel 4.2.3 through a companion: what it builds is upstream in the end, and a second build asks nobody.

use crate::{
    MORTAR, assert_all_cached, assert_all_local, assert_all_remote, up,
    upstream::{Asked, upstream},
};
use anyhow::{Result, ensure};
use mortar_testkit::{
    bazel::{Bazel, Project},
    mortar::{self, Mortar},
    process,
};
use std::{path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(3 * 3600);
/// Some of every kind.
const TARGETS: &[&str] = &["//cpp/...", "//gen/...", "//rules/...", "//shell/..."];

fn companion(directory: &Path, upstream: &str) -> Result<Mortar> {
    Mortar::start(MORTAR, "companion", directory, &["--upstream", upstream])
}

/// What `mortar companion VERB` prints about a directory.
pub fn ask(directory: &Path, verb: &[&str]) -> Result<String> {
    let mut command = mortar::command(Path::new(MORTAR), "companion");
    let finished = process::run(command.args(verb).arg("--dir").arg(directory), LIMIT)?;
    ensure!(finished.status.success(), "{verb:?}: {}", finished.stderr);
    Ok(finished.stdout)
}

/// What it tells of itself.
pub fn status(directory: &Path) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&ask(directory, &["status", "--json"])?)?)
}

/// The worker of this machine is opened while the companion answers already.
pub fn wait_for_local_worker(directory: &Path) -> Result<()> {
    process::wait_until("the local worker is there", LIMIT, || {
        Ok((!status(directory)?["local_worker"].is_null()).then_some(()))
    })
}

#[test]
fn a_cache_through_a_companion() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let upstream = runtime.block_on(upstream(Some(LEASE)));
    let directory = tempfile::tempdir()?;
    let (near, other) = (directory.path().join("near"), directory.path().join("other"));
    let first = companion(&near, &upstream.url)?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_cache={}", first.grpc())]);
    assert_all_local(bazel.build(&[], TARGETS)?.success()?);
    let local = bazel.outputs()?;
    ask(&near, &["flush"])?;
    let asked = upstream.watch.asked();
    assert!(asked.iter().any(|asked| matches!(asked, Asked::Put(_))), "{asked:?}");
    assert!(!asked.iter().any(|asked| matches!(asked, Asked::PutTooEarly(_))), "{asked:?}");

    // Nobody is asked anything.
    bazel.clean()?;
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    let asked = upstream.watch.asked();
    assert_eq!(asked, [], "a warm build asked the upstream");

    // On another machine all comes from the upstream.
    let second = companion(&other, &upstream.url)?;
    bazel.clean()?;
    bazel.set_flags(&[&format!("--remote_cache={}", second.grpc())]);
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    assert!(upstream.watch.asked().iter().any(|asked| matches!(asked, Asked::Read(_))));

    // And without an upstream, all is here.
    drop(upstream);
    drop(runtime);
    bazel.clean()?;
    bazel.set_flags(&[&format!("--remote_cache={}", first.grpc())]);
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn execution_through_a_companion() -> Result<()> {
    let mut server = up()?;
    let directory = tempfile::tempdir()?;
    let near = companion(directory.path(), &server.mortar.grpc())?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", near.grpc())]);
    assert_all_remote(bazel.build(&[], TARGETS)?.success()?);
    let first = bazel.outputs()?;
    ask(directory.path(), &["flush"])?;

    server.mortar.kill()?;
    bazel.clean()?;
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(first.differences(&bazel.outputs()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_wrapper_starts_the_companion() -> Result<()> {
    let server = up()?;
    let directory = tempfile::tempdir()?;
    let bazel = Bazel::v4(&Project::mixed()?)?;
    let workspace = bazel.workspace();
    let workspace = workspace.to_str().expect("temporary directories have plain names");
    ask(directory.path(), &["install", "--workspace", workspace, "--upstream", &server.mortar.grpc()])?;
    assert_all_local(bazel.build(&[], &["//gen/..."])?.success()?);
    bazel.clean()?;
    assert_all_cached(bazel.build(&[], &["//gen/..."])?.success()?);
    ask(directory.path(), &["flush"])?;
    let status = status(directory.path())?;
    assert!(status["upstreams"][0]["sent_results"].as_u64() > Some(0), "{status}");
    ask(directory.path(), &["stop"]).map(drop)
}
