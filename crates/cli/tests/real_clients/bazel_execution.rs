//! Bazel 4.2.3 with `--remote_executor` and nothing else: everything runs remotely, then everything is a hit, and the
//! outputs are those of a local build.

use anyhow::Result;
use mortar_testkit::bazel::project::ABSEIL_STRINGS;
use mortar_testkit::bazel::{Bazel, Build, Project};

use crate::{assert_all_cached, assert_all_local, assert_all_remote, up};

#[test]
fn the_mixed_workspace_builds_and_tests() -> Result<()> {
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    local_then_remote_then_cached(&mut bazel, |bazel, flags| bazel.test(flags, &["//..."]))?;
    assert!(bazel.output("rules/counted.txt").is_err(), "a minimal download brought an output");
    Ok(())
}

#[test]
fn abseil_strings_builds() -> Result<()> {
    let mut bazel = Bazel::v4(&Project::debian("abseil")?)?;
    let targets = bazel.query(ABSEIL_STRINGS)?;
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    local_then_remote_then_cached(&mut bazel, |bazel, flags| bazel.build(flags, &targets))
}

fn local_then_remote_then_cached(
    bazel: &mut Bazel,
    run: impl Fn(&Bazel, &[&str]) -> Result<Build>,
) -> Result<()> {
    assert_all_local(run(bazel, &[])?.success()?);
    let local = bazel.outputs()?;
    bazel.clean()?;

    let server = up()?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_remote(run(bazel, &[])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());

    bazel.clean()?;
    assert_all_cached(run(bazel, &[])?.success()?);
    assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());

    for flag in ["--remote_download_toplevel", "--remote_download_minimal"] {
        bazel.clean()?;
        assert_all_cached(run(bazel, &[flag])?.success()?);
    }
    Ok(())
}

#[test]
fn what_fails_is_told_and_not_cached() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    for _ in 0..2 {
        let build = bazel.build(&[], &["//manual:fails"])?;
        let said = build.failure()?;
        assert!(said.contains("Exit 7") && said.contains("said on stderr"), "{said}");
        assert!(said.contains("said on stdout"), "{said}");
    }
    for _ in 0..2 {
        let test = bazel.test(&["--test_output=errors"], &["//manual:fails_test"])?;
        let said = test.failure()?;
        assert!(said.contains("this test fails by design"), "{said}");
        let processes = test.processes.as_ref().expect("it ran");
        assert_eq!(processes.local(), 0, "{processes:?}");
        assert!(processes.remote() > 0, "the failed test came from the cache: {processes:?}");
    }
    Ok(())
}

#[test]
fn what_may_not_be_cached_runs_again() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..2 {
        assert_all_remote(bazel.build(&[], &["//manual:clock"])?.success()?);
        times.insert(bazel.output("manual/clock.txt")?);
        bazel.clean()?;
    }
    assert_eq!(times.len(), 2, "the same clock twice: {times:?}");
    Ok(())
}

#[test]
fn actions_see_declared_inputs_only_and_may_make_links() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_remote(bazel.test(&[], &["//shell:hermetic_test"])?.success()?);
    for check in [crate::assert_all_remote, crate::assert_all_cached] {
        check(bazel.build(&[], &["//manual:link"])?.success()?);
        assert_eq!(bazel.output("manual/link.txt")?, "target\n");
        bazel.clean()?;
    }
    Ok(())
}
