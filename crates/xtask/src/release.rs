//! The `mortar` that demonstrations and measurements run: a release build of this checkout, made if need be.

use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, process::Command};

/// Builds it and says where it is.
pub fn binary() -> Result<PathBuf> {
    build(&["--package", "mortar-cli"])
}

/// The same of an example.
pub fn example(package: &str, name: &str) -> Result<PathBuf> {
    build(&["--package", package, "--example", name])
}

fn build(what: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(what)
        .current_dir(crate::root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "{what:?} does not build");
    let messages = String::from_utf8(output.stdout)?;
    let artifacts =
        messages.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable =
        artifacts.into_iter().find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    executable.context("cargo told of no executable")
}
