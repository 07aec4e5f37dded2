//! Bazel 4.2.3 through a companion that runs actions itself: while its server is away, in races, and to compare.

use crate::{
    MORTAR, assert_all_cached, assert_all_remote,
    companion::{ask, status, wait_for_local_worker},
    up,
};
use anyhow::Result;
use mortar_testkit::{
    bazel::{Bazel, Project},
    mortar::Mortar,
    network::{Link, Relay, State},
};
use serde_json::Value;
use std::{fs, path::Path};

const TARGETS: &[&str] = &["//cpp/...", "//gen/...", "//rules/...", "//shell/..."];

fn companion(directory: &Path, upstream: &str, local_worker: &str) -> Result<Mortar> {
    let flags = ["--upstream", upstream, "--local-worker", local_worker];
    let companion = Mortar::start(MORTAR, "companion", directory, &flags)?;
    wait_for_local_worker(directory)?;
    Ok(companion)
}

fn count(status: &Value, name: &str) -> u64 {
    status["local_worker"][name].as_u64().unwrap_or_default()
}

#[test]
fn begun_online_continued_offline_finished_online() -> Result<()> {
    let (server, directory) = (up()?, tempfile::tempdir()?);
    let relay = Relay::start(server.mortar.address(), Link::default())?;
    let near = companion(directory.path(), &format!("grpc://{}", relay.address()), "fallback")?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", near.grpc())]);
    assert_all_remote(bazel.build(&[], &["//cpp/..."])?.success()?);
    assert_eq!(count(&status(directory.path())?, "ran"), 0, "the server was there");

    relay.change(|link| link.state = State::Down);
    relay.reset();
    assert_all_remote(bazel.build(&[], &["//gen/...", "//shell/..."])?.success()?);
    let offline = status(directory.path())?;
    assert!(count(&offline, "ran") > 0, "{offline}");

    relay.change(|link| link.state = State::Up);
    bazel.build(&[], TARGETS)?.success()?;
    let built = bazel.outputs()?;
    ask(directory.path(), &["flush"])?;

    // Everything is upstream now.
    bazel.clean()?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(built.differences(&bazel.outputs()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn races_are_won_and_fill_the_cache() -> Result<()> {
    let (server, directory) = (up()?, tempfile::tempdir()?);
    let near = companion(directory.path(), &server.mortar.grpc(), "race")?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", near.grpc())]);
    let build = bazel.build(&[], TARGETS)?;
    let processes = build.success()?;
    // Of two equal actions the second may find the first one's result.
    assert_eq!(processes.remote() + processes.cached(), processes.spawns(), "{processes:?}");
    let raced = status(directory.path())?;
    let ended = ["won_here", "won_upstream", "unraced"].map(|name| count(&raced, name)).iter().sum::<u64>();
    assert!(ended > 0 && count(&raced, "won_here") + count(&raced, "won_upstream") > 0, "{raced}");
    let built = bazel.outputs()?;
    ask(directory.path(), &["flush"])?;
    bazel.clean()?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_cached(bazel.build(&[], TARGETS)?.success()?);
    assert_eq!(built.differences(&bazel.outputs()?), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_is_not_reproducible_is_told() -> Result<()> {
    let (server, directory) = (up()?, tempfile::tempdir()?);
    let near = companion(directory.path(), &server.mortar.grpc(), "compare")?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    let package = bazel.workspace().join("unsteady");
    fs::create_dir(&package)?;
    fs::write(
        package.join("BUILD"),
        "genrule(name = 'time', outs = ['time.txt'], cmd = 'cat /proc/sys/kernel/random/uuid > $@')\n",
    )?;
    bazel.set_flags(&[&format!("--remote_executor={}", near.grpc())]);
    assert_all_remote(bazel.build(&[], &["//gen/...", "//unsteady/..."])?.success()?);
    let compared = status(directory.path())?;
    assert!(count(&compared, "same") > 0, "{compared}");
    assert_eq!(count(&compared, "different"), 1, "{compared}");
    let report = &compared["local_worker"]["not_reproducible"][0];
    assert_eq!(report["mnemonic"], "Genrule", "{report}");
    let difference = report["differences"][0].as_str().unwrap_or_default();
    assert!(difference.contains("unsteady/time.txt"), "{difference}");
    Ok(())
}
