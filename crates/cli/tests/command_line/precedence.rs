//! Flags win over the environment, the environment over the file, the file over defaults.

use crate::{LIMIT, mortar};
use mortar_testkit::process::Running;
use std::{fs, path::Path, process::Command};

#[test]
fn where_it_listens_is_taken_from_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mortar.toml"), "listen = \"unix:by-file\"\nslots = 3\n").unwrap();
    let start = |name: &str| {
        let mut command = mortar(directory.path(), &["up", "--config", "mortar.toml", "--dir", name]);
        command.env("MORTAR_DIR", "by-variable-and-never-made");
        command
    };
    assert_eq!(told(&mut start("first")), url(directory.path(), "by-file"));
    let mut second = start("second");
    second.env("MORTAR_LISTEN", "unix:by-variable");
    assert_eq!(told(&mut second), url(directory.path(), "by-variable"));
    second.args(["--listen", "unix:by-flag"]);
    assert_eq!(told(&mut second), url(directory.path(), "by-flag"));
    assert!(!directory.path().join("by-variable-and-never-made").exists());
}

#[test]
fn slots_come_from_the_variable_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mortar.toml"), "listen = \"127.0.0.1:0\"\nslots = 3\n").unwrap();
    for (variable, slots) in [(None, "slots=3"), (Some("5"), "slots=5")] {
        let mut command = mortar(directory.path(), &["up", "--config", "mortar.toml", "--dir", "data"]);
        command.envs(variable.map(|slots| ("MORTAR_SLOTS", slots)));
        let mut running = Running::start(&mut command).unwrap();
        running.wait_for_output(slots, LIMIT).unwrap();
    }
}

#[test]
fn the_default_directory_is_in_the_users_data() {
    let directory = tempfile::tempdir().unwrap();
    told(&mut mortar(directory.path(), &["up", "--listen", "127.0.0.1:0"]));
    assert!(directory.path().join(".local/share/mortar/store").is_dir());
    let mut command = mortar(directory.path(), &["up", "--listen", "127.0.0.1:0"]);
    told(command.env("XDG_DATA_HOME", directory.path().join("xdg")));
    assert!(directory.path().join("xdg/mortar/store").is_dir());
}

fn url(directory: &Path, socket: &str) -> String {
    format!("unix:{}", directory.canonicalize().unwrap().join(socket).display())
}

/// The URL of the ready line. What was started ends with this call.
fn told(command: &mut Command) -> String {
    let mut running = Running::start(command).unwrap();
    running.wait_for_output("\n\n", LIMIT).unwrap();
    let stdout = running.stdout().unwrap();
    stdout.lines().next().unwrap().strip_prefix("ready ").unwrap().to_owned()
}
