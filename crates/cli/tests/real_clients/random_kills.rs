//! Builds and tests of Bazel 4.2.3 while workers, the server, or all of them are killed at random: all end green, and the
//! outputs are those of a local build. The stream of smaller builds stands in `faults/kills.rs`.

use std::time::Duration;

use anyhow::{Context, Result};
use mortar_testkit::bazel::{Bazel, Build, Project};
use mortar_testkit::cluster::Cluster;
use mortar_testkit::process::{Running, wait_until};

use crate::{MORTAR, assert_all_local, figures};

/// As many as a build has time for; more on demand.
const KILLS: usize = 3;
const MORE_KILLS: &str = "MORTAR_BAZEL_KILLS";
/// How many actions end between two kills, at most.
const CALM: usize = 8;

#[test]
fn every_build_is_green_and_right() -> Result<()> {
    let kills = std::env::var(MORE_KILLS).map_or(Ok(KILLS), |kills| kills.parse())?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    assert_all_local(bazel.test(&[], &["//..."])?.success()?);
    let local = bazel.outputs()?;
    let mut builds = 0;
    let mut done = 0;
    while done < kills {
        bazel.clean()?;
        // A cache of its own, so that everything runs.
        let dir = tempfile::tempdir()?;
        let mut cluster = Cluster::start(MORTAR, dir.path(), 2)?;
        bazel.set_flags(&[&format!("--remote_executor={}", cluster.server().grpc())]);
        let building = bazel.start("test", &[], &["//..."])?;
        let build = strike_until_it_ends(&mut cluster, building, kills - done)?;
        build.success().with_context(|| format!("{:?}\n{}", cluster.tally(), cluster.logs()))?;
        assert_eq!(local.differences(&bazel.outputs()?), Vec::<String>::new());
        builds += 1;
        done += cluster.tally().sum();
    }
    println!("{done} kills: {builds} builds were green");
    Ok(())
}

/// Strikes whenever some actions have ended since the last time, at most so often.
fn strike_until_it_ends(cluster: &mut Cluster, mut building: Running, most: usize) -> Result<Build> {
    while cluster.tally().sum() < most {
        let ended = |cluster: &Cluster| -> Result<u64> {
            figures(cluster.server())?["executions"]["executed"].as_u64().context("a figure")
        };
        // A server that was started again counts anew.
        let goal = ended(cluster)? + 1 + cluster.chosen(CALM) as u64;
        let moment = || match (building.ended()?, ended(cluster)? >= goal) {
            (Some(_), _) => Ok(Some(false)),
            (None, reached) => Ok(reached.then_some(true)),
        };
        if !wait_until("actions that end", Duration::from_secs(240), moment)? {
            break;
        }
        cluster.strike()?;
    }
    Build::of(building)
}
