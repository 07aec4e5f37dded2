//! `cargo xtask demo`: for somebody who has no Bazel at hand. Gets one from the registries, starts Mortar, builds a
//! sample remotely, cleans, builds it again from the cache, and tells what ran where.

use anyhow::{Context, Result, ensure};
use mortar_testkit::{
    bazel::{Bazel, Processes, Project},
    http,
    mortar::Mortar,
};
use std::time::{Duration, Instant};

/// One build of the sample, as the table shows it.
struct Row {
    what: &'static str,
    processes: Processes,
    took: Duration,
    received: u64,
    sent: u64,
}

/// Builds, prints, cleans up.
pub fn run() -> Result<()> {
    crate::setup::bazel()?;
    say("building mortar (release)");
    let program = crate::release::binary()?;
    let directory = tempfile::tempdir()?;
    say("starting mortar up");
    let mortar = Mortar::up(&program, &directory.path().join("data"))?;
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", mortar.grpc())]);
    say("the sample is crates/testkit/workspaces/mixed; a first Bazel server takes some seconds to start");

    let steps: [(&str, &[&str]); 3] = [
        ("first build and test", &[]),
        ("again, after `bazel clean`", &[]),
        ("again, --remote_download_minimal", &["--remote_download_minimal"]),
    ];
    let mut rows = Vec::new();
    for (what, flags) in steps {
        say(what);
        rows.push(measure(&bazel, &mortar, what, flags)?);
        bazel.clean()?;
    }
    print(&rows);
    println!(
        "\nThe same for your own workspace: run `mortar up` and paste the lines that it prints into your .bazelrc."
    );
    Ok(())
}

fn measure(bazel: &Bazel, mortar: &Mortar, what: &'static str, flags: &[&str]) -> Result<Row> {
    let before = traffic(mortar)?;
    let began = Instant::now();
    let processes = bazel.test(flags, &["//..."])?.success()?.clone();
    let took = began.elapsed();
    let after = traffic(mortar)?;
    Ok(Row { what, processes, took, received: after.0 - before.0, sent: after.1 - before.1 })
}

/// Bytes that the server has received and sent by now.
fn traffic(mortar: &Mortar) -> Result<(u64, u64)> {
    let answer = http::get(mortar.address(), "/status.json")?;
    ensure!(answer.status == 200, "/status.json answered {}", answer.status);
    let figures: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let figure =
        |name: &str| figures["traffic"][name].as_u64().with_context(|| format!("no figure `{name}`"));
    Ok((figure("received_bytes")?, figure("sent_bytes")?))
}

fn print(rows: &[Row]) {
    println!();
    println!(
        "{:<34} {:>8} {:>8} {:>8} {:>9} {:>11} {:>11}",
        "build", "remote", "cached", "local", "time", "uploaded", "downloaded"
    );
    for row in rows {
        println!(
            "{:<34} {:>8} {:>8} {:>8} {:>7.1} s {:>11} {:>11}",
            row.what,
            row.processes.remote(),
            row.processes.cached(),
            row.processes.local(),
            row.took.as_secs_f64(),
            size(row.received),
            size(row.sent),
        );
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn say(line: &str) {
    eprintln!("demo: {line}");
}
