//! Builds that survive `kill -9` of a worker and of the server.

use std::time::Duration;

use anyhow::Result;
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::mortar::{Mortar, Worker};
use mortar_testkit::process::Running;

use crate::{MORTAR, assert_all_remote, up};

/// Until the first action runs: Bazel starts and analyses meanwhile.
const BUSY: Duration = Duration::from_secs(120);

#[test]
fn another_worker_takes_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::server(MORTAR, &dir.path().join("server"))?;
    let mut first = Worker::start(MORTAR, &server.grpc(), &dir.path().join("first"), &[])?;
    let (bazel, running) = start_slow_build(&server)?;
    first.wait_until_it_runs("sleep", BUSY)?;
    let _second = Worker::start(MORTAR, &server.grpc(), &dir.path().join("second"), &[])?;
    first.kill()?;
    assert_finishes(&bazel, running)
}

#[test]
fn a_server_with_its_worker_comes_back() -> Result<()> {
    let mut server = up()?;
    let (bazel, running) = start_slow_build(&server.mortar)?;
    server.mortar.wait_until_it_runs("sleep", BUSY)?;
    server.mortar.kill()?;
    server.mortar.restart()?;
    assert_finishes(&bazel, running)
}

#[test]
fn a_worker_outlives_its_server() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Mortar::server(MORTAR, &dir.path().join("server"))?;
    let worker = Worker::start(MORTAR, &server.grpc(), &dir.path().join("worker"), &[])?;
    let (bazel, running) = start_slow_build(&server)?;
    worker.wait_until_it_runs("sleep", BUSY)?;
    server.kill()?;
    server.restart()?;
    assert_finishes(&bazel, running)
}

/// Four actions that sleep, started in the background.
fn start_slow_build(server: &Mortar) -> Result<(Bazel, Running)> {
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.grpc())]);
    let running = bazel.start("build", &[], &["//manual:slow"])?;
    Ok((bazel, running))
}

fn assert_finishes(bazel: &Bazel, running: Running) -> Result<()> {
    assert_all_remote(Build::of(running)?.success()?);
    for number in 0..4 {
        assert_eq!(bazel.output(&format!("manual/slow_{number}.txt"))?, format!("slow {number}\n"));
    }
    Ok(())
}
