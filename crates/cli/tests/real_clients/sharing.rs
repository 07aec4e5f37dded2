//! Two Bazels on one server: a long build does not keep a short one waiting, and one that its user stops with Ctrl-C
//! leaves nothing running.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::mortar::{Mortar, runs_anywhere};
use mortar_testkit::process::{self, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::{MORTAR, assert_all_remote, figures, wait_for};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_long_build_lets_a_short_one_through_and_ends_at_ctrl_c() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::start(MORTAR, "up", dir.path(), &["--slots", "1"])?;
    let long = bazel(&server, &["--jobs=120"])?;
    let short = bazel(&server, &[])?;
    // The short one is warm when it begins.
    let analysed = short.build(&["--nobuild"], &["//:few"])?.finished;
    ensure!(analysed.status.success(), "{}", analysed.stderr);
    let building = long.start("build", &[], &["//:many"])?;
    wait_for(&server, "a long queue", |executions| executions["queued"].as_u64() > Some(100))?;

    assert_all_remote(short.build(&[], &["//:few"])?.success()?);
    // Were they served in the order in which they came, nothing of the long one were left by now.
    let executions = figures(&server)?["executions"].clone();
    let (queued, executed) = (executions["queued"].as_u64(), executions["executed"].as_u64());
    assert!(queued > Some(40), "the short build waited for the long one: {executions}");
    // Nor is the long one kept waiting by the other.
    assert!(executed > Some(4), "{executions}");

    let stopped = Instant::now();
    building.signal(Signal::INT)?;
    assert_idle(&server)?;
    println!("idle {:?} after Ctrl-C", stopped.elapsed());
    assert_interrupted(&Build::of(building)?);
    Ok(())
}

#[test]
fn ctrl_c_leaves_no_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::up(MORTAR, dir.path())?;
    let nap = format!("nap{}", std::process::id());
    let bazel = bazel(&server, &[&format!("--action_env=NAP={nap}")])?;
    let building = bazel.start("build", &[], &["//:endless"])?;
    server.wait_until_it_runs(&nap, LIMIT)?;
    let stopped = Instant::now();
    building.signal(Signal::INT)?;
    wait_until("the end of the action", LIMIT, || Ok((!runs_anywhere(&nap)?).then_some(())))?;
    assert_idle(&server)?;
    println!("nothing runs {:?} after Ctrl-C", stopped.elapsed());
    assert_interrupted(&Build::of(building)?);
    Ok(())
}

fn bazel(server: &Mortar, flags: &[&str]) -> Result<Bazel> {
    let mut bazel = Bazel::v4(&Project::executing()?)?;
    let executor = format!("--remote_executor={}", server.grpc());
    bazel.set_flags(&[&[executor.as_str()], flags].concat());
    Ok(bazel)
}

/// Waits until nothing runs or waits, and no operation is open.
fn assert_idle(server: &Mortar) -> Result<()> {
    wait_for(server, "an idle server", |executions| executions["queued"] == 0 && executions["running"] == 0)?;
    let mut list = mortar_testkit::mortar::command(MORTAR.as_ref(), "operations");
    let listed = process::run(list.args(["list", "--json", "--server", &server.grpc()]), LIMIT)?;
    ensure!(listed.status.success(), "{}", listed.stderr);
    let listed: Value = serde_json::from_str(&listed.stdout)?;
    assert_eq!(listed["operations"], Value::Array(Vec::new()));
    Ok(())
}

fn assert_interrupted(build: &Build) {
    let finished = &build.finished;
    assert_eq!(finished.status.code(), Some(8), "{}", finished.stderr);
}
