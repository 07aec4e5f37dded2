//! What a user of Bazel 4.2.3 sees of trouble with the infrastructure: the log of an action that failed after its first
//! worker was lost is fetched, and its place told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::mortar::{Mortar, Worker};

use crate::MORTAR;

/// Until the action runs: Bazel starts and analyses meanwhile.
const BUSY: Duration = Duration::from_secs(120);

const BUILD: &str = r#"
genrule(
    name = "fails",
    outs = ["fails.txt"],
    cmd = "sleep 10; echo no luck >&2; exit 1",
)
"#;

#[test]
fn the_log_of_a_failing_action_is_fetched() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::server(MORTAR, &dir.path().join("server"))?;
    let mut first = Worker::start(MORTAR, &server.grpc(), &dir.path().join("first"), &["--name", "first"])?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    let package = bazel.workspace().join("trouble");
    std::fs::create_dir(&package)?;
    std::fs::write(package.join("BUILD"), BUILD)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.grpc()), "--verbose_failures"]);
    let running = bazel.start("build", &[], &["//trouble:fails"])?;
    first.wait_until_it_runs("sleep", BUSY)?;
    let _second = Worker::start(MORTAR, &server.grpc(), &dir.path().join("second"), &["--name", "second"])?;
    first.kill()?;
    let told = Build::of(running)?.failure()?;
    ensure!(told.contains("no luck"), "{told}");
    let (_, after) = told.split_once("Server logs of failing action:").context(told.clone())?;
    let path = after.split_whitespace().next().context("no path follows")?;
    let log = std::fs::read_to_string(path).with_context(|| format!("`{path}`: {told}"))?;
    for needle in [
        "target: //trouble:fails\n",
        "attempt 1: worker `first` was lost",
        "worker `second` ran it to its end, with exit code 1\n",
    ] {
        ensure!(log.contains(needle), "`{needle}`: {log}");
    }
    Ok(())
}
