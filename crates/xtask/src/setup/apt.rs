//! Debian packages: what the tests need, what is missing, and how it gets installed.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{execute, say, works};

/// Bazel 4.2.3 and the rule repositories it needs offline, the other clients, and what their builds call.
const PACKAGES: &[&str] = &[
    // Programs without a service.
    "apache2-bin",
    "bazel-bootstrap",
    "bazel-bootstrap-source",
    "bazel-skylib",
    "bazel-platforms",
    "bazel-rules-cc",
    "bazel-rules-java",
    "bazel-rules-proto",
    "ccache",
    "debootstrap",
    "dpkg-dev",
    "g++",
    "python-is-python3",
    "python3",
    "zip",
];

/// The packages of the tests, and those of package managers that the machine lacks.
pub fn wanted() -> Vec<&'static str> {
    let mut packages = PACKAGES.to_vec();
    if !works("npm", &["--version"]) {
        packages.push("npm");
    }
    if !works("python3", &["-m", "pip", "--version"]) {
        packages.push("python3-pip");
    }
    packages
}

/// Installs those of `packages` that are missing; without root it says which command would.
pub fn ensure(packages: &[&'static str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        say("Debian packages: all there");
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root()? {
        bail!(
            "these Debian packages are missing: {list}\n\
             Hint: install them with `sudo apt-get update && sudo apt-get install --no-install-recommends {list}`, \
             then run `cargo xtask setup` again"
        );
    }
    say(&format!("Debian packages: installing {list}"));
    execute(apt_get().arg("update"))?;
    execute(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))?;
    Ok(())
}

/// `apt-get`, asking nothing.
pub fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Acquire::Retries=3"]);
    command
}

fn missing(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package}\n"])
        .output()
        .context("cannot run `dpkg-query`: the tests with real clients need a Debian-like system")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let installed: std::collections::HashSet<&str> =
        listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Whether we may install packages.
pub fn is_root() -> Result<bool> {
    Ok(execute(Command::new("id").arg("-u"))?.trim() == "0")
}
