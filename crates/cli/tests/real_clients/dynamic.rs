//! Dynamic execution of Bazel 4.2.3: each action runs here and there at the same time, and the first to end wins.

use anyhow::Result;
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::mortar::Mortar;

use crate::{MORTAR, assert_all_cached, figures, wait_for};

/// Bazel stops the one that is slower. What a worker has lost so far it ends all the same, while the build goes on: the
/// next build finds it.
#[test]
fn the_faster_wins_and_losers_fill_the_cache() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::start(MORTAR, "up", &dir.path().join("data"), &["--slots", "4"])?;
    let mut bazel = Bazel::v4(&Project::executing()?)?;
    let signal = dir.path().join("signal");
    let environment = format!("--action_env=SIGNAL={}", signal.display());
    bazel.set_flags(&[&format!("--remote_executor={}", server.grpc()), &environment]);
    let targets = ["//:local_wins", "//:remote_wins"];
    let racing = [
        "--internal_spawn_scheduler",
        "--spawn_strategy=dynamic",
        "--strategy=Genrule=dynamic",
        "--dynamic_local_strategy=sandboxed",
        "--dynamic_remote_strategy=remote",
        "--experimental_local_execution_delay=0",
    ];
    let building = bazel.start("build", &racing, &targets)?;
    wait_for(&server, "both on a worker", |executions| executions["running"] == 2)?;
    std::fs::write(&signal, "")?;
    let build = Build::of(building)?;
    let processes = build.success()?;
    assert_eq!((processes.local(), processes.remote()), (1, 1), "{processes:?}");
    let executions = figures(&server)?["executions"].clone();
    assert_eq!((&executions["executed"], &executions["cancelled"]), (&2.into(), &0.into()), "{executions}");
    assert_outputs(&bazel)?;

    bazel.clean()?;
    assert_all_cached(bazel.build(&[], &targets)?.success()?);
    assert_outputs(&bazel)
}

fn assert_outputs(bazel: &Bazel) -> Result<()> {
    assert_eq!(bazel.output("local_wins.txt")?, "local wins\n");
    assert_eq!(bazel.output("remote_wins.txt")?, "remote wins\n");
    Ok(())
}
