//! `cargo xtask test`: everything that CI checks, in the order in which it fails fastest.

use anyhow::{Context, bail};
use std::process::Command;

/// Runs all of it; the first failure ends it.
pub fn run() -> anyhow::Result<()> {
    step("formatting", cargo(&["fmt", "--all", "--check"]))?;
    crate::codegen::run(true)?;
    step("lints", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    crate::setup::run()?;
    step("tests", cargo(&["test", "--workspace"]))?;
    eprintln!("all is well");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::root());
    command
}

fn step(name: &str, mut command: Command) -> anyhow::Result<()> {
    eprintln!("== {name}");
    let status = command.status().with_context(|| format!("{name}: cannot be run"))?;
    if !status.success() {
        bail!("{name}: failed with {status}");
    }
    Ok(())
}
