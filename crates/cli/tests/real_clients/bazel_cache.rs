//! Bazel 4.2.3 runs, Mortar caches: over gRPC and over HTTP.

use anyhow::Result;
use mortar_testkit::bazel::project::ABSEIL_STRINGS;
use mortar_testkit::bazel::{Bazel, Project};

use crate::{assert_all_cached, assert_all_local, up};

#[test]
fn over_grpc() -> Result<()> {
    let server = up()?;
    caches(&server.mortar.grpc())
}

#[test]
fn over_http() -> Result<()> {
    let server = up()?;
    caches(&server.mortar.http())
}

#[test]
fn abseil_strings_over_both() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v4(&Project::debian("abseil")?)?;
    let targets = bazel.query(ABSEIL_STRINGS)?;
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    bazel.set_flags(&[&format!("--remote_cache={}", server.mortar.grpc())]);
    assert_all_local(bazel.build(&[], &targets)?.success()?);
    let local = bazel.outputs()?;
    // What was stored over one protocol is served over the other.
    for url in [server.mortar.grpc(), server.mortar.http()] {
        bazel.clean()?;
        bazel.set_flags(&[&format!("--remote_cache={url}")]);
        assert_all_cached(bazel.build(&[], &targets)?.success()?);
        assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    }
    Ok(())
}

fn caches(url: &str) -> Result<()> {
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_cache={url}")]);
    assert_all_local(bazel.build(&[], &["//..."])?.success()?);
    let local = bazel.outputs()?;
    let first = bazel.test(&[], &["//..."])?;
    let ran = first.success()?.spawns();

    bazel.clean()?;
    assert_all_cached(bazel.build(&[], &["//..."])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());

    // The action that writes a test's XML carries the test's duration in whole seconds, and that is zero now: where
    // a test took a second on a busy machine, this one action runs again.
    let second = bazel.test(&[], &["//..."])?;
    let processes = second.success()?;
    assert_eq!(processes.spawns(), ran, "{processes:?}");
    assert!(processes.cached() >= ran / 2, "the tests themselves must be hits: {processes:?}");

    for flag in ["--remote_download_toplevel", "--remote_download_minimal"] {
        bazel.clean()?;
        assert_all_cached(bazel.build(&[flag], &["//..."])?.success()?);
    }
    Ok(())
}
