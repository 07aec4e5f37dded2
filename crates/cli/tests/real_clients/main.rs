//! Real clients against the real binary: Bazel 4.2.3 and 2.1.0, ccache, buildbox-casd. They download nothing; where
//! one is absent the test fails and names `cargo xtask setup`.
//!
//! Every test has a Mortar of its own on a free port of the loopback, with its data in a temporary directory, and a
//! Bazel of its own. Tests tell what a client saw (what ran where, which bytes came out), never timings.

mod bazel_cache;
mod bazel_execution;
mod bazel_faults;
mod bazel_v2;
mod casd;
mod ccache;
mod companion;
mod companion_abroad;
mod companion_in_trouble;
mod companion_works;
mod dynamic;
mod endpoints;
mod foreign_http_cache;
mod foreign_server;
mod full_store;
mod gate;
mod grpc_log;
mod http_over_grpc;
mod image;
mod kill_under_load;
mod lost_blobs;
mod persistent_workers;
mod random_kills;
mod repository_rules;
mod server_logs;
mod sharing;
mod test_rules;
#[allow(dead_code)]
#[path = "../../../companion/tests/companion/upstream.rs"]
mod upstream;

use std::time::Duration;

use anyhow::Context;
use mortar_testkit::bazel::Processes;
use mortar_testkit::mortar::Mortar;
use mortar_testkit::process::wait_until;

/// The binary under test.
const MORTAR: &str = env!("CARGO_BIN_EXE_mortar");

/// A `mortar up` on a data directory that goes with it.
struct Up {
    mortar: Mortar,
    _dir: tempfile::TempDir,
}

fn up() -> anyhow::Result<Up> {
    let dir = tempfile::tempdir()?;
    Ok(Up { mortar: Mortar::up(MORTAR, &dir.path().join("data"))?, _dir: dir })
}

/// The figures of a server's status page.
fn figures(server: &Mortar) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_slice(&mortar_testkit::http::get(server.address(), "/status.json")?.body)?)
}

/// Waits until the executions of a server are like this.
fn wait_for(server: &Mortar, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> anyhow::Result<()> {
    let reached = || Ok(holds(&figures(server)?["executions"]).then_some(()));
    wait_until(what, Duration::from_secs(120), reached).with_context(|| format!("{:?}", figures(server)))
}

#[track_caller]
fn assert_all_remote(processes: &Processes) {
    assert!(processes.spawns() > 0, "nothing ran: {processes:?}");
    assert_eq!(processes.remote(), processes.spawns(), "not every spawn was remote: {processes:?}");
}

#[track_caller]
fn assert_all_cached(processes: &Processes) {
    assert!(processes.spawns() > 0, "nothing ran: {processes:?}");
    assert_eq!(processes.cached(), processes.spawns(), "not every spawn was a hit: {processes:?}");
}

#[track_caller]
fn assert_all_local(processes: &Processes) {
    assert!(processes.spawns() > 0, "nothing ran: {processes:?}");
    assert_eq!(processes.local(), processes.spawns(), "not every spawn was local: {processes:?}");
}
