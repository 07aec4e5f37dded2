//! Bazel 2.1.0 on the small workspace: executor, gRPC cache and HTTP cache.

use anyhow::Result;
use mortar_testkit::bazel::{Bazel, Project};

use crate::{assert_all_cached, assert_all_local, assert_all_remote, up};

#[test]
fn builds_and_tests_remotely() -> Result<()> {
    let mut bazel = Bazel::v2(&Project::mixed()?)?;
    assert_all_local(bazel.test(&[], &["//..."])?.success()?);
    let local = bazel.outputs()?;
    bazel.clean()?;

    let server = up()?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_remote(bazel.test(&[], &["//..."])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());

    bazel.clean()?;
    assert_all_cached(bazel.test(&[], &["//..."])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());

    bazel.clean()?;
    assert_all_cached(bazel.build(&["--experimental_remote_download_minimal"], &["//..."])?.success()?);
    Ok(())
}

#[test]
fn uses_the_caches() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v2(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_cache={}", server.mortar.grpc())]);
    assert_all_local(bazel.build(&[], &["//..."])?.success()?);
    let local = bazel.outputs()?;
    // What was stored over one protocol is served over the other.
    for url in [server.mortar.grpc(), server.mortar.http()] {
        bazel.clean()?;
        bazel.set_flags(&[&format!("--remote_cache={url}")]);
        assert_all_cached(bazel.build(&[], &["//..."])?.success()?);
        assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
    }
    Ok(())
}
