//! A companion before a server that is not Mortar, buildbox-casd: Bazel 4.2.3, which would refuse that server, builds with
//! it as its cache.

use crate::{
    MORTAR, assert_all_cached, assert_all_local,
    companion::{ask, status},
};
use anyhow::{Context, Result};
use mortar_testkit::{
    bazel::{Bazel, Project},
    casd::Casd,
    mortar::Mortar,
};
use std::path::Path;

/// No directories: of a tree, buildbox-casd gives a result only if each Directory message in it was uploaded as well, which
/// no Bazel does.
const TARGETS: &[&str] = &["//cpp/...", "//gen/...", "//shell/..."];

#[test]
fn what_is_built_here_is_found_there_through_a_foreign_server() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [server, near, other] = ["server", "near", "other"].map(|name| directory.path().join(name));
    let casd = Casd::server(&server)?;
    let companion =
        |directory: &Path| Mortar::start(MORTAR, "companion", directory, &["--upstream", &casd.grpc()]);
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    let mut build = |companion: &Mortar| -> Result<_> {
        bazel.clean()?;
        bazel.set_flags(&[&format!("--remote_cache={}", companion.grpc())]);
        let processes = bazel.build(&[], TARGETS)?.success()?.clone();
        Ok((processes, bazel.outputs()?))
    };
    let first = companion(&near)?;
    let (processes, built) = build(&first)?;
    assert_all_local(&processes);
    ask(&near, &["flush"]).with_context(|| casd.log().unwrap_or_default())?;
    let status = status(&near)?;
    assert!(status["upstreams"][0]["sent_results"].as_u64() > Some(0), "{status}");

    // One that has nothing finds all of it there.
    let second = companion(&other)?;
    let (processes, found) = build(&second)?;
    assert_all_cached(&processes);
    assert_eq!(built.differences(&found), Vec::<String>::new());
    for one in [&first, &second] {
        assert!(!one.log()?.contains(" WARN "), "{}", one.log()?);
    }
    Ok(())
}
