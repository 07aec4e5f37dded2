//! The real clients without Mortar: what fails here is the harness or the machine, not the product.

use anyhow::Result;
use mortar_testkit::bazel::project::ABSEIL_STRINGS;
use mortar_testkit::bazel::{Bazel, Project};
use mortar_testkit::casd::Casd;
use mortar_testkit::ccache::Ccache;

#[test]
fn bazel_4_builds_the_mixed_workspace_alone() -> Result<()> {
    builds_alone(&Bazel::v4(&Project::mixed()?)?)
}

#[test]
fn bazel_2_builds_the_mixed_workspace_alone() -> Result<()> {
    builds_alone(&Bazel::v2(&Project::mixed()?)?)
}

/// Everything runs on this machine, and a second build has the same outputs.
fn builds_alone(bazel: &Bazel) -> Result<()> {
    let first = bazel.test(&[], &["//..."])?;
    let processes = first.success()?;
    assert_eq!(processes.local(), processes.spawns(), "{processes:?}");
    assert!(processes.spawns() > 30, "{processes:?}");
    assert_eq!(bazel.output("gen/upper.txt")?, "MORTAR\n");
    let outputs = bazel.outputs()?;
    bazel.clean()?;
    assert!(!bazel.has_output("gen/upper.txt"));
    bazel.test(&[], &["//..."])?.success()?;
    assert_eq!(outputs.differences(&bazel.outputs()?), Vec::<String>::new());
    let failing = bazel.build(&[], &["//manual:fails"])?;
    assert!(failing.failure()?.contains("said on stderr"));
    Ok(())
}

#[test]
fn the_repository_rule_runs_alone() -> Result<()> {
    let bazel = Bazel::v4(&Project::repository_rule()?)?;
    bazel.build(&["--experimental_repo_remote_exec"], &["//:answer"])?.success()?;
    let answer = bazel.output("answer.txt")?;
    assert!(answer.starts_with("hello\n") && answer.contains("/external/asked\n"), "{answer}");
    Ok(())
}

#[test]
fn abseil_is_there_and_can_be_asked() -> Result<()> {
    let bazel = Bazel::v4(&Project::debian("abseil")?)?;
    let libraries = bazel.query(ABSEIL_STRINGS)?;
    assert!(libraries.contains(&"//absl/strings:strings".to_owned()), "{libraries:?}");
    Ok(())
}

#[test]
fn casd_listens() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let casd = Casd::server(dir.path())?;
    assert!(casd.grpc().starts_with("grpc://127.0.0.1:"));
    Ok(())
}

#[test]
fn ccache_counts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("a.c");
    std::fs::write(&source, "int answer(void) { return 42; }\n")?;
    // Nothing listens there: ccache goes on without its remote storage, and counts that.
    let ccache = Ccache::new("http://127.0.0.1:1/")?;
    assert!(!ccache.compile(&source)?.is_empty());
    let statistics = ccache.statistics()?;
    assert_eq!(statistics.get("remote_storage_error"), Some(&1), "{statistics:?}");
    Ok(())
}
