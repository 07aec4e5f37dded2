//! The real binary as a user meets it: what it prints where, how it ends, what it leaves on disk, how it takes Ctrl-C
//! and how much memory it needs.
#![allow(clippy::unwrap_used)]

mod action;
mod bazelrc;
mod bench;
mod care;
mod companion;
mod companion_tls;
mod credential_helper;
mod disk;
mod endings;
mod failures;
mod help;
mod images;
mod introspection;
mod logs;
mod memory;
mod places;
mod precedence;
mod restarts;
mod signals;
#[allow(dead_code)]
#[path = "../../../companion/tests/companion/upstream.rs"]
mod upstream;
mod usage;

use mortar_testkit::process::{self, Finished};
use std::{path::Path, process::Command, time::Duration};

/// The binary under test.
const MORTAR: &str = env!("CARGO_BIN_EXE_mortar");

/// The longest that anything may take that ends by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// `mortar` with these arguments in `directory`, and an environment in which no setting can hide.
fn mortar(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(MORTAR);
    command.current_dir(directory).args(arguments).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", directory);
    command
}

/// Runs it to its end.
fn run(directory: &Path, arguments: &[&str]) -> Finished {
    process::run(&mut mortar(directory, arguments), LIMIT).unwrap()
}

/// That it ended with this code, said exactly this and printed nothing.
#[track_caller]
fn assert_refused(finished: &Finished, code: i32, stderr: &str) {
    let Finished { status, stdout, stderr: said } = finished;
    assert_eq!(said, stderr, "stderr; {status}");
    assert_eq!((status.code(), stdout.as_str()), (Some(code), ""), "{said}");
}
