//! Servers, workers, their network, their disks and their clocks fail, as processes of the real binary: every action
//! ends, with the right result or with an error that says what is the matter.
//!
//! What Bazel sees of such faults stands in `real_clients`, what the journal of operations does in
//! `command_line/restarts.rs`.
#![allow(clippy::unwrap_used)]

mod clock;
mod full_disk;
mod half_open;
mod kills;
mod slow;
mod task;

use mortar_testkit::{http, mortar::Mortar, process::wait_until};
use serde_json::Value;
use std::time::Duration;

/// The binary under test.
const MORTAR: &str = env!("CARGO_BIN_EXE_mortar");
/// Far more than anything may take.
const LIMIT: Duration = Duration::from_secs(120);

fn figures(server: &Mortar) -> Value {
    let page = http::get(server.address(), "/status.json").unwrap();
    serde_json::from_slice(&page.body).unwrap()
}

/// A figure of what the server did since its start.
fn executions(server: &Mortar, figure: &str) -> u64 {
    figures(server)["executions"][figure].as_u64().unwrap()
}

/// Waits until a figure is what is expected.
fn wait_for(server: &Mortar, figure: &str, expected: u64) {
    let reached = || Ok((executions(server, figure) == expected).then_some(()));
    wait_until(&format!("{expected} {figure}"), LIMIT, reached)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", figures(server), server.log().unwrap()));
}
