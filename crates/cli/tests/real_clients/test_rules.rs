//! What Bazel 4.2.3 knows of tests, through remote execution: shards, attempts of flaky ones, repeated runs, time limits;
//! and actions that no worker can run.

use anyhow::{Context, Result};
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::mortar::{Mortar, Worker};

use crate::{MORTAR, assert_all_remote, figures, wait_for};

/// What Bazel says of a test that is out of the cache. The action that makes `test.xml` of its log may run all the same:
/// it is told how many seconds the test took, and that is 0 for one that did not run.
const CACHED: &str = "(cached) PASSED";

/// All with one warm Bazel.
#[test]
fn tests_and_their_ends_are_told_as_for_local_ones() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::start(MORTAR, "up", &dir.path().join("data"), &["--start-grace", "1s"])?;
    let trusting = ["--isolation", "none", "--property", "isolation=none"];
    let _trusting = Worker::start(MORTAR, &server.grpc(), &dir.path().join("trusting"), &trusting)?;
    wait_for(&server, "two workers", |executions| executions["workers"] == 2)?;
    let mut bazel = Bazel::v4(&Project::executing()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.grpc()), "--test_output=all"]);

    shards_run_and_are_cached(&bazel)?;
    runs_are_repeated(&bazel)?;
    a_flaky_test_passes(&bazel, &dir.path().join("flaky"))?;
    the_log_of_a_test_that_times_out_is_shown(&bazel, &server)?;
    what_nobody_can_run_fails_with_words(&bazel, &server)
}

/// What Bazel said, on both streams.
fn said(build: &Build) -> String {
    format!("{}{}", build.finished.stdout, build.finished.stderr)
}

fn shards_run_and_are_cached(bazel: &Bazel) -> Result<()> {
    for cached in [false, true] {
        let build = bazel.test(&[], &["//:sharded_test"])?;
        let (processes, said) = (build.success()?, said(&build));
        assert_eq!(processes.local(), 0, "{processes:?}");
        for shard in 0..3 {
            let ran = format!("shard {shard} of 3 ran");
            assert_eq!(said.matches(&ran).count(), 1, "{said}");
        }
        assert_eq!(said.contains(CACHED), cached, "{said}");
        bazel.clean()?;
    }
    Ok(())
}

/// Each of them runs: Bazel names their outputs apart.
fn runs_are_repeated(bazel: &Bazel) -> Result<()> {
    let build = bazel.test(&["--runs_per_test=3"], &["//:repeated_test"])?;
    assert_all_remote(build.success()?);
    let said = said(&build);
    assert_eq!(said.matches("the repeated test runs").count(), 3, "{said}");
    for run in 1..=3 {
        let heading = format!("Test output for //:repeated_test (run {run} of 3)");
        assert_eq!(said.matches(&heading).count(), 1, "{said}");
    }
    assert!(said.contains("Stats over 3 runs"), "{said}");
    Ok(())
}

fn a_flaky_test_passes(bazel: &Bazel, state: &std::path::Path) -> Result<()> {
    let state = format!("--test_env=FLAKY_STATE={}", state.display());
    let build = bazel.test(&[&state], &["//:flaky_test"])?;
    assert_all_remote(build.success()?);
    let said = said(&build);
    assert!(said.contains("FLAKY, failed in 1 out of 2"), "{said}");
    assert_eq!(said.matches("an attempt begins").count(), 2, "the log of each attempt: {said}");
    // The attempt that failed is not what is known of it.
    bazel.clean()?;
    let again = bazel.test(&[&state], &["//:flaky_test"])?;
    again.success()?;
    let stdout = &again.finished.stdout;
    assert!(stdout.contains(CACHED) && !stdout.contains("FLAKY"), "{stdout}");
    Ok(())
}

fn the_log_of_a_test_that_times_out_is_shown(bazel: &Bazel, server: &Mortar) -> Result<()> {
    let flags = ["--test_timeout=1", "--test_output=errors"];
    let build = bazel.test(&flags, &["//:endless_test"])?;
    let said = build.failure()?;
    for needle in ["TIMEOUT", "said before the end", "said on stderr"] {
        assert!(said.contains(needle), "`{needle}`: {said}");
    }
    let processes = build.processes.as_ref().context("it ran")?;
    assert_eq!(processes.local(), 0, "{processes:?}");
    wait_for(server, "an idle server", |executions| executions["running"] == 0)
}

fn what_nobody_can_run_fails_with_words(bazel: &Bazel, server: &Mortar) -> Result<()> {
    let before = figures(server)?["executions"]["executed"].clone();
    let said = bazel.build(&[], &["//:misplaced"])?.failure()?;
    let needles =
        ["cannot be run here: no pool offers what it asks for: the nearest, `", "lacks `colour=octarine`"];
    for needle in needles {
        assert!(said.contains(needle), "`{needle}`: {said}");
    }
    assert_eq!(figures(server)?["executions"]["executed"], before, "nothing ran");
    Ok(())
}
